"""The sql store on PostgreSQL."""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import asyncpg
import pytest
from killed_server import LONG_LOAD, outlive_kills
from postgres_server import PASSWORD, PostgresServer
from server_process import running_again
from sqlalchemy import Connection

from thoughtgear.adapters import postgres as postgres_module
from thoughtgear.adapters.postgres import PostgresAdapter
from thoughtgear.adapters.postgres_settings import PostgresSettings
from thoughtgear.adapters.sql_schema import tables_of
from thoughtgear.adapters.sql_version import SCHEMA_VERSION
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


class OnPostgres(StoreCase):
    @pytest.fixture(autouse=True)
    def _address(self, postgres: PostgresServer, tmp_path: Path) -> None:
        """Other processes read there which server it is."""
        (tmp_path / "url").write_text(postgres.url(tmp_path))

    @classmethod
    async def open_store(cls, place: Path) -> OrmAdapter:
        return open_store((place / "url").read_text())


class TestPostgres(OnPostgres, SharedAdapterConformance):
    """Every clause."""


@pytest.mark.long
class TestPostgresEndurance(OnPostgres, SharedAdapterEndurance):
    """Large numbers."""

    kills = 50


@pytest.fixture
def url(postgres: PostgresServer, tmp_path: Path) -> str:
    return postgres.url(tmp_path)


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresAdapter]:
    opened = PostgresAdapter.from_url(url)
    yield opened
    await opened.aclose()


@pytest.fixture
async def admin(url: str) -> AsyncIterator[Any]:
    """A connection of the tests' own, to see and to break what is there."""
    base, _, query = url.partition("?schema=")
    connection = await asyncpg.connect(base, server_settings={"search_path": query})
    yield connection
    await connection.close()


