"""PostgreSQL for the sql store: the functions of a connection run over asyncpg, in a loop of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Generic, TypeVar

import asyncpg
from sqlalchemy import Connection, func, inspect, select
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.schema import CreateSchema

from thoughtgear.adapters import sql_version
from thoughtgear.adapters.loop_connection import Connected, LoopConnection
from thoughtgear.adapters.loop_thread import Begin
from thoughtgear.adapters.postgres_settings import RIGHT_URL, PostgresSettings
from thoughtgear.adapters.sql import SqlAdapter
from thoughtgear.adapters.sql_schema import Tables, tables_of
from thoughtgear.errors import ConfigurationError, StoreError, StoreUnavailableError, ThoughtgearError
from thoughtgear.locations import Location
from thoughtgear.protocols import Reach, SchemaUpgrade

T = TypeVar("T")

_LOCK = 7_450_239_861_207_714
"""The advisory lock of whoever makes tables: any number that nobody else takes."""

_DURABLE = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)
"""An acknowledged commit must be on the disk, whatever the database's default is."""

_PATIENCE = "SET LOCAL lock_timeout = '30s'"
"""Who waits to change a table keeps others from it: not for longer than this, if someone holds it."""

_SETTING_STATES = ("22023", "28", "3D", "42")
"""SQLSTATEs that a log-in answers with when a setting is wrong: a value, a user, a database, a name."""

_PASSING_STATES = ("08", "25006", "40", "53", "55P03", "57", "58")
"""SQLSTATEs that a retry may mend: connection, a server that became a standby, deadlock, resources, lock,
shutdown and time-out, the system."""

_FAULTS = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


class PostgresAdapter(SqlAdapter):
    """The sql store in a schema of its own in a PostgreSQL database, shared over the network."""

    reach: Reach = "network"

    @classmethod
    def from_url(cls, url: str) -> PostgresAdapter:
        """Make a store from `postgresql://user:password@host:port/database?option=value`.

        docs/settings.md has the options. Raises `ConfigurationError`, which never repeats the URL.
        """
        return cls(PostgresDatabase(PostgresSettings.from_url(url)))

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> PostgresAdapter:
        """Make a store from `{"host", "port", "user", "password", "database"}` or `{"url": …}`, with the
        options of a URL beside them."""
        return cls(PostgresDatabase(PostgresSettings.from_dict(settings)))


class PostgresDatabase:
    """Runs each transaction whole, at READ COMMITTED, on a connection of a pool.

    A read is one statement, so that it sees one state of the database without a BEGIN and a COMMIT on the
    way. A write compares versions in its UPDATE, and unique keys stop the second of two creators: nothing
    more is needed of the isolation. A transaction that finds its pooled connection dead before COMMIT was
    sent has written nothing and is run again; afterwards nobody knows: `StoreUnavailableError`.
    """

    def __init__(self, settings: PostgresSettings) -> None:
        self._settings = settings
        self.tables = tables_of(settings.table_prefix)
        self._connected = Connected("thoughtgear-postgres", lambda: _Pool(settings))

    def __repr__(self) -> str:
        prefix = f", table_prefix={self.tables.prefix!r}" if self.tables.prefix else ""
        return f"PostgresDatabase({self._settings.address!r}, schema={self._settings.schema!r}{prefix})"

    @property
    def location(self) -> Location:
        """Where the tables are."""
        return self._settings.location

    async def read(self, txn: Callable[[Connection], T]) -> T:
        """Return what `txn` returns."""
        return await self._connected.run(lambda pool, begin: pool.run(txn, begin, writes=False))

    async def write(self, txn: Callable[[Connection], T]) -> T:
        """Run `txn` and commit, or roll back when it raises."""
        return await self._connected.run(lambda pool, begin: pool.run(txn, begin, writes=True))

    async def upgrade(self) -> SchemaUpgrade:
        """Bring the tables to the version of this code, or make them, with no limit of time."""
        return await self._connected.run(self._upgrade)

    async def aclose(self) -> None:
        """Finish what is under way, close the connections and end the thread."""
        await self._connected.aclose()

    async def _upgrade(self, _pool: _Pool, begin: Begin) -> SchemaUpgrade:
        pool = _Pool(self._settings.without_limits())
        try:
            return await pool.upgrade(begin)
        finally:
            await pool.aclose()


