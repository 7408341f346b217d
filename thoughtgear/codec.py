"""Encrypts what Temporal is sent: a payload codec with AES-256-GCM, named keys and their rotation.

    client = await Client.connect("localhost:7233", data_converter=codec.data_converter())

An encrypted payload has the metadata `encoding: binary/encrypted` and `encryption-key-id: ID`. Its data is
a nonce of 12 random bytes, the ciphertext and a tag of 16 bytes; what is encrypted is the original payload
as protobuf. The associated data is `binary/encrypted:ID`, so that nobody can pass it off as another key's.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.converter import (
    CompositePayloadConverter,
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    DefaultPayloadConverter,
    EncodingPayloadConverter,
    PayloadCodec,
)

from thoughtgear import registry
from thoughtgear.environment import switch
from thoughtgear.errors import ConfigurationError, DecryptionError, PlaintextRefusedError, UnknownKeyError

KEYS, REQUIRED = "THOUGHTGEAR_CODEC_KEYS", "THOUGHTGEAR_CODEC_REQUIRED"
"""The environment variables: `id:base64,id:base64,…`, where the first key encrypts, and 1 or 0."""

ENCODING, KEY_ID = "binary/encrypted", "encryption-key-id"
NONCE_BYTES, KEY_BYTES = 12, 32

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

C = TypeVar("C", bound=Client)


class EncryptionCodec(PayloadCodec):
    """Encrypts with the first key, decrypts with the one that the payload names.

    `keys` are by id (letters, digits, `.`, `_`, `-`; it travels in clear), each of 32 bytes or their base64.
    What is not encrypted is passed on as it is, so that runs from before go on, unless `required`. Decoding
    raises `UnknownKeyError`, `DecryptionError` and, where encryption is required, `PlaintextRefusedError`.
    Raises `ConfigurationError` for keys that can't work.
    """

    def __init__(self, keys: Mapping[str, bytes | str], *, required: bool = False) -> None:
        if not keys:
            raise ConfigurationError("A codec needs a key; the first one encrypts.")
        aead = registry.load("cryptography.hazmat.primitives.ciphers.aead:AESGCM")
        self._ciphers = {_checked_id(name): aead(_key(f"Key {name!r}", key)) for name, key in keys.items()}
        self._current = next(iter(keys))
        self.required = required

    def __repr__(self) -> str:
        return f"EncryptionCodec(key_ids={self.key_ids}, required={self.required})"

    @property
    def key_ids(self) -> list[str]:
        """The ids of the keys; the first one encrypts."""
        return list(self._ciphers)

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypt each payload with the current key."""
        return [self._encrypted(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Decrypt each payload with its key."""
        return [self._decrypted(payload) for payload in payloads]

    def _encrypted(self, payload: Payload) -> Payload:
        name = self._current
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._ciphers[name].encrypt(nonce, payload.SerializeToString(), _associated(name))
        return Payload(
            metadata={"encoding": ENCODING.encode(), KEY_ID: name.encode()},
            data=nonce + sealed,
        )

    def _decrypted(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != ENCODING.encode():
            if self.required:
                raise PlaintextRefusedError
            return payload
        name = _key_id(payload)
        if name not in self._ciphers:
            raise UnknownKeyError(f"{_sealed(name)} This process has: {', '.join(self.key_ids)}.")
        try:
            return Payload.FromString(self._opened(name, payload.data))
        except DecodeError:
            raise DecryptionError from None

    def _opened(self, name: str, data: bytes) -> bytes:
        nonce, sealed = data[:NONCE_BYTES], data[NONCE_BYTES:]
        try:
            opened: bytes = self._ciphers[name].decrypt(nonce, sealed, _associated(name))
        except Exception as exc:  # InvalidTag, or ValueError for a nonce that was cut
            raise DecryptionError(
                f"The payload can't be decrypted with key {name!r}: that is another key here, or the payload "
                f"was changed ({type(exc).__name__})."
            ) from None
        return opened


def data_converter(
    keys: Mapping[str, bytes | str] | None = None, *, required: bool | None = None
) -> DataConverter:
    """Return a data converter that encrypts payloads, and the messages and stack traces of failures.

    `keys` and `required` are those of `EncryptionCodec`; None takes them from `THOUGHTGEAR_CODEC_KEYS` and
    `THOUGHTGEAR_CODEC_REQUIRED`. Raises `ConfigurationError`, also where there are no keys.
    """
    required = required_by_environment() if required is None else required
    return DataConverter(
        payload_codec=EncryptionCodec(keys_from_environment() if keys is None else keys, required=required),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )


def converter_from_environment() -> DataConverter:
    """Return `data_converter()` where there are keys in the environment, else one that does not encrypt and
    says what is missing when it meets an encrypted payload. Raises `ConfigurationError`."""
    if os.environ.get(KEYS) or required_by_environment():
        return data_converter()
    return replace(DataConverter.default, payload_converter_class=_PlainConverter)


def require_codec(client: C) -> C:
    """Return the client. Raises `ConfigurationError` where the environment requires encryption and this
    client, which somebody else connected, has no codec at all."""
    if client.data_converter.payload_codec is None and required_by_environment():
        raise ConfigurationError(
            f"{REQUIRED} is set and this Temporal client has no payload codec; "
            "connect it with data_converter=thoughtgear.codec.data_converter()."
        )
    return client


def keys_from_environment() -> dict[str, bytes]:
    """Return the keys of `THOUGHTGEAR_CODEC_KEYS`, in order. Raises `ConfigurationError`, which never quotes
    the variable."""
    text = os.environ.get(KEYS, "").strip()
    if not text:
        raise ConfigurationError(f"There are no keys; set {KEYS} to id:base64 (openssl rand -base64 32).")
    keys: dict[str, bytes] = {}
    for number, entry in enumerate(text.split(","), 1):
        name, colon, key = entry.strip().partition(":")
        if not colon or not _ID.fullmatch(name) or name in keys:
            raise ConfigurationError(
                f"Entry {number} of {KEYS} has no id of its own; write id:base64,id:base64 with ids of "
                "letters, digits, '.', '_' and '-'."
            )
        keys[name] = _key(f"Key {name!r} of {KEYS}", key)
    return keys


def required_by_environment() -> bool:
    """Return whether `THOUGHTGEAR_CODEC_REQUIRED` is on. Raises `ConfigurationError`."""
    return switch(REQUIRED, os.environ.get(REQUIRED) or "0")


def _checked_id(name: str) -> str:
    if not _ID.fullmatch(name):
        raise ConfigurationError("A key's id is 1 to 64 letters, digits, '.', '_' and '-'.")
    return name


def _key(what: str, key: bytes | str) -> bytes:
    if isinstance(key, str):
        text = key.strip().translate(str.maketrans("-_", "+/")).rstrip("=")
        try:
            key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise ConfigurationError(f"{what} is no base64; make one with: openssl rand -base64 32") from None
    if len(key) != KEY_BYTES:
        raise ConfigurationError(
            f"{what} has {len(key)} bytes, not 32; make one with: openssl rand -base64 32"
        )
    return key


def _associated(name: str) -> bytes:
    return f"{ENCODING}:{name}".encode()


def _key_id(payload: Payload) -> str:
    """The id, if it is one: a stranger's metadata may hold anything."""
    name = payload.metadata.get(KEY_ID, b"").decode(errors="replace")
    return name if _ID.fullmatch(name) else ""


def _sealed(name: str) -> str:
    return (
        f"The payload is encrypted with key {name!r}."
        if name
        else "The payload is encrypted by something else."
    )


class _Sealed(EncodingPayloadConverter):
    """Stands for encrypted payloads where there are no keys."""

    @property
    def encoding(self) -> str:
        return ENCODING

    def to_payload(self, value: Any) -> Payload | None:
        return None

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        raise UnknownKeyError(f"{_sealed(_key_id(payload))} This process has no keys; set {KEYS}.")


class _PlainConverter(CompositePayloadConverter):
    """Temporal's own converter, and a word on payloads that are encrypted."""

    def __init__(self) -> None:
        super().__init__(*DefaultPayloadConverter.default_encoding_payload_converters, _Sealed())
