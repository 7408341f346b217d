"""The connection of a MongoDB store: PyMongo's asynchronous client, in an event loop of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)
from pymongo.errors import (
    ConfigurationError as DriverConfigurationError,
)
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from thoughtgear.adapters.loop_thread import Begin, LoopThread
from thoughtgear.adapters.mongodb_chunks import Database
from thoughtgear.adapters.mongodb_settings import MongoSettings, connect
from thoughtgear.errors import (
    ConfigurationError,
    SchemaVersionError,
    StoreError,
    StoreUnavailableError,
    ThoughtgearError,
)

T = TypeVar("T")
Work = Callable[[Database], Awaitable[T]]

LAYOUT = 1
_LAYOUT_ID = "layout"

_REFUSALS = frozenset({13, 18, 8000})
"""Unauthorized, AuthenticationFailed, and Atlas's own form of both."""

_PASSING = frozenset(
    {6, 7, 24, 43, 46, 50, 64, 89, 91, 100, 112, 133, 134, 189, 202, 237, 262}
    | {9001, 10058, 10107, 11600, 11601, 11602, 13435, 13436, 14031}
)
"""Codes that a retry may mend: network, locks, time, shutdown and step-down, a lost cursor, a full disk."""

_newest_first = [("created_at", DESCENDING), ("_id", DESCENDING)]
_INDEXES = [
    IndexModel(_newest_first),
    *(
        IndexModel([(name, ASCENDING), *_newest_first])
        for name in ("status", "handler", "session_id", "user_id")
    ),
    # The server removes tombstones when their time is over.
    IndexModel("expires_at", expireAfterSeconds=0, sparse=True),
]


class MongoDatabase:
    """Runs each piece of work whole, in the loop that owns the connections.

    Every write is acknowledged by a majority and by the journal; every read is of the primary and of what a
    majority has. Whatever the URL says of these does not count. The driver sends a write once more where the
    server recognises the repetition (not a standalone one).
    """

    def __init__(self, settings: MongoSettings) -> None:
        self._settings = settings
        self._thread = LoopThread("thoughtgear-mongodb")
        self._connection: _Connection | None = None

    def __repr__(self) -> str:
        return f"{self._settings.address}/{self._settings.database}"

    async def read(self, work: Work[T]) -> T:
        """Return what `work` returns."""
        return await self._thread.run(lambda begin: self._open().run(work, _nothing))

    async def write(self, work: Work[T]) -> T:
        """Return what `work` returns; once it has begun, a cancelled caller waits for its end."""
        return await self._thread.run(lambda begin: self._open().run(work, begin))

    async def aclose(self) -> None:
        """Finish what is under way, close the connections and end the thread."""
        await self._thread.aclose(self._close)

    def _open(self) -> _Connection:
        if self._connection is None or self._connection.pid != os.getpid():
            _inherited.append(self._connection)
            self._connection = _Connection(self._settings)
        return self._connection

    async def _close(self, _begin: Begin) -> None:
        if self._connection is not None and self._connection.pid == os.getpid():
            await self._connection.aclose()


_inherited: list[object] = []
"""Clients that a forked process got from its parent: they are not its to close."""


class _Connection:
    """The client of one process. Used in the loop of the thread only."""

    def __init__(self, settings: MongoSettings) -> None:
        self.pid = os.getpid()
        self._address = settings.address
        self._client = connect(settings.url, settings.login)
        self._database = self._client.get_database(
            settings.database,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern("majority", j=True),
        )
        self._ready = False
        self._preparing = asyncio.Lock()
        self._under_way: set[asyncio.Task[Any] | None] = set()

    async def run(self, work: Work[T], begin: Begin) -> T:
        task = asyncio.current_task()
        self._under_way.add(task)
        try:
            await self._prepare()
            begin()
            return await work(self._database)
        except PyMongoError as exc:
            # The driver's own error may quote a document: what is safe of it is in the message.
            raise _translated(exc, self._address) from None
        finally:
            self._under_way.discard(task)

    async def aclose(self) -> None:
        under_way = [task for task in self._under_way if task is not None]
        if under_way:
            await asyncio.wait(under_way)
        await self._client.close()

    async def _prepare(self) -> None:
        """Make the indexes of an empty database. Raises `SchemaVersionError`."""
        if self._ready:
            return
        async with self._preparing:
            if not self._ready:
                await _prepare(self._database)
                self._ready = True


async def _prepare(database: Database) -> None:
    layouts = database["schema_version"]
    found = await layouts.find_one({"_id": _LAYOUT_ID})
    if found is None:
        await database["run_states"].create_indexes(_INDEXES)
        try:
            await layouts.insert_one({"_id": _LAYOUT_ID, "version": LAYOUT})
        except DuplicateKeyError:  # another process prepares it, too
            return await _prepare(database)
    elif found["version"] != LAYOUT:
        advice = "upgrade thoughtgear" if found["version"] > LAYOUT else "use a new database"
        raise SchemaVersionError(
            f"The database has layout {found['version']}, this thoughtgear works with {LAYOUT}: {advice}."
        )
    return None


def _nothing() -> None:
    """Begin what may be cancelled at any time."""


def _translated(exc: PyMongoError, address: str) -> ThoughtgearError:
    code = exc.code if isinstance(exc, OperationFailure) else None
    if code in _REFUSALS:
        return ConfigurationError(f"MongoDB at {address} refuses these settings: {_reason(exc)}.")
    if _may_pass(exc, code):
        return StoreUnavailableError(f"MongoDB at {address} can't be used right now: {_reason(exc)}.")
    return StoreError(f"MongoDB failed: {_reason(exc)}.")


def _may_pass(exc: PyMongoError, code: int | None) -> bool:
    if isinstance(exc, BulkWriteError) and exc.details is not None:
        return bool(exc.details.get("writeConcernErrors"))
    # With an error of the write concern the write was done, and may yet be undone. The driver's
    # ConfigurationError comes from a name that the DNS does not know now.
    unknown = isinstance(exc, ConnectionFailure | WriteConcernError | DriverConfigurationError)
    return unknown or exc.timeout or code in _PASSING or exc.has_error_label("RetryableWriteError")


def _reason(exc: PyMongoError) -> str:
    """Say what happened, without the server's words: they may hold a key."""
    details = exc.details if isinstance(exc, OperationFailure) else None
    name = (details or {}).get("codeName")
    code = exc.code if isinstance(exc, OperationFailure) else None
    return ", ".join(str(each) for each in (type(exc).__name__, name, code) if each)