class _Pool(LoopConnection):
    """The connections of one process."""

    def __init__(self, settings: PostgresSettings) -> None:
        super().__init__()
        self._settings = settings
        self._tables = tables_of(settings.table_prefix)
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=partial(_connect, settings),
            isolation_level="READ COMMITTED",
            pool_size=settings.pool_size,
            max_overflow=0,
            pool_timeout=settings.pool_timeout,
            pool_use_lifo=True,
            # Networks forget idle connections, and tell nobody.
            pool_recycle=settings.pool_recycle,
            hide_parameters=True,
        )
        self._reader = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    async def run(self, txn: Callable[[Connection], T], begin: Begin, *, writes: bool) -> T:
        async with self.in_use():
            work = partial(_on_our_tables, self._tables, txn)
            return await self._run(self._engine if writes else self._reader, work, begin)

    async def upgrade(self, begin: Begin) -> SchemaUpgrade:
        work = partial(_alone, self._settings.schema, partial(sql_version.upgrade, self._tables))
        return await self._run(self._engine, work, begin)

    async def close(self) -> None:
        await self._engine.dispose()

    async def prepare(self) -> None:
        """Make the tables where there are none, if that is wanted. Raises `SchemaVersionError`."""
        if not await self._run(self._reader, partial(sql_version.check_version, self._tables), _nothing):
            if not self._settings.create:
                raise sql_version.no_tables(self._tables)
            make = partial(_alone, self._settings.schema, partial(sql_version.make_tables, self._tables))
            await self._run(self._engine, make, _nothing)

    async def _run(self, engine: AsyncEngine, txn: Callable[[Connection], T], begin: Begin) -> T:
        while True:
            try:
                return await self._attempt(engine, txn, begin)
            except _DeadConnectionError:
                continue  # ends with a fresh connection at the latest

    async def _attempt(self, engine: AsyncEngine, txn: Callable[[Connection], T], begin: Begin) -> T:
        async with self._connection(engine) as connection:
            pooled = connection.info.setdefault("used", False)
            connection.info["used"] = True
            begin()
            transaction = _Transaction(txn)
            try:
                return await connection.run_sync(transaction.run)
            except ThoughtgearError:
                raise
            except IntegrityError:
                raise StoreError("The database refused a row that breaks its rules.") from None
            except _FAULTS as exc:
                error = _translated(exc)
                await connection.invalidate()
                if pooled and not transaction.committing and _is_lost(exc):
                    raise _DeadConnectionError from exc
                # The driver's own error may quote the row: what is safe of it is in the message.
                raise error from None

    @asynccontextmanager
    async def _connection(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        connection = engine.connect()
        try:
            await connection.start()
        except PoolTimeoutError:
            raise StoreUnavailableError(
                f"All {self._settings.pool_size} connections to PostgreSQL are in use: raise pool_size."
            ) from None
        except _FAULTS as exc:  # a fault while SQLAlchemy gets to know a new connection
            raise _translated(exc) from None
        try:
            yield connection
        finally:
            await connection.close()


class _DeadConnectionError(Exception):
    """A connection of the pool was dead, and nothing is written."""


class _Transaction(Generic[T]):
    """A function of a connection, in a transaction that remembers whether COMMIT was reached."""

    def __init__(self, txn: Callable[[Connection], T]) -> None:
        self._txn = txn
        self.committing = False

    def run(self, connection: Connection) -> T:
        with connection.begin():
            result = self._txn(connection)
            self.committing = True
        return result


def _nothing() -> None:
    """Begin what may be cancelled at any time."""


def _on_our_tables(tables: Tables, txn: Callable[[Connection], T], connection: Connection) -> T:
    """Look at the tables' version with every new connection: a process may outlive an upgrade."""
    if not connection.info.get("checked"):
        if not sql_version.check_version(tables, connection):
            raise sql_version.no_tables(tables)
        connection.info["checked"] = True
    return txn(connection)


def _alone(schema: str, work: Callable[[Connection], T], connection: Connection) -> T:
    """Change tables while nobody else does, in a schema that is there."""
    connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    connection.exec_driver_sql(_PATIENCE)
    if not inspect(connection).has_schema(schema):
        connection.execute(CreateSchema(schema))
    return work(connection)


async def _connect(settings: PostgresSettings) -> Any:
    """Log in. Raises `StoreUnavailableError` where a later try may succeed, else `ConfigurationError`."""
    try:
        connection = await asyncpg.connect(**settings.login)
    except asyncpg.PostgresError as exc:
        raise _refused(exc, settings.address) from None
    except asyncpg.TargetServerAttributeNotMatched:
        raise StoreUnavailableError(
            f"PostgreSQL at {settings.address} is a standby or read-only; a store needs the primary. "
            "Name it, or all hosts of the cluster: host1:5432,host2:5432."
        ) from None
    except (OSError, asyncpg.InternalClientError) as exc:
        raise StoreUnavailableError(
            f"PostgreSQL at {settings.address} can't be reached: {_reason(exc)}."
        ) from None
    except asyncpg.ClientConfigurationError as exc:  # the login's own parts were checked before
        raise ConfigurationError(f"These settings of PostgreSQL can't be used: {exc.args[0]}.") from None
    except (ValueError, asyncpg.InterfaceError) as exc:  # their messages may quote a value
        raise ConfigurationError(
            f"These settings of PostgreSQL can't be used ({type(exc).__name__}). {RIGHT_URL}"
        ) from None
    try:
        await connection.execute(_DURABLE)
    except BaseException:
        connection.terminate()
        raise
    return connection


def _refused(exc: asyncpg.PostgresError, address: str) -> ThoughtgearError:
    if _state(exc).startswith(_SETTING_STATES):
        return ConfigurationError(f"PostgreSQL at {address} refuses these settings: {_reason(exc)}.")
    return StoreUnavailableError(f"PostgreSQL at {address} does not let anyone in: {_reason(exc)}.")


def _translated(exc: Exception) -> StoreError:
    cause = _driver_error(exc)
    if _is_lost(exc) or isinstance(cause, OSError) or _state(cause).startswith(_PASSING_STATES):
        return StoreUnavailableError(f"PostgreSQL can't be used right now: {_reason(cause)}.")
    return StoreError(f"PostgreSQL failed: {_reason(cause)}.")


def _is_lost(exc: Exception) -> bool:
    """Whether the connection is gone, and not merely slow."""
    if isinstance(exc, DBAPIError) and exc.connection_invalidated:
        return True
    cause = _driver_error(exc)
    return isinstance(cause, ConnectionError) or _state(cause).startswith(("08", "57P"))


def _driver_error(exc: BaseException) -> BaseException:
    """Return asyncpg's own error, which SQLAlchemy wraps twice."""
    inner = getattr(exc, "orig", None) or exc
    return inner.__cause__ if isinstance(inner.__cause__, asyncpg.PostgresError) else inner


def _state(exc: BaseException) -> str:
    return str(getattr(exc, "sqlstate", None) or "")


def _reason(exc: BaseException) -> str:
    """Say what happened, in the server's words where these can't hold a value."""
    name = type(exc).__name__
    if isinstance(exc, OSError):
        return f"{name}, {exc.strerror}" if exc.strerror else name
    if _state(exc).startswith((*_PASSING_STATES, "28", "3D", "42")):
        return f"{name}, {exc.args[0]}"
    return name
