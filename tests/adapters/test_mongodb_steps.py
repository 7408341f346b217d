"""The mongodb store between the steps of a commit, a flush, a deletion and a read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from mongodb_server import MongoServer
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.cursor import AsyncCursor

from thoughtgear.adapters import mongodb_runs
from thoughtgear.errors import ConflictError
from thoughtgear.models import RunState
from thoughtgear.protocols import OrmAdapter
from thoughtgear.registry import open_store
from thoughtgear.testing import append, new_run
from thoughtgear.testing.case import assert_absent, assert_standing, texts_of

WRITES = (
    "insert_one",
    "insert_many",
    "update_one",
    "find_one_and_update",
    "delete_many",
    "delete_one",
)

TAIL = 4
"""Runs are flushed after so many messages."""


@pytest.fixture(autouse=True)
def _short_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mongodb_runs, "TAIL_MESSAGES", TAIL)


@pytest.fixture
def url(mongodb: MongoServer, tmp_path: Path) -> str:
    return mongodb.url(tmp_path)


@pytest.fixture
async def store(url: str) -> AsyncIterator[OrmAdapter]:
    opened = open_store(url)
    yield opened
    await opened.aclose()


@pytest.fixture
async def other(url: str) -> AsyncIterator[OrmAdapter]:
    opened = open_store(url)
    yield opened
    await opened.aclose()


@pytest.fixture
async def database(url: str) -> AsyncIterator[Any]:
    """What is really there."""
    client = AsyncMongoClient(url, socketTimeoutMS=30_000)
    yield client.get_default_database()
    await client.close()


async def append_many(store: OrmAdapter, state: RunState, count: int, word: str = "") -> RunState:
    for number in range(count):
        state = await append(store, state, f"{word}{number}")
    return state


def texts(count: int, word: str = "") -> list[str]:
    return [f"{word}{number}" for number in range(count)]


class Died(BaseException):
    """The process ends here."""


class Steps:
    """Lets the process die before the n-th write to the server, and calls `between` before it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
        self.left = left
        for name in WRITES:
            monkeypatch.setattr(AsyncCollection, name, self._counted(getattr(AsyncCollection, name)))

    def _counted(self, real):
        def step(*args, **kwargs):
            self.left -= 1
            if self.left < 0:
                raise Died
            return real(*args, **kwargs)

        return step


BIG = "x" * 70_000
"""A message that lies apart."""