@pytest.fixture
def stoppable(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """The server, which is running again after the test."""
    with running_again(postgres):
        yield postgres


@pytest.mark.parametrize("load", [{}, pytest.param(LONG_LOAD, marks=pytest.mark.long)], ids=["short", "long"])
async def test_a_killed_server_keeps_what_it_acknowledged(
    stoppable: PostgresServer, store: PostgresAdapter, load: dict[str, int]
) -> None:
    """Writers outlive kill -9 of the server: all that was acknowledged is there, once and in order."""
    await outlive_kills(stoppable, store, **load)


async def test_a_server_that_is_away_is_retryable(stoppable: PostgresServer, store: PostgresAdapter) -> None:
    """While no server answers, calls raise StoreUnavailableError with its address; then they work again."""
    state = await append(store, new_run("r"), "a")
    await asyncio.to_thread(stoppable.kill)
    for call in (store.load_run("r"), append(store, state, "b"), store.delete_run("r")):
        with pytest.raises(StoreUnavailableError, match=f"127.0.0.1:{stoppable.port}") as caught:
            await call
        assert caught.value.retryable
    await asyncio.to_thread(stoppable.start)
    assert await store.load_run("r") == state
    assert (await append(store, state, "b")).version == 2


async def test_dead_pooled_connections_are_not_noticed(store: PostgresAdapter, admin: Any) -> None:
    """Connections that died while they lay in the pool are replaced; reads and writes just work."""
    states = await asyncio.gather(*(append(store, new_run(f"r{number}"), "a") for number in range(8)))
    for call in (lambda: append(store, states[0], "b"), lambda: store.load_run("r1")):
        assert await end_others(admin) >= 1
        await call()
    assert await texts_of(store, "r0") == ["a", "b"]


async def end_others(admin: Any) -> int:
    """End the store's connections, and wait until they are gone."""
    mine = "FROM pg_stat_activity WHERE application_name = 'thoughtgear'"
    ended = await admin.fetch(f"SELECT pg_terminate_backend(pid, 10000) {mine}")
    return len(ended)


async def test_a_lost_commit_is_unknown(store: PostgresAdapter, admin: Any) -> None:
    """A connection that dies during COMMIT is a StoreUnavailableError: neither repeated nor acknowledged."""
    state = await append(store, new_run("r"), "a")
    # A deferred trigger keeps COMMIT waiting for a lock that the test holds.
    await admin.execute(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END';"
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON messages INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION wait()"
    )
    await admin.execute("SELECT pg_advisory_lock(42)")
    writing = asyncio.create_task(append(store, state, "b"))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE query ILIKE 'COMMIT%' AND wait_event = 'advisory'"
    async with asyncio.timeout(10):
        while not await admin.fetchval(waiting):
            await asyncio.sleep(0.01)
    await end_others(admin)
    await admin.execute("SELECT pg_advisory_unlock_all()")
    with pytest.raises(StoreUnavailableError):
        await writing
    assert await store.load_run("r") == state
    assert (await append(store, state, "c")).version == 2
    assert await texts_of(store, "r") == ["a", "c"]


async def test_a_cancelled_commit_is_awaited(store: PostgresAdapter, admin: Any) -> None:
    """A caller that is cancelled while its write waits for a lock comes back after the write is over."""
    state = await append(store, new_run("r"), "a")
    async with admin.transaction():
        await admin.execute("SELECT 1 FROM run_states WHERE run_id = 'r' FOR UPDATE")
        writing = asyncio.create_task(append(store, state, "b"))
        await blocked(admin)
        for _ in range(3):
            writing.cancel()
            done, _pending = await asyncio.wait([writing], timeout=0.05)
            assert not done
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await texts_of(store, "r") == ["a", "b"]


async def blocked(admin: Any) -> None:
    """Wait until a write of the store waits for a row."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE query ILIKE 'UPDATE run_states%' AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(10):
        while not await admin.fetchval(waiting):
            await admin.execute("SELECT pg_stat_clear_snapshot()")  # it stays within a transaction


async def test_a_caller_without_a_connection_is_let_go(url: str, admin: Any) -> None:
    """A caller that is cancelled while it waits for a connection is back at once, and writes nothing."""
    store = open_store(f"{url}&pool_size=1")
    state = await append(store, new_run("r"), "a")
    async with admin.transaction():
        await admin.execute("SELECT 1 FROM run_states WHERE run_id = 'r' FOR UPDATE")
        first = asyncio.create_task(append(store, state, "first"))
        await blocked(admin)
        second = asyncio.create_task(append(store, new_run("other"), "second"))
        await asyncio.sleep(0)
        second.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait([second])
        assert second.cancelled()
        assert not first.done()
    await first
    assert [run.run_id for run in (await store.list_runs()).runs] == ["r"]
    await store.aclose()


async def test_the_end_of_a_loop_tears_no_commit(store: PostgresAdapter, admin: Any) -> None:
    """A program that ends while a commit is under way waits for it: it does not land behind its back."""
    state = await append(store, new_run("r"), "a")

    may_end, forgotten = threading.Event(), []

    async def program() -> None:
        forgotten.append(asyncio.create_task(append(store, state, "b")))
        await asyncio.to_thread(may_end.wait, 10)

    async with admin.transaction():
        await admin.execute("SELECT 1 FROM run_states WHERE run_id = 'r' FOR UPDATE")
        ended = asyncio.create_task(asyncio.to_thread(asyncio.run, program()))
        await blocked(admin)
        may_end.set()
        done, _ = await asyncio.wait([ended], timeout=0.2)
        assert not done
    await ended
    assert await texts_of(store, "r") == ["a", "b"]


async def test_a_lock_that_is_held_too_long_is_retryable(url: str, admin: Any) -> None:
    """A write that waits longer than command_timeout raises StoreUnavailableError and has written nothing."""
    store = open_store(f"{url}&command_timeout=0.3")
    state = await append(store, new_run("r"), "a")
    async with admin.transaction():
        await admin.execute("SELECT 1 FROM run_states WHERE run_id = 'r' FOR UPDATE")
        with pytest.raises(StoreUnavailableError, match="statement timeout"):
            await append(store, state, "b")
    assert (await append(store, state, "c")).version == 2
    assert await texts_of(store, "r") == ["a", "c"]
    await store.aclose()


async def test_a_lock_has_a_limit_of_its_own(url: str, admin: Any) -> None:
    """A write that waits longer than lock_timeout raises StoreUnavailableError and has written nothing."""
    store = open_store(f"{url}&lock_timeout=0.2")
    state = await append(store, new_run("r"), "a")
    async with admin.transaction():
        await admin.execute("SELECT 1 FROM run_states WHERE run_id = 'r' FOR UPDATE")
        with pytest.raises(StoreUnavailableError, match="lock timeout") as caught:
            await append(store, state, "b")
        assert caught.value.retryable
    assert (await append(store, state, "c")).version == 2
    await store.aclose()


async def test_a_statement_that_takes_too_long_is_retryable(url: str) -> None:
    """A read and a write that take longer than command_timeout are ended by the server and raise
    StoreUnavailableError; the store goes on."""
    store = PostgresAdapter.from_url(f"{url}&command_timeout=0.3")
    state = await append(store, new_run("r"), "a")

    def delete_and_sleep(connection: Connection) -> None:
        connection.exec_driver_sql("DELETE FROM messages")
        connection.exec_driver_sql("SELECT pg_sleep(60)")

    def sleep(connection: Connection) -> None:
        connection.exec_driver_sql("SELECT pg_sleep(60)")

    for call in (store._database.read(sleep), store._database.write(delete_and_sleep)):
        with pytest.raises(StoreUnavailableError, match="statement timeout") as caught:
            await call
        assert caught.value.retryable
    await append(store, state, "b")
    assert await texts_of(store, "r") == ["a", "b"]
    await store.aclose()


@pytest.fixture(scope="module")
def standby(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A hot standby of the server."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    server = PostgresServer(folder, postgres)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


async def test_a_standby_is_refused(standby: PostgresServer, store: PostgresAdapter, tmp_path: Path) -> None:
    """A store on a standby, which may be behind, raises StoreUnavailableError that asks for the primary."""
    await append(store, new_run("r"), "a")
    for option in ({}, {"target_session_attrs": "read-write"}):
        wrong = open_store(standby.url(tmp_path, **option))
        with pytest.raises(StoreUnavailableError, match="is a standby or read-only; a store needs") as caught:
            await wrong.load_run("r")
        assert caught.value.retryable
        assert f"127.0.0.1:{standby.port}" in str(caught.value)
        await wrong.aclose()


async def test_of_several_hosts_the_primary_is_taken(
    standby: PostgresServer, postgres: PostgresServer, url: str
) -> None:
    """A URL with the standby first and the primary second reads and writes on the primary."""
    both = f"@127.0.0.1:{standby.port},127.0.0.1:{postgres.port}/"
    store = PostgresAdapter.from_url(url.replace(f"@127.0.0.1:{postgres.port}/", both))
    state = await append(store, new_run("r"), "a")
    assert await store.load_run("r") == state
    port = await store._database.read(lambda connection: connection.exec_driver_sql("SHOW port").scalar())
    assert port == str(postgres.port)
    await store.aclose()


async def test_a_database_that_turns_read_only_is_retryable(url: str, admin: Any) -> None:
    """Where the primary takes no writes for a while they raise StoreUnavailableError, and reads go on; with
    target_session_attrs=read-write it is refused altogether."""
    store = open_store(url)
    state = await append(store, new_run("r"), "a")
    await store.aclose()
    await admin.execute("ALTER ROLE postgres SET default_transaction_read_only = on")
    lenient, strict = open_store(url), open_store(f"{url}&target_session_attrs=read-write")
    try:
        assert await lenient.load_run("r") == state
        with pytest.raises(StoreUnavailableError, match="read-only transaction"):
            await append(lenient, state, "b")
        with pytest.raises(StoreUnavailableError, match="is a standby or read-only"):
            await strict.load_run("r")
    finally:
        await admin.execute("ALTER ROLE postgres RESET default_transaction_read_only")
    assert (await append(strict, state, "b")).version == 2
    await lenient.aclose()
    await strict.aclose()


async def test_a_process_that_outlives_an_upgrade_notices(store: PostgresAdapter, admin: Any) -> None:
    """A store that is open while the tables get a newer version refuses them on its next new connection."""
    state = await append(store, new_run("r"), "a")
    await admin.execute("UPDATE schema_version SET version_num = '9999'")
    await end_others(admin)
    for _ in range(2):
        with pytest.raises(SchemaVersionError, match="schema version 9999"):
            await append(store, state, "b")
    await admin.execute(f"UPDATE schema_version SET version_num = '{SCHEMA_VERSION:04}'")
    assert (await append(store, state, "b")).version == 2


async def test_without_create_nothing_is_made(url: str, admin: Any) -> None:
    """With create=false use makes no tables, and the error says what makes them."""
    store = PostgresAdapter.from_url(f"{url}&create=false")
    with pytest.raises(SchemaVersionError, match="`thoughtgear db upgrade`"):
        await store.load_run("r")
    schema = url.rpartition("schema=")[2]
    exists = f"SELECT count(*) FROM pg_namespace WHERE nspname = '{schema}'"
    assert await admin.fetchval(exists) == 0
    assert (await store.upgrade()).before is None
    await append(store, new_run("r"), "a")
    await store.aclose()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "a-b",
        "A",
        "1a",
        "é",
        "pg_catalog",
        "a" * 64,
        "a\n",
        "a,public",
        "a.b",
        '"a"',
        "a;DROP SCHEMA public CASCADE;--",
        'a"; DROP SCHEMA public CASCADE; --',
        "a' OR '1'='1",
        "$user",
        "a\0",
        "a%20b",
    ],
)
async def test_a_schema_is_a_plain_name(name: str) -> None:
    """What is no plain lower-case name is refused as the tables' schema, in a URL and in a dict."""
    option = {"schema": name}
    for settings in ({"type": "postgres", **option}, f"postgresql://h/d?{urlencode(option)}"):
        with pytest.raises(ConfigurationError, match="schema: a-z, 0-9 and _"):
            open_store(settings)


async def test_an_upgrade_waits_for_another_as_long_as_it_takes(url: str, admin: Any) -> None:
    """Who upgrades waits for another upgrade beyond lock_timeout and command_timeout."""
    store = PostgresAdapter.from_url(f"{url}&lock_timeout=0.1&command_timeout=0.1")
    await admin.execute(f"SELECT pg_advisory_lock({postgres_module._LOCK})")
    upgrading = asyncio.create_task(store.upgrade())
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'thoughtgear'"
        " AND wait_event = 'advisory' AND now() - query_start > interval '300 ms'"
    )
    async with asyncio.timeout(20):
        while not await admin.fetchval(waiting):
            assert not upgrading.done()
            await asyncio.sleep(0.02)
    await admin.execute(f"SELECT pg_advisory_unlock({postgres_module._LOCK})")
    assert (await upgrading).before is None
    await store.aclose()


