"""A worker that has just committed goes on from what it knows, and misses nothing by that."""

from __future__ import annotations

from typing import Any

import pytest

from thoughtgear import iteration
from thoughtgear.errors import RunNotFoundError
from thoughtgear.handler import PromptHandler
from thoughtgear.models import Message, RunState
from thoughtgear.payloads import IterationResult
from thoughtgear.protocols import Attempt
from thoughtgear.providers.scripted import ScriptedProvider, call
from thoughtgear.testing import FaultyStore
from thoughtgear.tools import tool


@tool
async def double(number: int) -> int:
    """Double a number."""
    return number * 2


class Driver:
    """Drives a run as Temporal does: an attempt per iteration, which knows the last version."""

    def __init__(self, store: FaultyStore, *replies: Any) -> None:
        self.handler = PromptHandler(model=ScriptedProvider(replies=list(replies)), orm=store, tools=[double])
        self.state: RunState

    async def begin(self) -> IterationResult:
        self.state = await self.handler.create_run("go")
        return await self.go_on(IterationResult("running", 1, self.state.version))

    async def go_on(self, last: IterationResult, number: int = 1) -> IterationResult:
        attempt = Attempt(driver="temporal", serialised=True, version=last.version, number=number)
        return await self.handler.run_iteration(self.state.run_id, last.iteration, attempt)


async def test_a_warm_worker_reads_nothing(store: FaultyStore) -> None:
    """The iteration after one of the same worker begins without a read of the store."""
    driver = Driver(store, [call("double", number=1)], [call("double", number=2)], "done")
    last = await driver.begin()
    store.loads = 0
    last = await driver.go_on(await driver.go_on(last))
    assert (last.status, store.loads) == ("done", 0)


async def test_a_warm_worker_reads_what_others_wrote(store: FaultyStore) -> None:
    """Of a transcript of 2,000 messages that two workers take turns on, each reads all of it once, and then
    the rows that the other one wrote."""
    read: dict[str, int] = {"one": 0, "two": 0}
    script = [*([call("double", number=1)] for _ in range(6)), "done"]
    one = Driver(counting(store, read, "one"), *script)
    two = Driver(counting(store, read, "two"), *script)
    one.state = two.state = await long_run(store, 2000)
    last = IterationResult("running", 1, one.state.version)
    for reader, expected in (("one", 2000), ("two", 2002), ("one", 2), ("two", 2), ("one", 2), ("one", 0)):
        read.update(one=0, two=0)
        last = await (one if reader == "one" else two).go_on(last, number=2)
        assert (reader, read[reader]) == (reader, expected)
        assert sum(read.values()) == expected


def counting(store: FaultyStore, read: dict[str, int], name: str) -> FaultyStore:
    """The store as one worker has it, which adds up the rows of transcripts that it reads."""
    own = FaultyStore(store._inner)

    async def counted(run_id: str, after: int = -1, limit: int | None = None) -> list[Message]:
        found = await store.get_history(run_id, after, limit)
        read[name] += len(found)
        return found

    vars(own)["get_history"] = counted
    return own


async def long_run(store: FaultyStore, count: int) -> RunState:
    """A run that has been sent many messages and has answered none."""
    state = RunState(run_id="long", version=1, message_count=count, nonce="created")
    await store.save_run(state, [Message(seq=seq, role="user", text=f"{seq}") for seq in range(count)])
    return state


@pytest.mark.parametrize("number", [1, 2])
async def test_a_message_in_between_is_answered(store: FaultyStore, number: int) -> None:
    """A message that a sender put into the store meanwhile is in the inbox, and the run goes on for it."""
    driver = Driver(store, [call("double", number=1)], "done", "done with that, too")
    last = await driver.begin()
    await PromptHandler(model="scripted:echo", orm=store, executor=_Idle()).send(
        driver.state.run_id, "and this"
    )
    while last.status == "running":
        last = await driver.go_on(last, number)
    history = await driver.handler.history(driver.state.run_id)
    assert [message.text for message in history if message.role == "user"] == ["go", "and this"]
    assert history[-1].role == "assistant"


async def test_another_version_is_read(store: FaultyStore) -> None:
    """A driver that knows of another version than this process has committed makes it read the store."""
    driver = Driver(store, [call("double", number=1)], "done")
    last = await driver.begin()
    store.loads = 0
    last.version -= 1
    assert (await driver.go_on(last)).status == "done"
    assert store.loads == 1


async def test_an_older_commit_is_read_again(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed longer ago than a check may be is read: a deleted run is gone."""
    driver = Driver(store, [call("double", number=1)], "done")
    last = await driver.begin()
    await store.delete_run(driver.state.run_id)
    monkeypatch.setattr(iteration, "FRESH_SECONDS", 0.0)
    with pytest.raises(RunNotFoundError):
        await driver.go_on(last)


class _Idle:
    """An executor that drives nothing."""

    name = "idle"

    async def schedule_next_iteration(self, run_id: str) -> None: ...