async def test_a_crash_at_any_step_of_a_commit(
    url: str, other: OrmAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a writer dies, in a creation, a commit or a flush, its commit is whole or absent, and the
    next writer goes on."""
    counts = {}
    for versions in (0, 1, TAIL - 1):
        for left in range(10):
            run_id = f"r{versions}-{left}"
            state = await append_many(other, new_run(run_id), versions)
            died = await _append_dying(url, state, monkeypatch, left)
            await _assert_survived(other, run_id, versions, acknowledged=not died)
            if not died:
                break
        counts[versions] = left
    assert counts == {0: 2, 1: 2, TAIL - 1: 4}


async def _append_dying(url: str, state: RunState, monkeypatch: pytest.MonkeyPatch, left: int) -> bool:
    store = open_store(url)
    await store.list_runs()
    with monkeypatch.context() as patch:
        Steps(patch, left)
        try:
            await append(store, state, BIG)
        except Died:
            return True
        finally:
            await store.aclose()
    return False


async def _assert_survived(store: OrmAdapter, run_id: str, versions: int, *, acknowledged: bool) -> None:
    before = texts(versions)
    found = await texts_of(store, run_id)
    assert found in (before, [*before, BIG])
    assert len(found) == versions + 1 or not acknowledged
    state = await store.load_run(run_id) if found else new_run(run_id)
    state = await append_many(store, state, TAIL + 2, "on ")
    await assert_standing(store, state, *found, *texts(TAIL + 2, "on "))


async def test_a_crash_at_any_step_of_a_deletion(
    url: str, other: OrmAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a deleter dies, the run is there whole or gone for good, and deleting again completes it."""
    for left in range(10):
        run_id = f"r{left}"
        state = await append_many(other, new_run(run_id), TAIL + 1)
        await other.put_document("files", f"{run_id}/a", b"x", tag=None)
        store, died = open_store(url), False
        await store.list_runs()
        with monkeypatch.context() as patch:
            Steps(patch, left)
            try:
                await store.delete_run(run_id)
            except Died:
                died = True
        await store.aclose()
        if left == 0:
            await assert_standing(other, state, *texts(TAIL + 1))
        else:
            await assert_absent(other, run_id)
            with pytest.raises(ConflictError):
                await append(other, state, "late")
        await other.delete_run(run_id)
        assert await other.list_documents("files", f"{run_id}/") == []
        if not died:
            break
    assert left == 5


class Between:
    """Does something else, once, before a call of one method for one collection; `fired` says that it did."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        step: str,
        act: Callable[[], Awaitable[Any]],
    ) -> None:
        self.fired = False
        name, _, method = step.partition(".")
        kind: Any = AsyncCursor if method == "to_list" else AsyncCollection
        real = getattr(kind, method)

        async def late(this, *args, **kwargs):
            collection = this.collection if kind is AsyncCursor else this
            if collection.name == name and not self.fired:
                self.fired = True
                await act()
            return await real(this, *args, **kwargs)

        monkeypatch.setattr(kind, method, late)


async def test_a_reader_outlives_a_flush(
    store: OrmAdapter, other: OrmAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that has seen the run reads that transcript, whatever is flushed before it goes on."""
    state = await append_many(other, new_run("r"), TAIL + 2)
    step = Between(monkeypatch, "messages.to_list", lambda: append_many(other, state, 2 * TAIL, "late "))
    assert await texts_of(store, "r") == texts(TAIL + 2)
    assert step.fired
    assert await texts_of(store, "r") == texts(TAIL + 2) + texts(2 * TAIL, "late ")


async def test_a_reader_outlives_a_deletion(
    store: OrmAdapter, other: OrmAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader whose messages are deleted before it goes on finds no run, and no damage."""
    await append_many(other, new_run("r"), TAIL + 2)
    step = Between(monkeypatch, "messages.to_list", lambda: other.delete_run("r"))
    assert await store.get_history("r") == []
    assert step.fired


async def test_a_reader_outlives_the_next_state(
    store: OrmAdapter, other: OrmAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader of a state that lies in chunks, and is replaced before it has them, reads the next one."""
    state = await append(other, new_run("r", output="x" * 2_000_000), "a")
    step = Between(monkeypatch, "chunks.to_list", lambda: append(other, state, "b"))
    assert (await store.load_run("r")).version == 2
    assert step.fired


@pytest.mark.parametrize("step", ["messages.insert_many", "run_states.update_one"], ids=["write", "trim"])
async def test_flushes_meet(
    store: OrmAdapter, other: OrmAdapter, database: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A flush in whose midst others commit and flush loses and doubles nothing, and the run goes on."""
    state = await append_many(store, new_run("r"), TAIL - 1)

    async def act() -> None:
        await append_many(other, await other.load_run("r"), TAIL + 1, "late ")

    between = Between(monkeypatch, step, act)
    await append(store, state, "last")
    assert between.fired
    expected = [*texts(TAIL - 1), "last", *texts(TAIL + 1, "late ")]
    assert await texts_of(store, "r") == expected
    await append_many(store, await store.load_run("r"), TAIL, "on ")
    assert await texts_of(store, "r") == [*expected, *texts(TAIL, "on ")]
    run = await database.run_states.find_one({"_id": "r"})
    assert len(run["tail"]) == run["message_count"] - run["base"] < TAIL
    assert run["tail_bytes"] == sum(mongodb_runs.ENTRY_BYTES + len(each["body"]) for each in run["tail"])


@pytest.mark.parametrize("step", ["messages.insert_many", "run_states.update_one"], ids=["write", "trim"])
async def test_a_flush_after_a_deletion_leaves_nothing(
    store: OrmAdapter, other: OrmAdapter, database: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Messages that are flushed after the run was deleted are removed again."""
    state = await append_many(store, new_run("r"), TAIL - 1)
    between = Between(monkeypatch, step, lambda: other.delete_run("r"))
    await append(store, state, "last")
    assert between.fired
    await assert_absent(store, "r")
    assert await database.messages.count_documents({}) == 0


async def test_a_flush_after_a_new_creation_harms_nothing(
    store: OrmAdapter, other: OrmAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages that are flushed when the run was deleted and created again are not the new run's."""
    state = await append_many(store, new_run("r"), TAIL - 1, "old ")
    monkeypatch.setattr(mongodb_runs, "TOMBSTONE_SECONDS", 0)

    async def act() -> None:
        await other.delete_run("r")
        await append_many(other, new_run("r"), TAIL + 1, "new ")

    between = Between(monkeypatch, "messages.insert_many", act)
    await append(store, state, "old")
    assert between.fired
    new = await append_many(store, await store.load_run("r"), TAIL, "on ")
    await assert_standing(store, new, *texts(TAIL + 1, "new "), *texts(TAIL, "on "))


async def test_a_creation_over_an_expired_tombstone_has_one_winner(
    store: OrmAdapter, other: OrmAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two creators that both find the tombstone of a run expired one wins, and its run is left alone."""
    with monkeypatch.context() as patch:
        patch.setattr(mongodb_runs, "TOMBSTONE_SECONDS", 0)
        await append_many(other, new_run("r"), TAIL + 1, "old ")
        await other.delete_run("r")
    between = Between(
        monkeypatch, "run_states.delete_one", lambda: append_many(other, new_run("r"), TAIL + 1, "new ")
    )
    with pytest.raises(ConflictError):
        await append(store, new_run("r"), "mine")
    assert between.fired
    assert await texts_of(store, "r") == texts(TAIL + 1, "new ")


async def test_flushes_that_fail_are_made_up_for(
    store: OrmAdapter, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a run's document would grow too large for want of flushes, the commit flushes first."""
    text = "x" * 60_000
    with monkeypatch.context() as patch:
        # Eight times the size, rewritten by each commit, is more than the tests' server can always evict from
        # its cache: it then answers no one any more.
        patch.setattr(mongodb_runs, "FULL_BYTES", 2**20)
        patch.setattr(mongodb_runs, "TAIL_MESSAGES", 10_000)
        patch.setattr(mongodb_runs, "TAIL_BYTES", 10**9)
        state = await append(store, new_run("r"), "first")
        for _ in range(12):
            state = await append(store, state, *[text] * 4)
        run = await database.run_states.find_one({"_id": "r"}, {"base": 1})
        assert run["base"] > 0
    assert await texts_of(store, "r") == ["first", *[text] * 12 * 4]
