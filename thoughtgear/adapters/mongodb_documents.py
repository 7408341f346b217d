"""Documents in MongoDB: one document each, long values in chunks.

cache, memory, files: {_id: key, tag, body | apart}

A write compares the tag in its filter; the new tag is a fresh one, so that a write which the driver
repeated is recognised by it.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from pymongo.errors import DuplicateKeyError

from thoughtgear.adapters.mongodb_chunks import Chunks, Database
from thoughtgear.adapters.records import MAX_KEY_BYTES
from thoughtgear.errors import ConflictError, StoreError
from thoughtgear.protocols import Collection, Document

INLINE_BYTES = 8 * 2**20
_LAST = "\U0010ffff" * (MAX_KEY_BYTES // 4 + 1)
"""Sorts after whatever a key may have beyond its prefix."""


class Documents:
    """One collection of documents."""

    def __init__(self, database: Database, collection: Collection) -> None:
        self._name = collection
        self._documents = database[collection]
        self._chunks = Chunks(database)

    async def get(self, key: str) -> Document | None:
        """Return a document, or None."""
        seen = None
        while found := await self._documents.find_one({"_id": key}):
            bodies = await self._chunks.bodies([found])
            if bodies is not None:
                return Document(key, bytes(bodies[0]), found["tag"])
            if found["tag"] == seen:
                raise StoreError(f"A document in {self._name} is damaged: chunks of it are missing.")
            seen = found["tag"]
        return None

    async def put(self, key: str, value: bytes | None, tag: str | None) -> str | None:
        """Compare the tag and write. Raises `ConflictError`."""
        if value is None:
            await self._delete(key, tag)
            return None
        fresh = uuid4().hex
        row: dict[str, Any] = {"_id": key, "tag": fresh, "body": value}
        if len(value) > INLINE_BYTES:
            row |= {"body": None, "apart": await self._chunks.put(_place(self._name, key, fresh), value)}
        if not await (self._create(row) if tag is None else self._replace(row, tag)):
            await self._chunks.drop([row.get("apart")])
            raise ConflictError
        return fresh

    async def _create(self, row: dict[str, Any]) -> bool:
        try:
            await self._documents.insert_one(row)
        except DuplicateKeyError:
            return await self._is(row)
        return True

    async def _replace(self, row: dict[str, Any], tag: str) -> bool:
        old = await self._documents.find_one_and_replace(
            {"_id": row["_id"], "tag": {"$eq": tag}}, row, projection={"apart": 1}
        )
        if old is None:
            return await self._is(row)
        await self._chunks.drop([old.get("apart")])
        return True

    async def _is(self, row: dict[str, Any]) -> bool:
        found = await self._documents.find_one({"_id": row["_id"]}, {"tag": 1})
        return found is not None and found["tag"] == row["tag"]

    async def _delete(self, key: str, tag: str | None) -> None:
        if tag is None:
            if await self._documents.find_one({"_id": key}, {"_id": 1}):
                raise ConflictError
            return
        old = await self._documents.find_one_and_delete(
            {"_id": key, "tag": {"$eq": tag}}, projection={"apart": 1}
        )
        if old is None:
            raise ConflictError
        await self._chunks.drop([old.get("apart")])

    async def keys(self, prefix: str, after: str, limit: int) -> list[str]:
        """Return keys in order; MongoDB compares text by its UTF-8 bytes, which is by code point."""
        if limit < 1:
            return []
        bounds = {"$gt": after, "$gte": prefix, "$lt": prefix + _LAST}
        found = self._documents.find({"_id": bounds}, {"_id": 1}).sort("_id").limit(limit)
        return [row["_id"] async for row in found.batch_size(limit)]


def _place(collection: Collection, key: str, tag: str) -> str:
    return f"{collection}/{key}\n{tag}"
