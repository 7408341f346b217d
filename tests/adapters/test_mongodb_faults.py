"""The mongodb store when servers, connections and writers die, on a server of MongoDB's wire protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from killed_server import LONG_LOAD, outlive_kills, reload
from mongodb_proxy import Proxy
from mongodb_server import MongoServer
from server_process import running_again

from thoughtgear.adapters import mongodb_runs
from thoughtgear.errors import StoreUnavailableError
from thoughtgear.protocols import OrmAdapter
from thoughtgear.registry import open_store
from thoughtgear.testing import append, new_run
from thoughtgear.testing.case import assert_standing, texts_of

COMMIT = b"findAndModify"


@pytest.fixture
def url(mongodb: MongoServer, tmp_path: Path) -> str:
    return mongodb.url(tmp_path)


@pytest.fixture
async def store(url: str) -> AsyncIterator[OrmAdapter]:
    opened = open_store(url)
    yield opened
    await opened.aclose()


@pytest.fixture
def stoppable(mongodb: MongoServer) -> Iterator[MongoServer]:
    """The server, which is running again after the test."""
    with running_again(mongodb):
        yield mongodb


@pytest.fixture
def proxy(mongodb: MongoServer) -> Iterator[Proxy]:
    with Proxy(mongodb.port) as started:
        yield started


@pytest.fixture
def short_tail(monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs are flushed after a few messages."""
    monkeypatch.setattr(mongodb_runs, "TAIL_MESSAGES", 4)
    return 4


@pytest.mark.parametrize("load", [{}, pytest.param(LONG_LOAD, marks=pytest.mark.long)], ids=["short", "long"])
async def test_a_killed_server_keeps_what_it_acknowledged(
    stoppable: MongoServer, store: OrmAdapter, short_tail: int, load: dict[str, int]
) -> None:
    """Writers outlive kill -9 of the server: all that was acknowledged is there, once and in order."""
    await outlive_kills(stoppable, store, **load)


async def test_a_server_that_is_away_is_retryable(stoppable: MongoServer, tmp_path: Path) -> None:
    """While no server answers, calls raise StoreUnavailableError with its address; then they work again."""
    store = open_store(stoppable.url(tmp_path, serverSelectionTimeoutMS=200))
    state = await append(store, new_run("r"), "a")
    await asyncio.to_thread(stoppable.kill)
    calls = store.load_run("r"), append(store, state, "b"), store.delete_run("r"), store.list_runs()
    for call in calls:
        with pytest.raises(StoreUnavailableError, match=f"127.0.0.1:{stoppable.port}") as caught:
            await call
        assert caught.value.retryable
    await asyncio.to_thread(stoppable.start)
    assert await reload(store, "r") == state
    assert (await append(store, state, "b")).version == 2
    await store.aclose()


async def test_a_lost_acknowledgement_is_made_up_for(
    proxy: Proxy, mongodb: MongoServer, tmp_path: Path
) -> None:
    """Where the server knows a repeated write, a commit whose reply got lost is acknowledged, once."""
    store = open_store(mongodb.url(tmp_path, proxy.port))
    state = new_run("r")
    for number, command in enumerate([b"insert", COMMIT, COMMIT]):
        await store.list_runs()
        proxy.lose.append(command)
        state = await append(store, state, f"{number}")
    assert proxy.lost == [b"insert", COMMIT, COMMIT]
    await assert_standing(store, state, "0", "1", "2")
    await store.aclose()


@pytest.mark.parametrize("command", [b"insert", COMMIT])
async def test_a_server_that_forgot_is_seen_through(
    stoppable: MongoServer, proxy: Proxy, tmp_path: Path, command: bytes
) -> None:
    """A commit is acknowledged, too, when the server was killed and does not know that it was repeated."""

    def restart() -> None:
        stoppable.kill()
        stoppable.start()

    store = open_store(stoppable.url(tmp_path, proxy.port))
    state = new_run("r") if command == b"insert" else await append(store, new_run("r"), "0")
    await store.list_runs()
    proxy.then = restart
    proxy.lose.append(command)
    state = await append(store, state, "mine")
    assert proxy.lost == [command]
    await assert_standing(store, state, *["0"][: state.version - 1], "mine")
    await store.aclose()


@pytest.mark.parametrize("standalone", [False, True], ids=["retries off", "standalone"])
async def test_an_unknown_outcome_is_reported(
    mongodb: MongoServer, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, standalone: bool
) -> None:
    """Where nothing is repeated, a lost reply is StoreUnavailableError, and the commit is there once."""
    server = MongoServer(tmp_path_factory.mktemp("alone"), standalone=True) if standalone else mongodb
    if standalone:
        server.start()
    options = {} if standalone else {"retryWrites": "false"}
    with Proxy(server.port) as proxy:
        store = open_store(server.url(tmp_path, proxy.port, **options))
        state = await append(store, new_run("r"), "a")
        proxy.lose.append(COMMIT)
        with pytest.raises(StoreUnavailableError):
            await append(store, state, "b")
        assert proxy.lost == [COMMIT]
        found = await store.load_run("r")
        assert found.version == 2
        await assert_standing(store, await append(store, found, "c"), "a", "b", "c")
        await store.aclose()
    if standalone:
        server.kill()


async def test_a_cancelled_commit_is_awaited(proxy: Proxy, mongodb: MongoServer, tmp_path: Path) -> None:
    """A caller that is cancelled while its write is under way comes back after the write is over; one that
    only reads comes back at once."""
    store = open_store(mongodb.url(tmp_path, proxy.port))
    state = await append(store, new_run("r"), "a")
    proxy.withhold(COMMIT)
    writing = asyncio.create_task(append(store, state, "b"))
    assert await asyncio.to_thread(proxy.withheld.wait, 10)
    for _ in range(3):
        writing.cancel()
        await asyncio.sleep(0.01)
    assert not writing.done()
    proxy.release()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await texts_of(store, "r") == ["a", "b"]
    proxy.withheld.clear()
    proxy.withhold(b"find")
    reading = asyncio.create_task(store.load_run("r"))
    assert await asyncio.to_thread(proxy.withheld.wait, 10)
    reading.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([reading])
    assert reading.cancelled()
    proxy.release()
    await store.aclose()
