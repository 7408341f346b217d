"""What a store does with documents."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from thoughtgear.errors import ConflictError, InvalidInputError
from thoughtgear.protocols import Collection, OrmAdapter
from thoughtgear.testing.case import StoreCase

ODD_KEYS = [
    "plain",
    "Plain",
    "a/b",
    "a/b/",
    "/a",
    "a//b",
    ".",
    "..",
    "../x",
    "../../x",
    "a/../b",
    "100%",
    "100_",
    "%2e",
    "=2e",
    "a=b&c?d#e",
    "con",
    "nul.txt",
    "a b ",
    "ünï",
    "u\u0308",
    "\U0001d54a/🙂",
    "'; drop table files; --",
    "\\",
    "~",
    ":",
    "é" * 256,
    "k" * 512,
    "k" * 255 + "/" + "l" * 256,
]


class DocumentClauses(StoreCase):
    """`get_document`, `put_document` and `list_documents`."""

    async def test_an_absent_document_is_none(self, store: OrmAdapter) -> None:
        """Nothing is there before something is put."""
        assert await store.get_document("memory", "absent") is None
        assert await store.list_documents("memory") == []

    @pytest.mark.parametrize("value", [b"", b"\n", bytes(range(256)), b"x" * 5_000_000], ids=len)
    async def test_a_document_comes_back_byte_for_byte(self, store: OrmAdapter, value: bytes) -> None:
        """Any bytes are kept, none and five million included; the tag is the one that put gave."""
        tag = await store.put_document("files", "k", value, tag=None)
        found = await store.get_document("files", "k")
        assert found is not None
        assert (found.key, found.value, found.tag) == ("k", value, tag)

    async def test_a_document_is_created_once(self, store: OrmAdapter) -> None:
        """Creating over one that is there is a conflict, also with the same bytes."""
        await store.put_document("cache", "k", b"1", tag=None)
        for value in (b"1", b"2", None):
            with pytest.raises(ConflictError):
                await store.put_document("cache", "k", value, tag=None)
        assert await self._value(store, "cache", "k") == b"1"

    async def test_a_document_is_replaced_by_its_tag(self, store: OrmAdapter) -> None:
        """The current tag replaces, and every write makes a new tag, also of equal bytes."""
        first = await store.put_document("cache", "k", b"1", tag=None)
        second = await store.put_document("cache", "k", b"1", tag=first)
        assert second not in (None, first)
        await store.put_document("cache", "k", b"3", tag=second)
        assert await self._value(store, "cache", "k") == b"3"

    async def test_a_stale_tag_is_refused(self, store: OrmAdapter) -> None:
        """An older tag, one of another key and one that never was neither replace nor delete."""
        old = await store.put_document("cache", "k", b"1", tag=None)
        other = await store.put_document("cache", "other", b"1", tag=None)
        await store.put_document("cache", "k", b"2", tag=old)
        for tag in (old, other, "never"):
            for value in (b"3", None):
                with pytest.raises(ConflictError):
                    await store.put_document("cache", "k", value, tag=tag)
        assert await self._value(store, "cache", "k") == b"2"

    @pytest.mark.parametrize(
        "tag", ["", "\0", "\ud800", "é", "t\nx", "t" * 10_000], ids=lambda tag: ascii(tag)[:9]
    )
    async def test_a_tag_of_nobodys_is_a_conflict(self, store: OrmAdapter, tag: str) -> None:
        """A text that no store gives as a tag neither replaces nor deletes, whatever characters it has."""
        await store.put_document("cache", "k", b"1", tag=None)
        for value in (b"2", None):
            with pytest.raises(ConflictError):
                await store.put_document("cache", "k", value, tag=tag)
        assert await self._value(store, "cache", "k") == b"1"

    async def test_a_tag_needs_a_document(self, store: OrmAdapter) -> None:
        """A write with a tag to an absent key is a conflict and creates nothing."""
        for value in (b"1", None):
            with pytest.raises(ConflictError):
                await store.put_document("cache", "k", value, tag="some")
        assert await store.get_document("cache", "k") is None

    async def test_a_document_is_deleted_by_its_tag(self, store: OrmAdapter) -> None:
        """Deletion returns None and makes the key free; the tag of the deleted one stays worthless."""
        old = await store.put_document("memory", "k", b"1", tag=None)
        assert await store.put_document("memory", "k", None, tag=old) is None
        assert await store.get_document("memory", "k") is None
        assert await store.list_documents("memory") == []
        await store.put_document("memory", "k", b"1", tag=None)
        with pytest.raises(ConflictError):
            await store.put_document("memory", "k", b"2", tag=old)

    async def test_deleting_an_absent_document_does_nothing(self, store: OrmAdapter) -> None:
        """Absent is what was asked for."""
        assert await store.put_document("memory", "k", None, tag=None) is None
        assert await store.get_document("memory", "k") is None

    async def test_collections_are_apart(self, store: OrmAdapter) -> None:
        """The same key in three collections is three documents."""
        names: list[Collection] = ["cache", "memory", "files"]
        for name in names:
            await store.put_document(name, "k", name.encode(), tag=None)
        assert [await self._value(store, name, "k") for name in names] == [b"cache", b"memory", b"files"]

    async def test_keys_are_listed_by_prefix_in_order(self, store: OrmAdapter) -> None:
        """Keys come by code point, cut by prefix, `after` and limit; wildcards mean themselves."""
        keys = ["a", "a/1", "a/10", "a/2", "a%", "aXb", "a_b", "A", "b", "ab/c", "é", "\uffee", "\U0001d54a"]
        for key in keys:
            await store.put_document("memory", key, b"x", tag=None)
        for prefix in ["", "a", "a/", "a/1", "a%", "a_", "A", "é", "\uffee", "\U0001d54a", "none", "a/1/"]:
            expected = sorted(key for key in keys if key.startswith(prefix))
            assert await store.list_documents("memory", prefix) == expected
        listed = sorted(keys)
        for after in ["", "a", "a/1", "a/11", "\U0001d54a"]:
            beyond = [key for key in listed if key > after]
            assert await store.list_documents("memory", after=after, limit=4) == beyond[:4]
        assert await store.list_documents("memory", "a/", after="a/1", limit=1) == ["a/10"]

    async def test_any_key_is_kept_as_it_is(self, store: OrmAdapter) -> None:
        """Slashes, dots, wildcards, capitals and 512 bytes are parts of a key, not of a path or a query."""
        for key in ODD_KEYS:
            await store.put_document("files", key, key.encode(), tag=None)
        assert await store.list_documents("files") == sorted(ODD_KEYS)
        for key in ODD_KEYS:
            assert await self._value(store, "files", key) == key.encode()
            assert key in await store.list_documents("files", key)

    @pytest.mark.parametrize("key", ["", "k" * 513, "é" * 257, "a\nb", "a\0b", "\x7f", "\ud800"], ids=ascii)
    async def test_an_impossible_key_is_refused(self, store: OrmAdapter, key: str) -> None:
        """No key, one over 512 bytes, one with control characters and one that is not Unicode are invalid."""
        with pytest.raises(InvalidInputError):
            await store.put_document("files", key, b"x", tag=None)
        assert await store.list_documents("files") == []

    async def test_an_odd_argument_is_refused(self, store: OrmAdapter) -> None:
        """A collection that is none, a text in place of bytes, a key or a tag that is no text and a prefix
        that is not Unicode raise InvalidInputError, and nothing is written."""
        odd: Any = store
        values: list[object] = ["text", 5, [1], {}]
        calls = [
            *(partial(odd.get_document, name, "k") for name in ("runs", "../x", None, ["cache"])),
            partial(odd.put_document, "messages", "k", b"x", tag=None),
            partial(odd.list_documents, "Cache"),
            *(partial(odd.put_document, "cache", "k", value, tag=None) for value in values),
            *(partial(odd.get_document, "cache", key) for key in ("\ud800", 5, b"k", {"$ne": ""})),
            *(partial(odd.list_documents, "cache", text) for text in ("\ud800", 5, None)),
            *(
                partial(odd.list_documents, "cache", after=after)
                for after in ("\ud800", 5, None, b"k", ["k"])
            ),
            *(partial(odd.list_documents, "cache", limit=limit) for limit in ("5", None, 1.5, True)),
            *(
                partial(odd.put_document, "cache", "k", value, tag=tag)
                for value in (b"x", None)
                for tag in (5, b"tag", ["tag"], {"$ne": None}, True)
            ),
            partial(odd.load_run, 5),
        ]
        for call in calls:
            with pytest.raises(InvalidInputError):
                await call()
        assert await store.list_documents("cache") == []

    async def test_a_documents_value_is_a_copy(self, store: OrmAdapter) -> None:
        """Changing a buffer after the write changes nothing in the store."""
        value = bytearray(b"before")
        await store.put_document("cache", "k", value, tag=None)  # type: ignore[arg-type]  # a caller's mistake
        value[:] = b"after!"
        assert await self._value(store, "cache", "k") == b"before"

    async def _value(self, store: OrmAdapter, collection: Collection, key: str) -> bytes | None:
        found = await store.get_document(collection, key)
        return found.value if found else None
