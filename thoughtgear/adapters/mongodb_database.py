"""The connection of a MongoDB store: PyMongo's asynchronous client, in an event loop of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

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

from thoughtgear.adapters.layout import LAYOUT, check_layout, no_store
from thoughtgear.adapters.loop_connection import Connected, LoopConnection
from thoughtgear.adapters.loop_thread import Begin
from thoughtgear.adapters.mongodb_chunks import Database
from thoughtgear.adapters.mongodb_settings import MongoSettings, connect
from thoughtgear.errors import (
    ConfigurationError,
    StoreError,
    StoreUnavailableError,
    ThoughtgearError,
)
from thoughtgear.locations import Location

T = TypeVar("T")
Work = Callable[[Database], Awaitable[T]]

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
        self._connected = Connected("thoughtgear-mongodb", lambda: _Connection(settings))

    def __repr__(self) -> str:
        return f"{self._settings.address}/{self._settings.database}"

    @property
    def location(self) -> Location:
        """Where the database is."""
        return self._settings.location

    async def read(self, work: Work[T]) -> T:
        """Return what `work` returns."""
        return await self._connected.run(lambda connection, begin: connection.run(work, _nothing))

    async def write(self, work: Work[T]) -> T:
        """Return what `work` returns; once it has begun, a cancelled caller waits for its end."""
        return await self._connected.run(lambda connection, begin: connection.run(work, begin))

    async def make(self) -> bool:
        """Make the store where there is none, and return whether that was so."""
        return await self._connected.run(lambda connection, begin: connection.make(begin))

    async def aclose(self) -> None:
        """Finish what is under way, close the connections and end the thread."""
        await self._connected.aclose()


class _Connection(LoopConnection):
    """The client of one process."""

    def __init__(self, settings: MongoSettings) -> None:
        super().__init__()
        self._settings = settings
        self._client = connect(settings.url, settings.login)
        self._database = self._client.get_database(
            settings.database,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern("majority", j=True),
        )

    async def run(self, work: Work[T], begin: Begin) -> T:
        with self._translating():
            async with self.in_use():
                begin()
                return await work(self._database)

    async def make(self, begin: Begin) -> bool:
        with self._translating():
            begin()
            return not await self._is_made() and await _make(self._database)

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except PyMongoError as exc:
            # The driver's own error may quote a document: what is safe of it is in the message.
            raise _translated(exc, self._settings.address) from None

    async def prepare(self) -> None:
        """Make the store where there is none and that is wanted. Raises `ConfigurationError` where it isn't,
        and `SchemaVersionError`."""
        if not await self._is_made():
            if not self._settings.create:
                raise no_store(f"There is no store in the {self._name}")
            await _make(self._database)

    @property
    def _name(self) -> str:
        return f"database {self._settings.database} at {self._settings.address}"

    async def _is_made(self) -> bool:
        found = await self._database["schema_version"].find_one({"_id": _LAYOUT_ID})
        if found is not None:
            check_layout(str(found.get("version")), f"The {self._name}", "database")
        return found is not None

    async def close(self) -> None:
        await self._client.close()


async def _make(database: Database) -> bool:
    """Make the indexes, then note the layout. Returns False where another process has done it meanwhile."""
    await database["run_states"].create_indexes(_INDEXES)
    try:
        await database["schema_version"].insert_one({"_id": _LAYOUT_ID, "version": LAYOUT})
    except DuplicateKeyError:
        return False
    return True


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
