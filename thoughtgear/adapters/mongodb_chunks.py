"""What is too long for a document of MongoDB (16 MB): chunks in a collection of their own.

    chunks: {_id: "<place>\\n<number>", data}

A place belongs to one writing and is never written again. Its chunks are there before anything refers to
it, and go after nothing does. So a reader that finds them missing has an old reference: it reads the
referring document again. What a crash leaves unreferred goes with the run (or stays, harmless, for a document
that belongs to none).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

CHUNK_BYTES = 8 * 2**20

Database = AsyncDatabase[dict[str, Any]]
Record = Mapping[str, Any]
"""A document, or a part of one, that has a `body`, or in `apart` a reference to chunks."""


class Chunks:
    """The chunks of a database."""

    def __init__(self, database: Database) -> None:
        self._chunks = database["chunks"]

    async def put(self, place: str, data: bytes) -> dict[str, Any]:
        """Write chunks and return the reference to them."""
        parts = range(0, max(len(data), 1), CHUNK_BYTES)
        reference = {"place": place, "chunks": len(parts)}
        pieces = zip(_ids(reference), (data[at : at + CHUNK_BYTES] for at in parts), strict=True)
        await self._chunks.insert_many([{"_id": each, "data": piece} for each, piece in pieces])
        return reference

    async def bodies(self, records: Sequence[Record]) -> list[Any] | None:
        """Return the body of each; those apart as bytes. None: a chunk is not there, or no longer."""
        wanted = [each for record in records if record.get("apart") for each in _ids(record["apart"])]
        rows = await self._chunks.find({"_id": {"$in": wanted}}).to_list() if wanted else []
        found = {row["_id"]: row["data"] for row in rows}
        if len(found) < len(wanted):
            return None
        return [_body(record, found) for record in records]

    async def drop(self, references: Iterable[Mapping[str, Any] | None]) -> None:
        """Remove what these referred to. A failure is passed over: nobody sees these chunks any more."""
        ids = [each for reference in references if reference for each in _ids(reference)]
        if ids:
            with suppress(PyMongoError):
                await self._chunks.delete_many({"_id": {"$in": ids}})

    async def drop_below(self, prefix: str) -> None:
        """Remove the chunks of all places that begin so."""
        await self._chunks.delete_many({"_id": below(prefix)})


def _ids(reference: Mapping[str, Any]) -> list[str]:
    return [f"{reference['place']}\n{number:06d}" for number in range(reference["chunks"])]


def _body(record: Record, found: Mapping[str, bytes]) -> Any:
    if record.get("apart"):
        return b"".join(found[each] for each in _ids(record["apart"]))
    return record["body"]


def below(prefix: str) -> dict[str, str]:
    """Return the condition for ids that begin with `prefix`, whose last character is an ASCII one."""
    return {"$gte": prefix, "$lt": prefix[:-1] + chr(ord(prefix[-1]) + 1)}
