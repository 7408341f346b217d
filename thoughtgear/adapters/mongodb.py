"""A store in MongoDB. How a commit works: `mongodb_runs`.

The tests run it on a server of MongoDB's wire protocol with MongoDB's storage engine (WiredTiger), as a
replica set of one member and as a standalone server; not on MongoDB itself, and through no failover.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from thoughtgear.adapters.layout import LAYOUT
from thoughtgear.adapters.mongodb_chunks import Database
from thoughtgear.adapters.mongodb_database import MongoDatabase
from thoughtgear.adapters.mongodb_documents import Documents
from thoughtgear.adapters.mongodb_runs import Commit, Listed, Runs
from thoughtgear.adapters.mongodb_settings import MongoSettings
from thoughtgear.adapters.records import (
    ALL_RUNS,
    Position,
    check_commit,
    check_key,
    check_place,
    check_range,
    check_span,
    check_value,
    cut_page,
    decode_listed,
    decode_message,
    decode_state,
    encode,
    position,
    read_cursor,
)
from thoughtgear.errors import RunNotFoundError
from thoughtgear.locations import Location
from thoughtgear.models import Message, RunState
from thoughtgear.protocols import Collection, Document, Reach, RunFilter, RunPage, SchemaUpgrade

_STORE = "mongodb"
_BATCH = 500


class MongoAdapter:
    """Keeps each run as a document with its newest messages, and the older ones as documents of their own.
    Needs no transactions. Collections and indexes are made by the first use."""

    reach: Reach = "network"

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database

    def __repr__(self) -> str:
        return f"MongoAdapter({self._database})"

    @classmethod
    def from_url(cls, url: str) -> MongoAdapter:
        """Make a store from `mongodb://user:password@host:port/database?option=value`, or `mongodb+srv://…`.

        The options are those of MongoDB, and `create`. Raises `ConfigurationError`, which never repeats the
        URL.
        """
        return cls(MongoDatabase(MongoSettings.from_url(url)))

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> MongoAdapter:
        """Make a store from `{"url": …}`, with `database`, `username`, `password` and `create`
        beside it."""
        return cls(MongoDatabase(MongoSettings.from_dict(settings)))

    @property
    def location(self) -> Location:
        """Where the database is."""
        return self._database.location

    async def load_run(self, run_id: str) -> RunState:
        check_key(run_id)
        body = await self._database.read(lambda database: Runs(database).state(run_id))
        if body is None:
            raise RunNotFoundError(f"There is no run {run_id} in this store.")
        return decode_state(body)

    async def save_run(
        self, state: RunState, messages: Sequence[Message], *, expected: int | None = None
    ) -> None:
        base, first = check_commit(state, messages, expected)
        searched = {
            "status": state.status,
            "handler": state.handler,
            "session_id": state.session_id,
            "user_id": state.user_id,
            "created_at": position(state)[0],
        }
        bodies = [encode(message) for message in messages]
        commit = Commit(state.run_id, state.version, base, first, searched, encode(state), bodies)
        await self._database.write(lambda database: Runs(database).commit(commit))

    async def list_runs(
        self, where: RunFilter = ALL_RUNS, *, after: str | None = None, limit: int = 100
    ) -> RunPage:
        start = read_cursor(_STORE, after, limit)
        found: list[RunState] = []
        damaged: dict[str, str] = {}
        # Metadata is compared here, as in the other stores; batch by batch.
        size = _BATCH if where.metadata else limit + 1
        while len(found) <= limit:
            listing = partial(_listed, where=where, start=start, limit=size, damaged=damaged)
            batch = await self._database.read(listing)
            states = [decode_listed(body, at[1], damaged) for at, body in batch if body is not None]
            found += [state for state in states if state and where.matches_metadata(state)]
            if len(batch) < size:
                break
            start = batch[-1][0]
        return cut_page(found, limit, _STORE, damaged)

    async def delete_run(self, run_id: str) -> None:
        check_key(run_id)
        await self._database.write(lambda database: Runs(database).delete(run_id))

    async def get_history(self, run_id: str, after: int = -1, limit: int | None = None) -> list[Message]:
        above, count = check_span(run_id, after, limit)
        bodies = await self._database.read(lambda database: Runs(database).history(run_id, above, count))
        return [decode_message(body) for body in bodies]

    async def get_document(self, collection: Collection, key: str) -> Document | None:
        check_place(collection, key)
        return await self._database.read(lambda database: Documents(database, collection).get(key))

    async def put_document(
        self, collection: Collection, key: str, value: bytes | None, *, tag: str | None
    ) -> str | None:
        check_place(collection, key)
        data = check_value(value, tag)
        return await self._database.write(
            lambda database: Documents(database, collection).put(key, data, tag)
        )

    async def list_documents(
        self, collection: Collection, prefix: str = "", *, after: str = "", limit: int = 1000
    ) -> list[str]:
        limit = check_range(collection, prefix, after, limit)
        return await self._database.read(
            lambda database: Documents(database, collection).keys(prefix, after, limit)
        )

    async def upgrade(self) -> SchemaUpgrade:
        """Make the store where there is none. Raises `SchemaVersionError` for one of another version."""
        made = await self._database.make()
        return SchemaUpgrade(None if made else LAYOUT, LAYOUT)

    async def aclose(self) -> None:
        """Close the connections; closing twice is fine."""
        await self._database.aclose()


async def _listed(
    database: Database, where: RunFilter, start: Position | None, limit: int, damaged: dict[str, str]
) -> list[Listed]:
    return await Runs(database).listed(where, start, limit, damaged)
