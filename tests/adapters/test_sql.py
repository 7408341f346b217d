"""The sql store on SQLite."""

import multiprocessing
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from thoughtgear.adapters.sql import SqlAdapter, _runs_query
from thoughtgear.adapters.sql_schema import tables_of
from thoughtgear.errors import (
    ConfigurationError,
    ConflictError,
    SchemaVersionError,
    StoreError,
    StoreUnavailableError,
)
from thoughtgear.protocols import OrmAdapter, RunFilter
from thoughtgear.registry import open_store
from thoughtgear.testing import (
    SharedAdapterConformance,
    SharedAdapterEndurance,
    StoreCase,
    append,
    new_run,
)
from thoughtgear.testing.case import texts_of


class OnSqlite(StoreCase):
    @classmethod
    async def open_store(cls, place: Path) -> OrmAdapter:
        return SqlAdapter.from_url(f"sqlite:///{place}/store.db")


class TestSqlite(OnSqlite, SharedAdapterConformance):
    """Every clause."""


@pytest.mark.long
class TestSqliteEndurance(OnSqlite, SharedAdapterEndurance):
    """Large numbers."""


@pytest.fixture
async def store(tmp_path: Path):
    opened = SqlAdapter.from_url(f"sqlite:///{tmp_path}/store.db")
    yield opened
    await opened.aclose()


async def test_a_url_is_relative_or_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes mean a path from this folder, as it was when the store was made; four the root."""
    monkeypatch.chdir(tmp_path)
    stores = [open_store("sqlite:///one.db"), open_store(f"sqlite:////{tmp_path}/two.db")]
    stores.append(open_store({"type": "sqlite", "path": "three.db"}))
    monkeypatch.chdir("/")
    for each in stores:
        await append(each, new_run(), "a")
        await each.aclose()
    assert sorted(path.name for path in tmp_path.glob("*.db")) == ["one.db", "three.db", "two.db"]


@pytest.mark.parametrize(
    "settings",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite://name:secret@host/x.db",
        "sqlite+secret:///x.db",
        "sqlite:///x.db?password=secret",
        "sqlite:secret",
        {"type": "sqlite"},
        {"type": "sqlite", "path": "x.db", "key": "secret"},
        "sqlite:///x.db?path=secret.db",
        "sqlite:///x.db?create=secret",
        "sqlite:///x.db?lock_timeout=secret",
        "sqlite:///x.db?lock_timeout=nan",
        "sqlite:///x.db?command_timeout=0",
        "sqlite:///x.db?command_timeout=1&command_timeout=2",
    ],
)
async def test_a_wrong_setting_says_what_is_right(settings: str | dict[str, str]) -> None:
    """A URL that is not SQLite's is a ConfigurationError that shows a right one and repeats nothing of it."""
    with pytest.raises(ConfigurationError, match=r"sqlite:///|it has path|must be") as caught:
        open_store(settings)
    assert "secret" not in str(caught.value)


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """A database in a folder that is not there is a ConfigurationError with the path."""
    store = open_store(f"sqlite:///{tmp_path}/none/x.db")
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/none/x.db"):
        await store.load_run("r")


async def test_a_folder_is_no_database(tmp_path: Path) -> None:
    """A path that is a folder, or that leads through a file, is a ConfigurationError with the path."""
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "x.db"):
        store = open_store(f"sqlite:///{path}")
        with pytest.raises(ConfigurationError, match=f"{path}"):
            await store.load_run("r")


async def test_a_file_of_others_is_no_database(tmp_path: Path) -> None:
    """Where this user may not write, a database is a ConfigurationError with the path."""
    place = tmp_path / "closed"
    place.mkdir(mode=0o500)
    program = (
        f"import os; from thoughtgear.registry import open_store; store = open_store('sqlite:///{place}/x.db')\n"
        "import asyncio, thoughtgear.errors\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "try: asyncio.run(store.load_run('r'))\n"
        "except thoughtgear.errors.ConfigurationError as exc: print(exc)"
    )
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True)
    assert f"{place}/x.db" in ended.stdout, ended.stderr


async def test_expired_tombstones_are_found_by_an_index(store: SqlAdapter) -> None:
    """A deletion does not read every run to find the tombstones that have expired."""
    query = "EXPLAIN QUERY PLAN DELETE FROM run_states WHERE deleted_until <= 1"
    plan = await store._database.read(lambda connection: connection.exec_driver_sql(query).all())
    assert "ix_run_states_deleted_until" in str(plan)
    assert "SCAN" not in str(plan)


