"""The codec: what is sealed, what opens it, and what it says of keys."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.exceptions import ApplicationError

from thoughtgear import codec
from thoughtgear.codec import KEYS, REQUIRED, EncryptionCodec
from thoughtgear.errors import ConfigurationError, DecryptionError, PlaintextRefusedError, UnknownKeyError

OLD, NEW = b"o" * 32, bytes(range(32))
PLAIN = Payload(metadata={"encoding": b"json/plain"}, data=b'"a secret"')


def text(key: bytes) -> str:
    return base64.b64encode(key).decode()


async def sealed(keys: dict[str, bytes | str], payload: Payload = PLAIN) -> Payload:
    [made] = await EncryptionCodec(keys).encode([payload])
    return made


async def test_a_payload_comes_back_as_it_was() -> None:
    """What is encrypted holds nothing of the payload but its size, is never the same twice, and is decrypted
    to it, metadata included."""
    made, again = await sealed({"new": NEW}), await sealed({"new": NEW})
    [opened] = await EncryptionCodec({"new": NEW}).decode([made])
    assert made.metadata == {"encoding": b"binary/encrypted", "encryption-key-id": b"new"}
    assert b"secret" not in made.SerializeToString()
    assert b"json" not in made.SerializeToString()
    assert made.data != again.data
    assert opened == PLAIN


async def test_the_format_is_the_documented_one() -> None:
    """Nonce, ciphertext and tag in a row; the associated data is encoding and key id: so that a client in any
    language can speak it."""
    made = await sealed({"new": NEW})
    opened = AESGCM(NEW).decrypt(made.data[:12], made.data[12:], b"binary/encrypted:new")
    by_hand = Payload(
        metadata=made.metadata,
        data=b"n" * 12 + AESGCM(NEW).encrypt(b"n" * 12, PLAIN.SerializeToString(), b"binary/encrypted:new"),
    )
    assert Payload.FromString(opened) == PLAIN
    assert await EncryptionCodec({"new": NEW}).decode([by_hand]) == [PLAIN]


async def test_keys_rotate() -> None:
    """The first key encrypts; what an older one encrypted is still read, also in the middle of a list."""
    both = EncryptionCodec({"new": NEW, "old": OLD})
    [fresh] = await both.encode([PLAIN])
    assert fresh.metadata["encryption-key-id"] == b"new"
    assert await both.decode([await sealed({"old": OLD}), fresh, PLAIN]) == [PLAIN, PLAIN, PLAIN]


async def test_what_cannot_be_opened() -> None:
    """An unknown key, another key under a known id, a changed byte, a cut payload and another id: each is an
    error of its own that names the key's id, and no key."""
    made = await sealed({"new": NEW})
    changed = Payload(metadata=made.metadata, data=made.data[:-1] + bytes([made.data[-1] ^ 1]))
    cut = Payload(metadata=made.metadata, data=made.data[:5])
    renamed = Payload(metadata={**made.metadata, "encryption-key-id": b"old"}, data=made.data)
    foreign = Payload(metadata={"encoding": b"binary/encrypted", "encryption-key-id": b"a\nb"}, data=b"x")
    for keys, payload, error, says in [
        ({"old": OLD}, made, UnknownKeyError, "'new'.*This process has: old"),
        ({"old": OLD}, foreign, UnknownKeyError, "by something else"),
        ({"new": OLD}, made, DecryptionError, "'new'"),
        ({"new": NEW}, changed, DecryptionError, "'new'"),
        ({"new": NEW}, cut, DecryptionError, "'new'"),
        ({"new": NEW, "old": NEW}, renamed, DecryptionError, "'old'"),
    ]:
        with pytest.raises(error, match=says):
            await EncryptionCodec(keys).decode([payload])


async def test_plaintext_passes_unless_encryption_is_required() -> None:
    """A payload of an older run is read as it is; where encryption is required, it is refused."""
    keys = {"new": NEW}
    assert await EncryptionCodec(keys).decode([PLAIN]) == [PLAIN]
    with pytest.raises(PlaintextRefusedError):
        await EncryptionCodec(keys, required=True).decode([PLAIN])
    assert await EncryptionCodec(keys, required=True).decode([await sealed({"new": NEW})]) == [PLAIN]


