"""The mongodb store, on a server of MongoDB's wire protocol: WiredTiger, but not MongoDB itself."""

from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import bson
import pytest
from mongodb_server import MongoServer
from pymongo import AsyncMongoClient, monitoring

from thoughtgear.adapters import mongodb_database, mongodb_runs
from thoughtgear.adapters.mongodb_runs import TAIL_MESSAGES
from thoughtgear.deletion import delete_run
from thoughtgear.errors import (
    ConfigurationError,
    ConflictError,
    InvalidInputError,
    SchemaVersionError,
    StoreError,
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
from thoughtgear.testing.case import assert_standing, texts_of


class OnMongo(StoreCase):
    @pytest.fixture(autouse=True)
    def _address(self, mongodb: MongoServer, tmp_path: Path) -> None:
        """Other processes read there which server it is."""
        (tmp_path / "url").write_text(mongodb.url(tmp_path))

    @classmethod
    async def open_store(cls, place: Path) -> OrmAdapter:
        return open_store((place / "url").read_text())


class TestMongo(OnMongo, SharedAdapterConformance):
    """Every clause."""


@pytest.mark.long
class TestMongoEndurance(OnMongo, SharedAdapterEndurance):
    """Large numbers."""

    kills = 50


class Commands(monitoring.CommandListener):
    """What the driver sends, by database, but for what it does for itself."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.database_name != "admin":
            self.sent.append((event.command_name, dict(event.command)))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass

    def taken(self) -> tuple[Counter[str], int]:
        """Return how many of each there were since the last time, and their bytes."""
        counts = Counter(name for name, _ in self.sent)
        size = sum(len(bson.encode(command)) for _, command in self.sent)
        self.sent.clear()
        return counts, size


@pytest.fixture
def url(mongodb: MongoServer, tmp_path: Path) -> str:
    return mongodb.url(tmp_path)


@pytest.fixture
async def store(url: str) -> AsyncIterator[OrmAdapter]:
    opened = open_store(url)
    yield opened
    await opened.aclose()


@pytest.fixture
async def database(url: str) -> AsyncIterator[Any]:
    """What is really there."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(url, socketTimeoutMS=30_000)
    yield client.get_default_database()
    await client.close()


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """The commands of the store."""
    listener = Commands()
    real = mongodb_database.connect
    monkeypatch.setattr(mongodb_database, "connect", lambda *given: real(*given, event_listeners=[listener]))
    return listener


async def test_a_commit_costs_what_is_new(store: OrmAdapter, commands: Commands, database: Any) -> None:
    """At 3,000 messages a commit takes the same commands and bytes as at 10, and a load few commands."""
    state, costs = await append(store, new_run("r"), *["x"] * TAIL_MESSAGES), []
    for _ in range(2):
        commands.taken()
        for _ in range(TAIL_MESSAGES):
            state = await append(store, state, "y" * 1000)
        costs.append(commands.taken())
        while state.message_count < 3000:
            state = await append(store, state, *["z" * 1000] * 250)
    (early, early_bytes), (late, late_bytes) = costs
    assert early == late == {"findAndModify": TAIL_MESSAGES, "find": 1, "insert": 1, "update": 1}
    assert late_bytes < 1.05 * early_bytes
    commands.taken()
    assert (await store.load_run("r")).message_count == state.message_count
    assert commands.taken()[0] == {"find": 1}
    assert len(await store.get_history("r")) == state.message_count
    assert commands.taken()[0] == {"find": 2}
    state = await append(store, state, "new")
    commands.taken()
    assert len(await store.get_history("r", after=state.message_count - 2)) == 1
    assert commands.taken()[0] == {"find": 1}
    assert len(bson.encode(await database.run_states.find_one({"_id": "r"}))) < 10_000


async def test_what_the_url_says_of_durability_does_not_count(url: str, commands: Commands) -> None:
    """Every write asks for a majority and the journal, every read for what a majority has."""
    store = open_store(f"{url}&w=0&journal=false&readConcernLevel=local&readPreference=nearest")
    state = await append(store, new_run("r"), *["x"] * TAIL_MESSAGES)
    await append(store, state, "y")
    await store.get_history("r")
    tag = await store.put_document("files", "r/a", b"x", tag=None)
    await store.put_document("files", "r/a", b"y", tag=tag)
    await store.delete_run("r")
    await store.aclose()
    reads = [command for name, command in commands.sent if name == "find"]
    writes = [command for name, command in commands.sent if name not in ("find", "createIndexes")]
    assert {name for name, _ in commands.sent} >= {"insert", "update", "delete", "findAndModify"}
    assert [command["writeConcern"] for command in writes] == [{"w": "majority", "j": True}] * len(writes)
    assert [command["readConcern"]["level"] for command in reads] == ["majority"] * len(reads)


async def test_a_standalone_server_will_do(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without a replica set everything works, and nothing that is acknowledged is lost by kill -9."""
    server = MongoServer(tmp_path_factory.mktemp("alone"), standalone=True)
    server.start()
    store = open_store(server.url(tmp_path))
    state = new_run("r")
    for number in range(2 * TAIL_MESSAGES + 1):
        state = await append(store, state, f"{number}")
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    await store.aclose()
    store = open_store(server.url(tmp_path))
    await assert_standing(store, state, *(f"{number}" for number in range(2 * TAIL_MESSAGES + 1)))
    await store.aclose()
    server.kill()


async def test_long_values_are_kept_in_chunks(store: OrmAdapter, database: Any) -> None:
    """A document beyond 16 MB comes back whole, and replacing or deleting it leaves no chunk."""
    for value in (b"x" * 17_000_000, bytes(range(256)) * 80_000, b"short"):
        found = await store.get_document("files", "r/a")
        await store.put_document("files", "r/a", value, tag=found.tag if found else None)
        found = await store.get_document("files", "r/a")
        assert found is not None
        assert found.value == value
        assert await database.chunks.count_documents({}) == (3 if len(value) > 100 else 0)
        with pytest.raises(ConflictError):
            await store.put_document("files", "r/a", b"y" * 9_000_000, tag="other")
        with pytest.raises(ConflictError):
            await store.put_document("files", "r/a", b"y" * 9_000_000, tag=None)
    tag = await store.put_document("files", "r/a", b"z" * 9_000_000, tag=found.tag)
    await store.put_document("files", "r/a", None, tag=tag)
    assert await database.chunks.count_documents({}) == 0


async def test_long_states_and_messages_are_kept_in_chunks(store: OrmAdapter, database: Any) -> None:
    """A commit beyond 16 MB is whole: its state, one long message, and many of middle size."""
    texts = ["l" * 17_000_000, *[f"{number}" * 30_000 for number in range(10, 60)], "short"]
    state = await append(store, new_run("r", output="o" * 17_000_000), *texts)
    await assert_standing(store, state, *texts)
    assert (await store.list_runs()).runs == [state]
    with pytest.raises(ConflictError):
        await append(store, new_run("r", output="o" * 2_000_000), "l" * 100_000)
    before = await database.chunks.count_documents({})
    state = await append(store, state.model_copy(update={"output": ""}), "m" * 100_000)
    assert await database.chunks.count_documents({}) == before - 3 + 1
    await assert_standing(store, state, *texts, "m" * 100_000)
    await store.delete_run("r")
    assert await database.chunks.count_documents({}) == 0
    assert await database.messages.count_documents({}) == 0


async def test_a_run_without_its_chunks_is_told(store: OrmAdapter, database: Any) -> None:
    """A run whose long state has lost its chunks, or its body, is told by the list, which has the others."""
    await append(store, new_run("long", output="o" * 2_000_000), "a")
    await append(store, new_run("bare"), "a")
    well = await append(store, new_run("well"), "a")
    await database.chunks.delete_many({})
    await database.run_states.update_one({"_id": "bare"}, {"$unset": {"body": ""}})
    page = await store.list_runs()
    assert (page.runs, sorted(page.damaged)) == ([well], ["bare", "long"])
    for run_id in page.damaged:
        with pytest.raises(StoreError, match="damaged"):
            await store.load_run(run_id)
        await delete_run(store, run_id, force=True)
    assert (await store.list_runs()).damaged == {}


async def test_nothing_is_taken_for_an_operator(store: OrmAdapter) -> None:
    """What is no text is refused as an id, as a filter and as a tag."""
    await append(store, new_run("r", user_id="u", handler="$ne"), "a")
    tag = await store.put_document("memory", "k", b"x", tag=None)
    anything: Any = {"$ne": None}
    for call in (
        store.load_run(anything),
        store.get_history(anything),
        store.delete_run(anything),
        store.get_document("memory", anything),
        store.put_document("memory", anything, b"y", tag=None),
        store.list_documents("memory", anything),
        store.list_documents("memory", after=anything),
    ):
        with pytest.raises(InvalidInputError):
            await call
    with pytest.raises(InvalidInputError):
        RunFilter(user_id=anything)
    assert len((await store.list_runs(RunFilter(user_id="u", handler="$ne"))).runs) == 1
    with pytest.raises(InvalidInputError):
        await store.put_document("memory", "k", b"y", tag=anything)
    assert await store.put_document("memory", "k", b"y", tag=tag)


async def test_an_expired_tombstone_gives_the_id_free(
    store: OrmAdapter, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its time a deleted run can be created again; the server is told to remove the tombstones."""
    old = await append(store, new_run("r"), "old")
    await append(store, new_run("kept"), "kept")
    await store.delete_run("kept")
    monkeypatch.setattr(mongodb_runs, "TOMBSTONE_SECONDS", 0)
    await store.delete_run("r")
    await assert_standing(store, await append(store, new_run("r"), "new"), "new")
    for late in (new_run("kept"), old.model_copy(update={"version": 2})):
        with pytest.raises(ConflictError):
            await append(store, late, "late")
    indexes = (await database.run_states.index_information()).values()
    assert [("expires_at", 1)] in [each["key"] for each in indexes if each.get("expireAfterSeconds") == 0]


async def test_a_newer_layout_is_refused(url: str, store: OrmAdapter, database: Any) -> None:
    """A database that another version laid out raises SchemaVersionError."""
    await store.list_runs()
    await database.schema_version.update_one({}, {"$inc": {"version": 1}})
    newer = open_store(url)
    with pytest.raises(SchemaVersionError, match="upgrade"):
        await newer.list_runs()
    await newer.aclose()


SECRET = "pa%3Ass%2Fword"


@pytest.mark.parametrize(
    "settings",
    [
        f"mongodb://me:{SECRET}",
        f"mongodb://me:{SECRET}@host:x/db",
        f"mongodb://me:{SECRET}@@host/db",
        f"mongodb:me:{SECRET}@host",
        f"mongodb+srv://me:{SECRET}@host:1/db",
        f"mongodb://me:{SECRET}@host/d.b",
        f"mongodb://me:{SECRET}@host/?maxPoolSize=many",
        {"type": "mongodb"},
        {"type": "mongodb", "url": 1},
        {"type": "mongodb", "url": "mongodb://host", "pass": SECRET},
        {"type": "mongodb", "url": "mongodb://host", "password": SECRET},
    ],
    ids=lambda settings: str(settings).replace(SECRET, "_"),
)
async def test_a_wrong_setting_says_what_is_right(settings: str | dict[str, Any]) -> None:
    """A URL that can't be used is a ConfigurationError that shows a right one and repeats nothing."""
    with pytest.raises(ConfigurationError, match=r"mongodb://user:password@|it has url") as caught:
        open_store(settings)
    shown = "".join(traceback.format_exception(caught.value))
    assert "ss%2Fword" not in str(caught.value)
    assert "ss/word" not in shown


@pytest.mark.parametrize("apart", [False, True], ids=["in the url", "beside it"])
async def test_no_message_holds_the_password(mongodb: MongoServer, apart: bool) -> None:
    """A store that shows itself, and a login that is refused, name the server and not the password."""
    host = f"127.0.0.1:{mongodb.port}/db"
    login = {"username": "me", "password": unquote(SECRET)}
    settings = {"type": "mongodb", "url": f"mongodb://{host}", **login}
    store = open_store(settings if apart else f"mongodb://me:{SECRET}@{host}")
    assert repr(store) == f"MongoAdapter(127.0.0.1:{mongodb.port}/db)"
    with pytest.raises(ConfigurationError, match=f"127.0.0.1:{mongodb.port}") as caught:
        await store.list_runs()
    shown = "".join(traceback.format_exception(caught.value))
    assert "ss%2Fword" not in shown
    assert "ss/word" not in shown
    await store.aclose()


async def test_where_the_database_is() -> None:
    """The URL's database counts, one beside it more; without any it is thoughtgear. SRV names will do."""
    hosts = "mongodb://u:p@a:1,b:2"
    assert repr(open_store(f"{hosts}/x?tls=true")) == "MongoAdapter(a:1,b:2/x)"
    assert repr(open_store(hosts)) == "MongoAdapter(a:1,b:2/thoughtgear)"
    assert repr(open_store({"type": "mongodb", "url": f"{hosts}/x", "database": "y"})).endswith("/y)")
    assert (
        repr(open_store("mongodb+srv://u:p@cluster.example.com/x")) == "MongoAdapter(cluster.example.com/x)"
    )


async def test_a_forked_process_has_its_own_connections(store: OrmAdapter) -> None:
    """A child that was forked from a process with an open store commits, and so does the parent then."""
    await append(store, new_run("r"), "parent")
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_commit_in_child, args=(store,))
    child.start()
    await asyncio.to_thread(child.join, 30)
    assert child.exitcode == 0
    await append(store, await store.load_run("r"), "parent again")
    assert await texts_of(store, "r") == ["parent", "child", "parent again"]


def _commit_in_child(store: OrmAdapter) -> None:
    async def main() -> None:
        await append(store, await store.load_run("r"), "child")
        await store.aclose()

    asyncio.run(main())


async def test_an_open_store_lets_the_interpreter_exit(url: str) -> None:
    """A program that forgets to close its store ends, and prints nothing of it."""
    program = (
        "import asyncio; from thoughtgear.registry import open_store\n"
        f"store = open_store({url!r}); print(asyncio.run(store.list_runs()).runs)"
    )
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], timeout=60, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[]\n", "")


async def test_a_closed_store_says_so(store: OrmAdapter) -> None:
    """After aclose a call raises StoreError."""
    await store.list_runs()
    await store.aclose()
    with pytest.raises(StoreError, match="closed"):
        await store.load_run("r")