async def test_a_schema_may_be_a_word_of_sql(postgres: PostgresServer, tmp_path: Path) -> None:
    """A schema whose name is a key word works like any other."""
    store = open_store(postgres.url(tmp_path, schema="select"))
    await append(store, new_run("r"), "a")
    assert await texts_of(store, "r") == ["a"]
    await store.aclose()


async def test_a_full_pool_is_retryable(url: str, admin: Any) -> None:
    """Who finds no free connection within pool_timeout gets a StoreUnavailableError that names pool_size."""
    store = open_store({"type": "postgres", "url": url, "pool_size": 1, "pool_timeout": 0.1})
    state = await append(store, new_run("r"), "a")
    async with admin.transaction():
        await admin.execute("SELECT 1 FROM run_states WHERE run_id = 'r' FOR UPDATE")
        writing = asyncio.create_task(append(store, state, "b"))
        await blocked(admin)
        with pytest.raises(StoreUnavailableError, match="raise pool_size"):
            await store.load_run("r")
    await writing
    assert (await store.load_run("r")).version == 2
    await store.aclose()


async def test_a_creator_spares_the_run_that_took_a_tombstones_place(
    store: PostgresAdapter, url: str, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A creator that saw an expired tombstone, where another one has put its run since, loses."""
    await append(store, new_run("r"), "old")
    await store.delete_run("r")
    await admin.execute("UPDATE run_states SET deleted_until = 1")
    other, loop, look = open_store(url), asyncio.get_running_loop(), tables_of("").standing.first

    def look_and_lose(connection: Connection, row: Any) -> Any:
        found = look(connection, row)
        monkeypatch.undo()
        asyncio.run_coroutine_threadsafe(append(other, new_run("r"), "first"), loop).result(10)
        return found

    monkeypatch.setattr(tables_of("").standing, "first", look_and_lose)
    with pytest.raises(ConflictError):
        await append(store, new_run("r"), "second")
    assert await texts_of(store, "r") == ["first"]
    assert (await store.load_run("r")).version == 1
    await other.aclose()


async def test_any_text_is_kept(store: PostgresAdapter) -> None:
    """NUL, which PostgreSQL's text can't hold, comes back, and runs are found by it."""
    odd = ["a\0b", "a\\0b", "a\\b", "\0", "\\"]
    for number, text in enumerate(odd):
        state = new_run(f"r{number}", user_id=text, session_id=text, handler=text, output=text)
        state = await append(store, state, text)
        assert await store.load_run(state.run_id) == state
        assert await texts_of(store, state.run_id) == [text]
        found = await store.list_runs(RunFilter(user_id=text, session_id=text, handler=text))
        assert [run.run_id for run in found.runs] == [state.run_id]
    await store.put_document("memory", "a", b"\0", tag=None)
    await store.put_document("memory", "a b", b"\0", tag=None)
    assert await store.list_documents("memory", after="a\0") == ["a b"]
    assert await store.list_documents("memory", "a\0") == []


async def test_the_store_keeps_to_its_schema(postgres: PostgresServer, tmp_path: Path, admin: Any) -> None:
    """An application's own tables of the same names in the same database are neither used nor touched."""
    await admin.execute("CREATE TABLE IF NOT EXISTS public.files (mine int)")
    store = open_store(postgres.url(tmp_path))
    await store.put_document("files", "k", b"v", tag=None)
    assert await admin.fetchval("SELECT count(*) FROM public.files") == 0
    await admin.execute("DROP TABLE public.files")
    await store.aclose()


async def test_commits_are_durable(store: PostgresAdapter, admin: Any) -> None:
    """A database whose default is not to wait for the disk is told to wait."""
    await admin.execute("ALTER ROLE postgres SET synchronous_commit = off")
    try:
        await append(store, new_run(), "a")
        found = await store._database.read(
            lambda connection: connection.exec_driver_sql("SHOW synchronous_commit").scalar()
        )
    finally:
        await admin.execute("ALTER ROLE postgres RESET synchronous_commit")
    assert found == "on"


async def test_an_error_holds_no_text(store: PostgresAdapter, admin: Any) -> None:
    """No part of an error, as it would be logged, quotes what was to be written."""
    state = await append(store, new_run("r"), "a")
    prompt = "".join(["hid", "den"])  # a traceback shows this line
    for rule in ("ALTER TABLE messages ADD CHECK (seq < 1)", "DROP TABLE messages"):
        await admin.execute(rule)
        with pytest.raises(StoreError) as caught:
            await append(store, state, prompt)
        assert prompt not in "".join(traceback.format_exception(caught.value))
        assert not caught.value.retryable
        assert await store.load_run("r") == state


@pytest.mark.parametrize(
    "settings",
    [
        "postgresql://u:secret/x@host/db",
        "postgresql://u:12/secret@host/db",
        "postgresql://u:sec?ret@host/db",
        "postgresql://u:12?a=secret@host/db",
        "postgresql://u:sec#ret@host/db",
        "postgresql://u:p@host:secret/db",
        "postgresql://u:p@sec ret/db",
        "postgresql://u:p@[secret/db",
        "postgresql+secret://u:p@host/db",
        "postgresql://u:secret@host/db?pool_size=0",
        "postgresql://u:secret@host/db?pool_size=1.5",
        "postgresql://u:secret@host/db?connect_timeout=soon",
        "postgresql://u:secret@host/db?schema=Secret-x",
        "postgresql://u:secret@host/db?search_path=x",
        "postgresql://u:secret@host/db?target_session_attrs=any",
        "postgresql://u:secret@host/db?create=perhaps",
        "postgresql://u:secret@host/db?lock_timeout=-1",
        "postgresql://u:secret@host/db?pool_recycle=never",
        {"type": "postgresql", "password": "secret", "port": "x"},
        {"type": "postgres", "url": "sqlite:///secret"},
    ],
)
async def test_a_wrong_setting_says_what_is_right(settings: str | dict[str, str]) -> None:
    """What can't be read is a ConfigurationError that repeats nothing of a URL."""
    with pytest.raises(ConfigurationError) as caught:
        open_store(settings)
    shown = "".join(traceback.format_exception(caught.value))
    message = str(caught.value)
    assert "secret" not in message
    assert "ret@" not in message
    assert "During handling" not in shown


@pytest.mark.parametrize(
    ("settings", "login", "address"),
    [
        (
            "postgresql://u:p%40ss@h/d",
            {"user": "u", "password": "p@ss", "host": ["h"], "port": [5432]},
            "h:5432",
        ),
        ("postgresql+asyncpg://u@h:1,[::1]:2/d", {"host": ["h", "::1"], "port": [1, 2]}, "h:1, ::1:2"),
        ("postgres:///d?host=/run/x&user=u", {"host": "/run/x", "user": "u", "database": "d"}, "/run/x"),
        ("postgresql://", {"dsn": "postgresql://?"}, "the default host"),
        ("postgresql://h/d?sslmode=require", {"dsn": "postgresql://?sslmode=require"}, "h:5432"),
        ({"host": "h", "port": 7, "password": "p"}, {"host": "h", "port": 7, "password": "p"}, "h:7"),
        ({"url": "postgresql://u@h/d", "password": "p"}, {"user": "u", "password": "p"}, "h:5432"),
    ],
)
async def test_settings_are_read(settings: Any, login: dict[str, Any], address: str) -> None:
    """URL and dict say where the server is; what is not the store's own goes to the driver."""
    read = PostgresSettings.from_url if isinstance(settings, str) else PostgresSettings.from_dict
    found = read(settings)
    assert {name: found.login[name] for name in login} == login
    assert found.address == address


async def test_a_password_is_never_shown(
    postgres: PostgresServer, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a store, nor its settings, nor an error of logging in, nor a log at DEBUG has a password."""
    caplog.set_level("DEBUG")
    wrong = {"host": "127.0.0.1", "port": postgres.port, "user": "postgres", "password": "hidden"}
    shown = [repr(PostgresSettings.from_dict(wrong)), repr(PostgresSettings.from_url(url))]
    changes: list[dict[str, Any]] = [{}, {"url": url, "database": "none"}, {"url": url, "hidden": "hidden"}]
    for change in changes:
        store = PostgresAdapter.from_dict(change if "url" in change else wrong)
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{postgres.port}") as caught:
            await store.load_run("r")
        shown += [repr(store), repr(store._database), "".join(traceback.format_exception(caught.value))]
        await store.aclose()
    shown += caplog.messages
    for text in shown:
        assert PASSWORD not in text
        assert "pa%3Ass" not in text
        assert "hidden" not in text.replace('parameter "hidden"', "")


async def test_a_driver_that_is_missing_names_the_extra() -> None:
    """Without asyncpg the error says what to install."""
    program = (
        "import sys; sys.modules['asyncpg'] = None\n"
        "from thoughtgear.registry import open_store\n"
        "try: open_store('postgresql://h/d')\n"
        "except Exception as exc: print(exc)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "pip install 'thoughtgear[postgres]'" in ended.stdout


async def test_a_forked_process_has_its_own_connections(store: PostgresAdapter) -> None:
    """A child that was forked while the store was open commits, and the parent goes on."""
    state = await append(store, new_run("r"), "parent")
    child = multiprocessing.get_context("fork").Process(target=_commit_in_child, args=(store,))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    with pytest.raises(ConflictError):
        await append(store, state, "stale")
    await append(store, await store.load_run("r"), "parent again")
    assert await texts_of(store, "r") == ["parent", "child", "parent again"]


def _commit_in_child(store: PostgresAdapter) -> None:
    async def main() -> None:
        await append(store, await store.load_run("r"), "child")
        await store.aclose()

    asyncio.run(main())


async def test_an_open_store_lets_the_interpreter_exit(url: str) -> None:
    """A program that forgets to close its store ends at once, and prints nothing of it."""
    program = (
        "import asyncio, sys; from thoughtgear.registry import open_store\n"
        "store = open_store(sys.argv[1]); print(asyncio.run(store.list_runs()).runs)"
    )
    ended = subprocess.run([sys.executable, "-c", program, url], timeout=60, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[]\n", "")


async def test_closing_waits_for_what_is_under_way(store: PostgresAdapter, admin: Any) -> None:
    """aclose lets a write finish; after it a call raises StoreError, and no connection is left."""
    state = await append(store, new_run("r"), "a")
    async with admin.transaction():
        await admin.execute("SELECT 1 FROM run_states WHERE run_id = 'r' FOR UPDATE")
        writing = asyncio.create_task(append(store, state, "b"))
        await blocked(admin)
        closing = asyncio.create_task(store.aclose())
        await asyncio.sleep(0)
    assert (await writing).version == 2
    await closing
    with pytest.raises(StoreError, match="closed"):
        await store.load_run("r")
    left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'thoughtgear'"
    async with asyncio.timeout(10):  # the server's side of a connection ends a moment later
        while await admin.fetchval(left):
            pass