async def test_failures_are_encrypted() -> None:
    """Message and stack trace of a failure, of its causes too, are in no field in clear."""

    def failing() -> None:
        try:
            raise ValueError("inner " + "secret")
        except ValueError as exc:
            raise ApplicationError("outer " + "secret", "detail " + "secret") from exc

    converter = codec.data_converter({"new": NEW})
    failure = Failure()
    with pytest.raises(ApplicationError) as caught:
        failing()
    await converter.encode_failure(caught.value, failure)
    assert b"secret" not in failure.SerializeToString()
    assert b"failing" not in failure.SerializeToString()
    back: Any = await converter.decode_failure(failure)
    assert (back.message, back.details, back.cause.message) == (
        "outer secret",
        ("detail secret",),
        "inner secret",
    )


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`id:base64,id:base64`, in either alphabet of base64, with blanks, in order; 1 requires encryption."""
    urlsafe = base64.urlsafe_b64encode(OLD).decode().rstrip("=")
    monkeypatch.setenv(KEYS, f" 2026.a:{text(NEW)} , old_1:{urlsafe} ")
    monkeypatch.setenv(REQUIRED, "1")
    made: Any = codec.data_converter().payload_codec
    assert codec.keys_from_environment() == {"2026.a": NEW, "old_1": OLD}
    assert repr(made) == "EncryptionCodec(key_ids=['2026.a', 'old_1'], required=True)"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", "There are no keys"),
        ("SECRETSECRET", "Entry 1 .* has no id"),
        (f"a:{text(NEW)},:SECRETSECRET", "Entry 2 .* has no id"),
        (f"a:{text(NEW)},a:SECRETSECRET", "Entry 2 .* of its own"),
        ("SECRET SECRET:a", "Entry 1"),
        ("a:SECRET!SECRET", "Key 'a' .* no base64"),
        ("a:SECRETSECRET", "Key 'a' .* 9 bytes, not 32"),
    ],
)
def test_keys_that_cannot_work(monkeypatch: pytest.MonkeyPatch, value: str, says: str) -> None:
    """A variable that can't be read is a ConfigurationError that says which entry, and quotes none."""
    monkeypatch.setenv(KEYS, value)
    with pytest.raises(ConfigurationError, match=says) as caught:
        codec.data_converter()
    assert "SECRET" not in str(caught.value)
    assert text(NEW) not in str(caught.value)


def test_keys_never_show() -> None:
    """Neither repr nor state of a codec or its converter shows a key, as bytes, hexadecimal or base64."""
    converter = codec.data_converter({"new": NEW})
    shown = f"{converter!r} {converter.payload_codec!r} {vars(converter.payload_codec or object())!r}"
    assert not [form for form in (NEW.hex(), text(NEW), repr(NEW)) if form in shown]


def test_a_required_codec_needs_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where encryption is required and there are no keys, nothing connects in clear."""
    monkeypatch.delenv(KEYS, raising=False)
    monkeypatch.setenv(REQUIRED, "yes")
    with pytest.raises(ConfigurationError, match=KEYS):
        codec.converter_from_environment()
    monkeypatch.setenv(REQUIRED, "perhaps")
    with pytest.raises(ConfigurationError, match=REQUIRED):
        codec.converter_from_environment()


async def test_without_keys_an_encrypted_payload_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without keys says which key it lacks and which variable to set; it encrypts nothing."""
    monkeypatch.delenv(KEYS, raising=False)
    monkeypatch.delenv(REQUIRED, raising=False)
    converter = codec.converter_from_environment()
    with pytest.raises(UnknownKeyError, match=f"'new'.* set {KEYS}"):
        await converter.decode([await sealed({"new": NEW})])
    assert await converter.decode(await converter.encode([{"a": 1}])) == [{"a": 1}]
    assert (await converter.encode(["a"]))[0].data == b'"a"'
