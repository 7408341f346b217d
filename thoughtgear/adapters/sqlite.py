"""SQLite for the sql store: one connection, in one thread of its own."""

from __future__ import annotations

import errno
import math
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from thoughtgear.adapters import sql_version
from thoughtgear.adapters.layout import no_store
from thoughtgear.adapters.sql_schema import tables_of
from thoughtgear.adapters.sql_statement import DRIVER
from thoughtgear.adapters.sqlite_settings import SqliteSettings
from thoughtgear.adapters.threads import Threads
from thoughtgear.errors import ConfigurationError, StoreError, StoreUnavailableError
from thoughtgear.locations import Location, on_this_host
from thoughtgear.protocols import SchemaUpgrade

T = TypeVar("T")
_STEPS = 100_000
"""SQLite's instructions between two looks at the clock: a millisecond or so."""

_inherited: list[object] = []
"""Connections that a forked process got from its parent: closing one there could harm the parent's."""


class SqliteDatabase:
    """Runs each transaction whole, in the one thread that owns the connection.

    One hop per transaction: a hop per statement would cost several times the statement. Commits are
    durable when they are acknowledged (`synchronous=FULL`; in WAL mode NORMAL may lose the last ones when
    the power fails).
    """

    def __init__(self, settings: SqliteSettings) -> None:
        self._settings = settings
        self.tables = tables_of(settings.table_prefix)
        self._threads = Threads("thoughtgear-sqlite", 1)
        self._engine: Engine | None = None
        self._connection: Connection | None = None
        self._pid = 0
        self._time = _Time()

    def __repr__(self) -> str:
        return f"sqlite:///{self._settings.path}"

    @property
    def location(self) -> Location:
        """Where the file is."""
        return on_this_host("sqlite", self._settings.path, self.tables.prefix)

    async def read(self, txn: Callable[[Connection], T]) -> T:
        """Return what `txn` returns. It is one statement, so that it sees one state of the database."""
        return await self._threads.run(lambda: self._in_time(lambda: txn(self._connected())))

    async def write(self, txn: Callable[[Connection], T]) -> T:
        """Run `txn` and commit, or roll back when it raises."""
        return await self._threads.run(lambda: self._in_time(lambda: _transact(self._connected(), txn)))

    async def upgrade(self) -> SchemaUpgrade:
        """Bring the tables to the version of this code, or make them."""
        return await self._threads.run(lambda: self._translating(self._upgrade))

    async def aclose(self) -> None:
        """Close the connection and end the thread."""
        if not self._threads.closed:
            await self._threads.run(self._disconnect)
            self._threads.close()

    def _in_time(self, call: Callable[[], T]) -> T:
        self._time.allow(self._settings.command_timeout)
        return self._translating(call)

    def _translating(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except (IntegrityError, sqlite3.IntegrityError) as exc:
            raise StoreError("The database refused a row that breaks its rules.") from exc
        except (
            UnicodeError
        ):  # what SQLite says of a damaged file quotes it; so does Python's error about that
            self._disconnect()
            raise StoreError("The database's file is damaged: its text is not UTF-8.") from None
        except (SQLAlchemyError, sqlite3.Error) as exc:
            self._disconnect()
            raise _translated(exc) from exc

    def _connected(self) -> Connection:
        if self._connection is not None and self._pid != os.getpid():
            _inherited.append((self._engine, self._connection))
            self._connection = None
        if self._connection is None:
            self._connection = self._connect()
            self._pid = os.getpid()
        return self._connection

    def _connect(self) -> Connection:
        connection = self._open_file(create=self._settings.create)
        try:
            if not sql_version.check_version(self.tables, connection):
                if not self._settings.create:
                    raise sql_version.no_tables(self.tables)
                _transact(connection, partial(sql_version.make_tables, self.tables))
        except BaseException:
            connection.close()
            raise
        return connection

    def _upgrade(self) -> SchemaUpgrade:
        self._time.allow(math.inf)
        connection = self._open_file(create=True)
        try:
            return _transact(connection, partial(sql_version.upgrade, self.tables))
        finally:
            connection.close()

    def _open_file(self, *, create: bool) -> Connection:
        _touch(self._settings.path, create=create)
        self._engine = _engine(self._settings, self._time)
        return self._engine.connect()

    def _disconnect(self) -> None:
        if self._connection is not None and self._pid == os.getpid():
            self._connection.close()
        self._connection = None


class _Time:
    """The time that a transaction may take."""

    def __init__(self) -> None:
        self._until = math.inf

    def allow(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def is_up(self) -> bool:
        return time.monotonic() > self._until


_creating = threading.Lock()


def _touch(path: Path, *, create: bool) -> None:
    """Make an empty file that is ours alone: transcripts are private, and the WAL files take over its mode.
    Raises `ConfigurationError` where there is none and can be none.

    A file that is there is never opened, only looked at. A process that closes a file loses all the locks
    that it holds on it, SQLite's on another connection, too: a second process would take itself for the last
    one, delete the WAL, and with it whatever the first one commits from then on.
    """
    try:
        with _creating:
            if create and not path.exists():
                os.close(os.open(os.path.realpath(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
                return
        _check_file(path)
    except FileExistsError:  # another process was faster
        return
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigurationError(_absent(path)) from None
    except (IsADirectoryError, PermissionError) as exc:
        raise ConfigurationError(
            f"The database {path} can't be opened: {exc.strerror}. Name a file that you may write."
        ) from exc
    except OSError as exc:
        raise StoreUnavailableError(
            f"The database {path} can't be opened right now: {exc.strerror}."
        ) from exc


def _check_file(path: Path) -> None:
    """Raise what opening the file would."""
    if stat.S_ISDIR(path.stat().st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _absent(path: Path) -> str:
    if path.parent.is_dir():
        return str(no_store(f"There is no store {path}"))
    return f"The folder of the database {path} is not there: create it."


def _transact(connection: Connection, txn: Callable[[Connection], T]) -> T:
    driver = connection.info[DRIVER]
    driver.execute("BEGIN IMMEDIATE")
    try:
        result = txn(connection)
        driver.commit()
    except BaseException:
        driver.rollback()
        raise
    return result


def _engine(settings: SqliteSettings, allowed: _Time) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(settings.path)),
        isolation_level="AUTOCOMMIT",  # neither SQLAlchemy nor the driver begins anything: _transact does
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={"timeout": settings.lock_timeout, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
        record.info[DRIVER] = connection
        # Python's own decoder quotes the text that it can't decode.
        connection.text_factory = _text
        _use_wal(connection, settings.lock_timeout)
        connection.execute("PRAGMA synchronous=FULL")
        connection.set_progress_handler(allowed.is_up, _STEPS)

    return engine


def _text(data: bytes) -> str:
    """The text of a row. One that is damaged, so that it is no UTF-8, is no record to whoever reads it."""
    return data.decode("utf-8", "surrogateescape")


def _use_wal(connection: sqlite3.Connection, patience: float) -> None:
    """Switch to WAL. SQLite answers "locked" at once, without the busy timeout, when several connections
    do so at the same moment."""
    until = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def _translated(exc: SQLAlchemyError | sqlite3.Error) -> StoreError:
    # SQLite's own messages name tables and files, never values.
    reason = exc.orig if isinstance(exc, DatabaseError) else exc
    if not isinstance(reason, sqlite3.Error):
        return StoreError(f"SQLite failed: {type(exc).__name__}.")
    name = getattr(reason, "sqlite_errorname", "")
    if name == "SQLITE_INTERRUPT":
        return StoreUnavailableError("SQLite took longer than command_timeout allows.")
    # SQLITE_ERROR is a statement that this database can't run; all else may pass: busy, full, I/O.
    if isinstance(reason, sqlite3.OperationalError) and name != "SQLITE_ERROR":
        return StoreUnavailableError(f"SQLite can't be used right now: {reason}.")
    return StoreError(f"SQLite failed: {reason}.")
