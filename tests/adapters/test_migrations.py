"""Databases of earlier versions are brought to this one, by `upgrade` and by the command."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from recorded_schemas import assert_kept, fill, load_postgresql, load_sqlite, states, versions

from thoughtgear.adapters import postgres, sql_version
from thoughtgear.adapters.sql_version import MIGRATIONS, SCHEMA_VERSION
from thoughtgear.errors import SchemaVersionError, StoreError, StoreUnavailableError
from thoughtgear.protocols import OrmAdapter, RunFilter, SchemaUpgrade, Upgradable
from thoughtgear.registry import open_store
from thoughtgear.testing import StoreCase, append, new_run
from thoughtgear.testing.processes import in_processes

OLD = versions()


class SqliteDatabases:
    """Databases of SQLite in a folder, by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def url(self, name: str) -> str:
        return f"sqlite:///{self._folder}/{name}.db"

    async def make(self, version: int, name: str, prefix: str = "") -> str:
        """Make the recorded database of that version and return its URL."""
        load_sqlite(version, self._folder / f"{name}.db", prefix)
        return self.url(name)

    async def run(self, name: str, statement: str) -> list[Any]:
        with closing(sqlite3.connect(self._folder / f"{name}.db")) as connection, connection:
            return connection.execute(statement).fetchall()

    @asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[None]:
        """Be in the midst of a write."""
        with closing(sqlite3.connect(self._folder / f"{name}.db", isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield

    async def shape(self, name: str) -> dict[str, Any]:
        """All that makes the schema: columns, keys and indexes."""
        tables = [
            row[0] for row in await self.run(name, "SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        found: dict[str, Any] = {
            f"index {key}": text
            for key, text in await self.run(name, "SELECT name, sql FROM sqlite_master WHERE type = 'index'")
        }
        for table in tables:
            found[table] = await self.run(name, f"PRAGMA table_xinfo({table})")
        return found


class PostgresDatabases:
    """Schemas of a PostgreSQL server, by name."""

    def __init__(self, server: Any, folder: Path) -> None:
        self._server, self._folder = server, folder

    def url(self, name: str) -> str:
        return str(self._server.url(self._folder / name))

    async def make(self, version: int, name: str, prefix: str = "") -> str:
        """Make the recorded tables of that version and return the URL of the store."""
        load_postgresql(version, self._server, self._schema(name), prefix)
        return self.url(name)

    async def run(self, name: str, statement: str) -> list[Any]:
        schema = self._schema(name)
        async with self._connected(name) as connection:
            rows = await connection.fetch(statement.replace("$SCHEMA", schema))
            return [tuple(str(value).replace(schema, "SCHEMA") for value in row) for row in rows]

    @asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[None]:
        """Be in the midst of a write."""
        async with self._connected(name) as connection, connection.transaction():
            await connection.execute("UPDATE run_states SET version = version")
            yield

    @asynccontextmanager
    async def _connected(self, name: str) -> AsyncIterator[Any]:
        url, settings = self.url(name).partition("?")[0], {"search_path": self._schema(name)}
        connection = await asyncpg.connect(url, server_settings=settings)
        try:
            yield connection
        finally:
            await connection.close()

    async def shape(self, name: str) -> dict[str, Any]:
        """All that makes the schema: columns, keys and indexes."""
        columns = (
            "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable,"
            " column_default, collation_name FROM information_schema.columns"
            " WHERE table_schema = '$SCHEMA' ORDER BY table_name, ordinal_position"
        )
        constraints = (
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = '$SCHEMA'::regnamespace ORDER BY 1, 2"
        )
        indexes = "SELECT indexdef FROM pg_indexes WHERE schemaname = '$SCHEMA' ORDER BY 1"
        return {each: await self.run(name, each) for each in (columns, constraints, indexes)}

    def _schema(self, name: str) -> str:
        return self.url(name).rpartition("schema=")[2]


Databases = SqliteDatabases | PostgresDatabases


@pytest.fixture(params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> Databases:
    if request.param == "sqlite":
        return SqliteDatabases(tmp_path)
    return PostgresDatabases(request.getfixturevalue("postgres"), tmp_path)


@pytest.fixture
async def opened() -> AsyncIterator[Callable[[str], Any]]:
    """Opens stores, and closes them after the test."""
    stores: list[Any] = []

    def make(url: str) -> Any:
        stores.append(open_store(url))
        return stores[-1]

    yield make
    for store in stores:
        await store.aclose()


def limited(url: str, option: str) -> str:
    """The URL with one more option."""
    return f"{url}{'&' if '?' in url else '?'}{option}"


def test_every_version_before_this_one_is_recorded() -> None:
    """The migrations are 1, 2, … up to this version, and there is a recorded database of each earlier one."""
    numbers = sorted(int(path.name[1:5]) for path in (MIGRATIONS / "versions").glob("v*.py"))
    assert numbers == list(range(1, SCHEMA_VERSION + 1))
    assert set(range(1, SCHEMA_VERSION)) <= set(OLD)


@pytest.mark.parametrize("version", OLD)
async def test_an_old_database_keeps_all_that_it_holds(
    databases: Databases, opened: Callable[[str], Any], version: int
) -> None:
    """After the upgrade every run, message, document and tombstone is there, and new ones can be added."""
    store = opened(await databases.make(version, "old"))
    assert isinstance(store, Upgradable)
    assert await store.upgrade() == SchemaUpgrade(version, SCHEMA_VERSION)
    await assert_kept(store)
    await append(store, await store.load_run("next"), "and on")
    await append(store, new_run("new"), "a")
    assert await store.upgrade() == SchemaUpgrade(SCHEMA_VERSION, SCHEMA_VERSION)


async def test_an_older_database_is_refused(databases: Databases, opened: Callable[[str], Any]) -> None:
    """Tables of an older version raise SchemaVersionError that names `thoughtgear db upgrade`, and stay."""
    store = opened(await databases.make(SCHEMA_VERSION - 1, "old"))
    before = await databases.shape("old")
    for _ in range(2):
        with pytest.raises(SchemaVersionError, match="run `thoughtgear db upgrade`") as caught:
            await store.load_run("done")
        assert caught.value.retryable
    assert await databases.shape("old") == before
    await store.upgrade()
    await assert_kept(store)


async def test_an_upgrade_that_fails_changes_nothing(
    databases: Databases, opened: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a migration fails after it has changed tables, all is as it was; then it can be repeated."""
    store = opened(await databases.make(1, "old"))
    before = await databases.shape("old")

    def migrate_and_fail(tables: Any, connection: Any) -> None:
        migrate(tables, connection)
        assert sql_version.version_of(tables, connection) == SCHEMA_VERSION
        raise OSError

    migrate = sql_version._migrate
    monkeypatch.setattr(sql_version, "_migrate", migrate_and_fail)
    with pytest.raises((OSError, StoreError)):
        await store.upgrade()
    assert await databases.shape("old") == before
    monkeypatch.undo()
    await store.upgrade()
    await assert_kept(store)


async def test_an_upgrade_waits_a_while_for_a_writer(
    databases: Databases, opened: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a transaction goes on for too long the upgrade raises StoreUnavailableError, changing nothing."""
    monkeypatch.setattr(postgres, "_PATIENCE", "SET LOCAL lock_timeout = '200ms'")
    url = await databases.make(1, "old")
    store = opened(limited(url, "lock_timeout=0.2"))
    before = await databases.shape("old")
    async with databases.held("old"):
        with pytest.raises(StoreUnavailableError, match="lock"):
            await store.upgrade()
    assert await databases.shape("old") == before
    await store.upgrade()
    await assert_kept(store)


async def test_runs_of_before_are_found_by_metadata(
    databases: Databases, opened: Callable[[str], Any]
) -> None:
    """The upgrade indexes the metadata of old runs as a commit does: the same rows, in several batches, and
    however little time a command may take."""
    url = await databases.make(1, "old")
    store = opened(url)
    columns = "version, message_count, status, handler, session_id, user_id, created_at, deleted_until, body"
    for number in range(40):  # more runs than a batch has
        await databases.run(
            "old",
            f"INSERT INTO run_states SELECT '{number}-' || run_id, {columns} FROM run_states"
            " WHERE run_id IN ('n1', 'n2', 'deep', 'done', 'gone') OR run_id LIKE 'n_'",
        )
    await opened(limited(url, "command_timeout=0.01")).upgrade()
    new = opened(databases.url("new"))
    await fill(new)
    rows = "SELECT m.run_id, pair, m.created_at, metadata_digest FROM run_metadata m, run_states r"
    same = f"{rows} WHERE m.run_id = r.run_id AND r.run_id NOT LIKE '%-%' ORDER BY 1, 2"
    found = await databases.run("old", same)
    assert len(found) == 26
    assert found == await databases.run("new", same)
    (counted,) = await databases.run("old", "SELECT count(*) FROM run_metadata")
    assert int(counted[0]) == 26 + 40 * 24
    for state in states():
        if state.metadata:
            page = await store.list_runs(RunFilter(metadata=state.metadata))
            assert state.run_id in [run.run_id for run in page.runs]
            await append(store, state, "goes on")
    assert await databases.run("old", "SELECT count(*) FROM run_metadata") == [counted]


@pytest.mark.parametrize("version", OLD)
async def test_an_upgraded_database_is_like_a_new_one(
    databases: Databases, opened: Callable[[str], Any], version: int
) -> None:
    """Old tables that were upgraded, tables that `upgrade` made and those of the first use are the same."""
    await opened(await databases.make(version, "old")).upgrade()
    assert await opened(databases.url("made")).upgrade() == SchemaUpgrade(None, SCHEMA_VERSION)
    await append(opened(databases.url("used")), new_run(), "a")
    shape = await databases.shape("used")
    assert len(str(shape)) > 1000
    assert await databases.shape("old") == shape
    assert await databases.shape("made") == shape


@pytest.mark.parametrize("version", [1])
async def test_tables_with_a_prefix_are_upgraded(
    databases: Databases, opened: Callable[[str], Any], version: int
) -> None:
    """An upgrade changes the tables of its prefix and no others: those are as new ones then, keep all that
    they hold, and the ones without a prefix beside them are still the older ones."""
    prefix = "team_a_"
    url = limited(await databases.make(version, "old", prefix), f"table_prefix={prefix}")
    with pytest.raises(SchemaVersionError, match="run `thoughtgear db upgrade`"):
        await opened(url).list_runs()
    if isinstance(databases, SqliteDatabases):
        await databases.make(version, "old")
    store = opened(url)
    assert await store.upgrade() == SchemaUpgrade(version, SCHEMA_VERSION)
    await assert_kept(store)
    await append(store, await store.load_run("next"), "and on")
    if isinstance(databases, SqliteDatabases):
        plain = opened(databases.url("old"))
        with pytest.raises(SchemaVersionError, match=f"schema version {version}"):
            await plain.list_runs()
        assert await plain.upgrade() == SchemaUpgrade(version, SCHEMA_VERSION)
        await assert_kept(plain)
        await assert_kept_but_one(store)
        return
    await append(opened(limited(databases.url("new"), f"table_prefix={prefix}")), new_run(), "a")
    assert await databases.shape("old") == await databases.shape("new")


async def assert_kept_but_one(store: Any) -> None:
    """Check that the other upgrade left this store alone: it has what it had, and what it got since."""
    assert (await store.load_run("next")).version == 2
    assert len((await store.list_runs(limit=1000)).runs) == len(states())


async def test_a_newer_database_is_refused(databases: Databases, opened: Callable[[str], Any]) -> None:
    """Tables of a newer version raise SchemaVersionError, which says to upgrade the package, and stay."""
    await append(opened(databases.url("new")), new_run(), "a")
    newer = f"{SCHEMA_VERSION + 1:04}"
    await databases.run("new", f"UPDATE schema_version SET version_num = '{newer}'")
    store = opened(databases.url("new"))
    for call in (store.load_run, store.upgrade):
        with pytest.raises(SchemaVersionError, match="pip install --upgrade thoughtgear") as caught:
            await (call("r") if call == store.load_run else call())
        assert caught.value.retryable
    assert await databases.run("new", "SELECT version_num FROM schema_version") == [(newer,)]


async def test_foreign_tables_are_refused(databases: Databases, opened: Callable[[str], Any]) -> None:
    """A table of another program that has the name of ours raises SchemaVersionError, and stays."""
    await databases.make(1, "foreign")
    for statement in (
        "DROP TABLE schema_version",
        "CREATE TABLE schema_version (name TEXT)",
        "INSERT INTO schema_version VALUES ('V1__init')",
    ):
        await databases.run("foreign", statement)
    store = opened(databases.url("foreign"))
    for call in (store.list_runs, store.upgrade):
        with pytest.raises(SchemaVersionError, match="not thoughtgear's"):
            await call()
    assert await databases.run("foreign", "SELECT * FROM schema_version") == [("V1__init",)]


class Elsewhere(StoreCase):
    """Opens the store whose URL is in the folder, in any process."""

    @classmethod
    async def open_store(cls, place: Path) -> OrmAdapter:
        return open_store((place / "url").read_text())


async def _upgrade(store: OrmAdapter, _name: str) -> SchemaUpgrade:
    assert isinstance(store, Upgradable)
    return await store.upgrade()


@pytest.mark.parametrize("version", [*OLD, None])
async def test_many_upgrade_at_once(
    databases: Databases, opened: Callable[[str], Any], tmp_path: Path, version: int | None
) -> None:
    """Of eight processes that upgrade one database at the same moment one does it, and nothing is lost."""
    url = databases.url("old") if version is None else await databases.make(version, "old")
    (tmp_path / "url").write_text(url)
    ended = await in_processes(Elsewhere, tmp_path, _upgrade)
    changed = [done for done in ended if done.before != done.after]
    assert changed == ([] if version == SCHEMA_VERSION else [SchemaUpgrade(version, SCHEMA_VERSION)])
    assert {done.after for done in ended} == {SCHEMA_VERSION}
    store = opened(url)
    await (assert_kept(store) if version else append(store, new_run(), "a"))


async def test_only_an_upgrade_needs_alembic(tmp_path: Path) -> None:
    """A new database is made and used without Alembic, whose import takes longer than that."""
    program = (
        "import asyncio, sys; from thoughtgear.registry import open_store\n"
        f"store = open_store('sqlite:///{tmp_path}/x.db'); print(asyncio.run(store.list_runs()).runs)\n"
        "print('alembic' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True)
    assert ended.stdout == "[]\nFalse\n", ended.stderr