@pytest.mark.parametrize(
    "where",
    [
        RunFilter(),
        RunFilter(status="done"),
        RunFilter(handler="h"),
        RunFilter(session_id="s"),
        RunFilter(user_id="u"),
        RunFilter(metadata={"team": "blue"}),
        RunFilter(metadata={"team": "blue", "n": 1}, user_id="u", status="done"),
    ],
)
async def test_each_filter_has_an_index(store: SqlAdapter, where: RunFilter) -> None:
    """A page of list_runs is read off an index in its order, by whatever it filters: no scan, no sorting."""
    for start in (None, (1, "r")):
        query = _runs_query(store._tables, where, start).limit(20)

        def explain(connection: Connection, query: Any = query) -> str:
            text = query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
            return str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all())

        plan = await store._database.read(explain)
        assert "USING INDEX ix_run_" in plan or "USING COVERING INDEX ix_run_" in plan
        assert "TEMP B-TREE" not in plan
        assert ("SCAN" in plan) == (where == RunFilter() and start is None)


async def test_metadata_rows_go_with_their_run(store: SqlAdapter) -> None:
    """A deleted run leaves nothing in the index of metadata."""
    await append(store, new_run("r", metadata={"a": 1}), "a")
    await append(store, new_run("other", metadata={"a": 1}), "a")
    await store.delete_run("r")
    rows = await store._database.read(
        lambda connection: connection.exec_driver_sql("SELECT run_id FROM run_metadata").all()
    )
    assert rows == [("other",)]


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Another kind of file is a StoreError that no retry mends, and stays untouched."""
    (tmp_path / "store.db").write_text("a letter to a friend, long enough to be read as a header" * 20)
    store = open_store(f"sqlite:///{tmp_path}/store.db")
    with pytest.raises(StoreError, match="not a database") as caught:
        await store.load_run("r")
    assert not caught.value.retryable
    assert (tmp_path / "store.db").read_text().startswith("a letter")


async def test_commits_are_durable_and_private(store: SqlAdapter, tmp_path: Path) -> None:
    """WAL with synchronous=FULL, and no file that others can read."""
    await append(store, new_run(), "a")
    pragmas = ("journal_mode", "synchronous")
    found = await store._database.read(
        lambda connection: [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]
    )
    assert found == ["wal", 2]
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


async def test_stores_of_one_process_share_a_file(store: SqlAdapter, tmp_path: Path) -> None:
    """What a store commits after another one of its process has opened the same file, and another process has
    opened and closed it, is there for everyone."""
    state = await append(store, new_run("r"), "one")
    second = SqlAdapter.from_url(f"sqlite:///{tmp_path}/store.db")
    await second.load_run("r")
    assert versions_elsewhere(tmp_path) == "1"
    await append(store, state, "two")
    assert versions_elsewhere(tmp_path) == "2"
    await second.aclose()
    assert versions_elsewhere(tmp_path) == "2"


def versions_elsewhere(folder: Path) -> str:
    """What another process reads, which closes the database as if it were the last where it thinks so."""
    program = (
        f"import sqlite3; opened = sqlite3.connect('{folder}/store.db')\n"
        "print(opened.execute('SELECT version FROM run_states').fetchone()[0]); opened.close()"
    )
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True)
    return ended.stdout.strip() or ended.stderr


async def test_a_link_to_nowhere_makes_its_target(tmp_path: Path) -> None:
    """A path that is a link to a file which is not there yet makes that file, private as any other."""
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    store = SqlAdapter.from_url(f"sqlite:///{tmp_path}/link.db")
    await append(store, new_run("r"), "one")
    await store.aclose()
    assert stat.S_IMODE((tmp_path / "real.db").stat().st_mode) == 0o600


async def test_a_locked_database_is_retryable(tmp_path: Path) -> None:
    """Who waits longer than lock_timeout for another writer gets a StoreUnavailableError, and can go on."""
    store = open_store(f"sqlite:///{tmp_path}/store.db?lock_timeout=0.05")
    state = await append(store, new_run("r"), "a")
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError, match="locked") as caught:
        await append(store, state, "b")
    assert caught.value.retryable
    assert await store.load_run("r") == state
    other.execute("ROLLBACK")
    other.close()
    assert (await append(store, state, "b")).version == 2
    await store.aclose()


async def test_a_transaction_that_takes_too_long_is_retryable(tmp_path: Path) -> None:
    """What is not over within command_timeout raises StoreUnavailableError and leaves nothing; the store goes
    on."""
    store = SqlAdapter.from_url(f"sqlite:///{tmp_path}/store.db?command_timeout=0.2")
    state = await append(store, new_run("r"), "a")
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"

    def count(connection: Connection) -> None:
        connection.exec_driver_sql(endless).all()

    def delete_and_count(connection: Connection) -> None:
        connection.exec_driver_sql("DELETE FROM messages")
        count(connection)

    for call in (store._database.read(count), store._database.write(delete_and_count)):
        with pytest.raises(StoreUnavailableError, match="command_timeout"):
            await call
    assert (await append(store, state, "b")).version == 2
    assert await texts_of(store, "r") == ["a", "b"]
    await store.aclose()


async def test_without_create_nothing_is_made(tmp_path: Path) -> None:
    """With create=false neither a file nor tables are made by use, and the error says what makes them."""
    url = f"sqlite:///{tmp_path}/store.db?create=false"
    store = SqlAdapter.from_url(url)
    with pytest.raises(ConfigurationError, match="`thoughtgear db upgrade`"):
        await store.load_run("r")
    assert not (tmp_path / "store.db").exists()
    (tmp_path / "store.db").touch()
    with pytest.raises(SchemaVersionError, match="`thoughtgear db upgrade`"):
        await store.load_run("r")
    assert (await store.upgrade()).before is None
    await append(store, new_run("r"), "a")
    await store.aclose()


async def test_an_error_holds_no_text(store: SqlAdapter, tmp_path: Path) -> None:
    """Neither a translated error nor its cause quotes what was to be written; no retry mends this one."""
    state = await append(store, new_run("r"), "a")
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("DROP TABLE messages")
    with pytest.raises(StoreError) as caught:
        await append(store, state, "a secret prompt")
    assert "secret" not in f"{caught.value} {caught.value.__cause__}"
    assert not caught.value.retryable
    assert await store.load_run("r") == state


async def test_a_forked_process_has_its_own_connection(store: SqlAdapter) -> None:
    """A child that was forked while the store was open commits, and the parent goes on."""
    state = await append(store, new_run("r"), "parent")
    child = multiprocessing.get_context("fork").Process(target=_commit_in_child, args=(store,))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    with pytest.raises(ConflictError):
        await append(store, state, "stale")
    await append(store, await store.load_run("r"), "parent again")
    texts = [message.text for message in await store.get_history("r")]
    assert texts == ["parent", "child", "parent again"]


async def test_a_forked_process_keeps_what_it_commits(store: SqlAdapter, tmp_path: Path) -> None:
    """What a forked child commits after its parent has closed the database is kept: by the parent's
    connection it would go into a WAL file that is not there any more."""
    await append(store, new_run("r"), "parent")
    context = multiprocessing.get_context("fork")
    closed = context.Event()
    child = context.Process(target=_commit_after, args=(store, closed))
    child.start()
    await store.aclose()
    assert not (tmp_path / "store.db-wal").exists()
    closed.set()
    child.join(30)
    assert child.exitcode == 0
    again = SqlAdapter.from_url(f"sqlite:///{tmp_path}/store.db")
    assert await texts_of(again, "r") == ["parent", "child"]
    await again.aclose()


def _commit_after(store: SqlAdapter, closed: Event) -> None:
    assert closed.wait(30)
    _commit_in_child(store)


def _commit_in_child(store: SqlAdapter) -> None:
    import asyncio

    async def main() -> None:
        await append(store, await store.load_run("r"), "child")
        await store.aclose()

    asyncio.run(main())


async def test_open_stores_let_the_interpreter_exit(tmp_path: Path) -> None:
    """A program that forgets to close its stores ends, and prints nothing of it."""
    program = (
        "import asyncio; from thoughtgear.registry import open_store\n"
        f"for url in ('sqlite:///x.db', 'files://{tmp_path}/x'):\n"
        "    store = open_store(url); print(asyncio.run(store.list_runs()).runs)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, timeout=60, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[]\n[]\n", "")


async def test_a_closed_store_says_so(store: SqlAdapter) -> None:
    """After aclose a call raises StoreError."""
    await store.aclose()
    with pytest.raises(StoreError, match="closed"):
        await store.load_run("r")


async def test_a_write_that_fails_leaves_nothing(store: SqlAdapter) -> None:
    """What a transaction did before its error is undone, whether the driver ran it or SQLAlchemy."""
    await append(store, new_run("r"), "a")

    def txn(connection: Connection) -> None:
        tables_of("").add_message.change(connection, {"run_id": "r", "seq": 1, "body": "{}"})
        connection.execute(insert(tables_of("").messages).values(run_id="r", seq=2, body="{}"))
        raise ConflictError

    with pytest.raises(ConflictError):
        await store._database.write(txn)
    assert [message.text for message in await store.get_history("r")] == ["a"]
    again = {"run_id": "r", "seq": 0, "body": "{}"}
    with pytest.raises(StoreError, match="breaks its rules"):
        await store._database.write(lambda connection: tables_of("").add_message.change(connection, again))
    await append(store, await store.load_run("r"), "b")


async def test_a_tombstone_names_nobody(tmp_path: Path):
    """What is left of a deleted run for a day is its id, and nothing of whose it was."""
    store = SqlAdapter.from_url(f"sqlite:///{tmp_path}/store.db")
    state = new_run("r", user_id="ann", session_id="s", handler="h", metadata={"team": "blue"})
    await append(store, state, "a")
    await store.delete_run("r")
    await store.aclose()
    with closing(sqlite3.connect(tmp_path / "store.db")) as database:
        (row,) = database.execute("SELECT * FROM run_states").fetchall()
    assert not {"ann", "s", "h", "pending"}.intersection(row)
    assert "r" in row
