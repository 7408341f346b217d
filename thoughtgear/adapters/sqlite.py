"""SQLite for the sql store: one connection, in one thread of its own."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from thoughtgear.adapters import sql_version
from thoughtgear.adapters.sql_schema import DRIVER
from thoughtgear.adapters.threads import Threads
from thoughtgear.errors import ConfigurationError, StoreError, StoreUnavailableError
from thoughtgear.protocols import SchemaUpgrade

T = TypeVar("T")
BUSY_SECONDS = 30.0

_inherited: list[object] = []
"""Connections that a forked process got from its parent: closing one there could harm the parent's."""


class SqliteDatabase:
    """Runs each transaction whole, in the one thread that owns the connection.

    One hop per transaction: a hop per statement would cost several times the statement. Commits are
    durable when they are acknowledged (`synchronous=FULL`; in WAL mode NORMAL may lose the last ones when
    the power fails).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._threads = Threads("thoughtgear-sqlite", 1)
        self._engine: Engine | None = None
        self._connection: Connection | None = None
        self._pid = 0

    def __repr__(self) -> str:
        return f"sqlite:///{self.path}"

    async def read(self, txn: Callable[[Connection], T]) -> T:
        """Return what `txn` returns. It is one statement, so that it sees one state of the database."""
        return await self._threads.run(lambda: self._translating(lambda: txn(self._connected())))

    async def write(self, txn: Callable[[Connection], T]) -> T:
        """Run `txn` and commit, or roll back when it raises."""
        return await self._threads.run(lambda: self._translating(lambda: _transact(self._connected(), txn)))

    async def upgrade(self) -> SchemaUpgrade:
        """Bring the tables to the version of this code, or make them."""
        return await self._threads.run(lambda: self._translating(self._upgrade))

    async def aclose(self) -> None:
        """Close the connection and end the thread."""
        if not self._threads.closed:
            await self._threads.run(self._disconnect)
            self._threads.close()

    def _translating(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except (IntegrityError, sqlite3.IntegrityError) as exc:
            raise StoreError("The database refused a row that breaks its rules.") from exc
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
        connection = self._open_file()
        try:
            if not sql_version.check_version(connection):
                _transact(connection, partial(sql_version.open_tables, create=True))
        except BaseException:
            connection.close()
            raise
        return connection

    def _upgrade(self) -> SchemaUpgrade:
        connection = self._open_file()
        try:
            return _transact(connection, sql_version.upgrade)
        finally:
            connection.close()

    def _open_file(self) -> Connection:
        self._create_file()
        self._engine = _engine(self.path)
        return self._engine.connect()

    def _create_file(self) -> None:
        """Make an empty file that is ours alone: transcripts are private, and the WAL files take over its
        mode. Raises `ConfigurationError` where there can be none."""
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        except (FileNotFoundError, NotADirectoryError):
            raise ConfigurationError(
                f"The folder of the database {self.path} is not there: create it."
            ) from None
        except (IsADirectoryError, PermissionError) as exc:
            raise ConfigurationError(
                f"The database {self.path} can't be opened: {exc.strerror}. Name a file that you may write."
            ) from exc
        except OSError as exc:
            raise StoreUnavailableError(
                f"The database {self.path} can't be opened right now: {exc.strerror}."
            ) from exc

    def _disconnect(self) -> None:
        if self._connection is not None and self._pid == os.getpid():
            self._connection.close()
        self._connection = None


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


def _engine(path: Path) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        isolation_level="AUTOCOMMIT",  # neither SQLAlchemy nor the driver begins anything: _transact does
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )
    event.listen(engine, "connect", _on_connect)
    return engine


def _on_connect(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
    record.info[DRIVER] = connection
    _use_wal(connection)
    connection.execute("PRAGMA synchronous=FULL")


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL. SQLite answers "locked" at once, without the busy timeout, when several connections
    do so at the same moment."""
    until = time.monotonic() + BUSY_SECONDS
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
    # SQLITE_ERROR is a statement that this database can't run; all else may pass: busy, full, I/O.
    hopeless = getattr(reason, "sqlite_errorname", "") == "SQLITE_ERROR"
    if isinstance(reason, sqlite3.OperationalError) and not hopeless:
        return StoreUnavailableError(f"SQLite can't be used right now: {reason}.")
    return StoreError(f"SQLite failed: {reason}.")
