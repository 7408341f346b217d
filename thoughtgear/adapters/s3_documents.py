"""Documents in the S3 store: one object each, written under the condition of its ETag.

    documents/<collection>/<key>     a line with the ids of its last writes, then the bytes

A key is written in base32hex, which keeps the order and fits in the 1,024 bytes that S3 has for a name.

S3 has no conditional DELETE everywhere, so a deletion puts a marker, under the same condition: the ids and no
line end, by which it is one byte too short to be a document. A creation replaces it by its ETag. Each write
draws an id, so that no two objects have equal bytes and no ETag comes back. A writer who is refused reads the
ids; when its own is among them, an earlier try was done, and up to `WRITES` - 1 others wrote since.
"""

from __future__ import annotations

import base64
from uuid import uuid4

from thoughtgear.adapters.s3_bucket import Bucket, Stored
from thoughtgear.errors import ConflictError, StoreUnavailableError
from thoughtgear.protocols import Document

WRITES = 4
TRIES = 20
"""How often a write is put on an object that the server says has changed, and has not."""

_ID = 16
_IDS = _ID * WRITES
_NONE = "0" * _IDS
_PART = 200
"""Servers that keep objects as files have no names over 255 bytes between two slashes."""


def key_text(key: str) -> str:
    """Return the key as a part of an object's name; it sorts as the key does."""
    return _parted(base64.b32hexencode(key.encode()).decode().rstrip("="))


def prefix_text(prefix: str) -> str:
    """Return what the texts of all keys with that prefix begin with; those of a few others may, too."""
    raw = prefix.encode()
    return _parted(base64.b32hexencode(raw).decode()[: len(raw) * 8 // 5])


def _parted(text: str) -> str:
    # The plus keeps a name from being both an object and the folder of another one.
    return "+/".join(text[start : start + _PART] for start in range(0, len(text), _PART))


def key_of(text: str) -> str | None:
    """Return the key that `key_text` made a text of; None for an object that is somebody else's."""
    plain = text.replace("+/", "")
    try:
        return base64.b32hexdecode(plain + "=" * (-len(plain) % 8)).decode()
    except ValueError:
        return None


class Documents:
    """All collections."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def get(self, collection: str, key: str) -> Document | None:
        """Return a document, or None."""
        found = await self._bucket.get(_place(collection, key))
        if found is None or _deleted(found):
            return None
        return Document(key, found.body[_IDS + 1 :], _tag(found.etag, _ids(found)))

    async def put(self, collection: str, key: str, value: bytes | None, tag: str | None) -> str | None:
        """Compare the tag and write, or raise `ConflictError`."""
        if value is None and tag is None:
            if await self.get(collection, key) is not None:
                raise ConflictError
            return None
        etag, ids = _untagged(tag)
        place, written = _place(collection, key), uuid4().hex[:_ID]
        for _ in range(TRIES):
            fresh = (written + ids)[:_IDS]
            body = fresh.encode() if value is None else b"%s\n%s" % (fresh.encode(), value)
            done = await self._bucket.put(place, body, etag)
            if done is not None:
                return None if value is None else _tag(done, fresh)
            found = await self._bucket.get(place)
            if found is not None and _wrote(found, written):
                return None if value is None else _tag(found.etag, _ids(found))
            if tag is None and (found is None or _deleted(found)):
                etag, ids = (found.etag, _ids(found)) if found else (None, _NONE)
            elif found is None or found.etag != etag:
                raise ConflictError
        raise StoreUnavailableError("The server refuses a write and does not say for which other one.")

    async def keys(self, collection: str, prefix: str, after: str, limit: int) -> list[str]:
        """Return keys in order."""
        folder = f"documents/{collection}/"
        keys: list[str] = []
        last = folder + key_text(after) if after else ""
        while len(keys) < limit and (found := await self._bucket.list(folder + prefix_text(prefix), last)):
            listed = (key_of(each.key[len(folder) :]) for each in found if each.size > _IDS)
            keys += [key for key in listed if key and key.startswith(prefix)]
            last = found[-1].key
        return keys[: max(limit, 0)]

    async def remove_below(self, collection: str, head: str) -> None:
        """Remove every document whose key begins with `head` and a slash."""
        folder = f"documents/{collection}/"
        await self._bucket.delete_below(
            folder + prefix_text(f"{head}/"),
            lambda name: (key_of(name[len(folder) :]) or "").startswith(f"{head}/"),
        )


def _place(collection: str, key: str) -> str:
    return f"documents/{collection}/{key_text(key)}"


def _ids(found: Stored) -> str:
    return found.body[:_IDS].decode()


def _deleted(found: Stored) -> bool:
    return len(found.body) == _IDS


def _wrote(found: Stored, written: str) -> bool:
    ids = _ids(found)
    return written in (ids[start : start + _ID] for start in range(0, _IDS, _ID))


def _tag(etag: str, ids: str) -> str:
    return f"{ids}{etag}"


def _untagged(tag: str | None) -> tuple[str | None, str]:
    """Return the ETag and the ids of a tag. Raises `ConflictError` for one that this store never gave."""
    if tag is None:
        return None, _NONE
    ids, etag = tag[:_IDS], tag[_IDS:]
    if len(ids) < _IDS or not ids.isalnum() or not etag.isascii() or not etag.isprintable() or not etag:
        raise ConflictError
    return etag, ids
