"""The watch beside a long step, and the check before an effect. The simulation found each of these."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from thoughtgear import commit
from thoughtgear.errors import SupersededError
from thoughtgear.handler import PromptHandler
from thoughtgear.models import Message, RunState, ToolResult
from thoughtgear.protocols import Attempt, ModelReply, ModelRequest, OnText
from thoughtgear.providers.scripted import ScriptedProvider, call
from thoughtgear.testing import FaultyStore
from thoughtgear.testing.attempts import RUN, answers, latest_writer, prompted, writer_for
from thoughtgear.tools import tool


class Clock:
    """Stands in for `time` in the commit protocol; `pass_` lets seconds go by, as a freeze does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        monkeypatch.setattr(commit, "time", SimpleNamespace(monotonic=self.monotonic, time=time.time))

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    async def pass_(self, _: RunState) -> None:
        self.ahead += 60.0


async def test_a_renewal_does_not_follow_the_commit_that_ends_the_run(store: FaultyStore) -> None:
    """A renewal that had to wait for the commit that ends the run leaves it ended."""
    writer = writer_for(store, await prompted(store._inner), hold=0.0)
    await writer.claim()
    looking, go_on, load = asyncio.Event(), asyncio.Event(), store.load_run

    async def slow(run_id: str) -> RunState:
        looking.set()
        await go_on.wait()
        return await load(run_id)

    store.load_run = slow  # type: ignore[method-assign] # the moment of the race
    watching = asyncio.create_task(writer.watch())
    await looking.wait()
    ending = asyncio.create_task(writer.commit(answers()))
    await asyncio.sleep(0)  # it waits for the look
    go_on.set()
    ended = await ending
    async with writer._lock:  # behind the renewal, which waits for it, too
        watching.cancel()
    store.load_run = load  # type: ignore[method-assign]
    state = await store.load_run(RUN)
    assert (state.status, state.version) == ("done", ended.version)


async def test_a_late_acknowledgement_is_no_fresh_contact(
    store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder that stands still between a commit and its acknowledgement looks again before an effect."""
    clock, writer = Clock(monkeypatch), writer_for(store, await prompted(store._inner))
    store.after_save = clock.pass_
    await writer.claim()
    store.after_save = None
    await (await latest_writer(store)).claim()
    with pytest.raises(SupersededError):
        await writer.check()


async def test_a_late_look_is_no_fresh_contact(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that stands still while the store answers its look is superseded all the same."""
    clock, writer = Clock(monkeypatch), writer_for(store, await prompted(store._inner))
    await writer.claim()
    load = store.load_run

    async def overtaken(run_id: str) -> RunState:
        state = await load(run_id)
        store.load_run = load  # type: ignore[method-assign]
        await (await latest_writer(store)).claim()
        await clock.pass_(state)
        return state

    store.load_run = overtaken  # type: ignore[method-assign] # the fault
    clock.ahead += 60.0
    with pytest.raises(SupersededError):
        await writer.check()


async def test_a_commit_that_waits_for_its_turn_is_made_when_it_is_cancelled(store: FaultyStore) -> None:
    """A commit whose caller is cancelled while it waits for another of the run is over when the caller is."""
    writer = writer_for(store, await prompted(store._inner))
    await writer.claim()
    async with writer._lock:
        ending = asyncio.create_task(writer.commit(answers()))
        await asyncio.sleep(0)  # it waits
        ending.cancel()
        await asyncio.sleep(0)  # the cancellation arrives
        assert not ending.done()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert (await store.load_run(RUN)).status == "done"


async def test_a_result_behind_a_look_survives_a_stop(
    store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a tool returned is saved where its commit still waits for a look when the attempt is cancelled."""
    paying, looking, committing = asyncio.Event(), asyncio.Event(), asyncio.Event()
    load, real = store.load_run, commit.RunWriter.commit

    @tool(policy="at_most_once")
    async def pay() -> str:
        paying.set()
        await looking.wait()
        return "paid"

    async def hanging(run_id: str) -> RunState:
        if paying.is_set():
            looking.set()
            await asyncio.Event().wait()
        return await load(run_id)

    async def noted(self: commit.RunWriter, *given: Any, **options: Any) -> RunState:
        if looking.is_set():
            committing.set()
        return await real(self, *given, **options)

    handler = PromptHandler(model=ScriptedProvider(replies=[[call("pay")], "end"]), orm=store, tools=[pay])
    run = await handler.create_run("hello")
    store.load_run = hanging  # type: ignore[method-assign] # the moment of the race
    monkeypatch.setattr(commit.RunWriter, "commit", noted)
    attempt = asyncio.create_task(handler.run_iteration(run.run_id, 1, Attempt(watch=0.01)))
    async with asyncio.timeout(20):
        await committing.wait()
    attempt.cancel()
    with suppress(asyncio.CancelledError):
        await attempt
    assert [result.content for result in results_of(await handler.history(run.run_id))] == ["paid"]


async def test_a_call_that_a_stop_kept_from_beginning_is_run_later(store: FaultyStore) -> None:
    """An attempt that is cancelled while it notes a call as started takes the note back: it knows that the
    call has not begun. The next attempt runs it, once."""
    ran: list[str] = []

    @tool(policy="at_most_once")
    async def pay() -> str:
        ran.append("pay")
        return "paid"

    async def stop(state: RunState) -> None:
        if not store.fired and any(row.status == "started" for row in state.ledger):
            store.fired += 1
            attempt.cancel()
            await asyncio.Event().wait()  # until the cancellation arrives here

    handler = PromptHandler(model=ScriptedProvider(replies=[[call("pay")], "end"]), orm=store, tools=[pay])
    run = await handler.create_run("hello")
    store.before_save = stop
    attempt = asyncio.create_task(handler.run_iteration(run.run_id, 1, Attempt()))
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert (store.fired, ran) == (1, [])
    await handler.run_iteration(run.run_id, 1)
    results = results_of(await handler.history(run.run_id))
    assert ([result.status for result in results], ran) == (["ok"], ["pay"])


def results_of(history: Sequence[Message]) -> list[ToolResult]:
    return [message.tool_result for message in history if message.tool_result]


async def test_a_claim_that_ran_out_is_renewed_before_an_effect(
    store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder whose claim is over when it is about to act renews it first, once; else a check commits
    nothing."""
    writer = writer_for(store, await prompted(store._inner))
    await writer.claim()
    await writer.check()
    before = await store.load_run(RUN)
    later = SimpleNamespace(monotonic=time.monotonic, time=lambda: time.time() + 60)
    monkeypatch.setattr(commit, "time", later)  # as after a freeze right before the commit
    await writer.check()
    await writer.check()
    after = await store.load_run(RUN)
    assert before.version == 2
    assert (after.version, after.claim.epoch) == (3, before.claim.epoch)
    assert after.claim.deadline > later.time()


async def test_a_claim_that_was_taken_over_is_not_renewed(
    store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder whose claim is over, and taken, is superseded when it is about to act."""
    writer = writer_for(store, await prompted(store._inner))
    await writer.claim()
    taken = await (await latest_writer(store)).commit(answers("theirs"))
    later = SimpleNamespace(monotonic=time.monotonic, time=lambda: time.time() + 60)
    monkeypatch.setattr(commit, "time", later)
    with pytest.raises(SupersededError):
        await writer.check()
    assert (await store.load_run(RUN)).version == taken.version


class Stubborn(ScriptedProvider):
    """A model that takes its time to be cancelled."""

    def __init__(self) -> None:
        super().__init__("echo")
        self.asked, self.cleaning, self.clean = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cleaning.set()
            await self.clean.wait()
        raise AssertionError("unreachable")


async def test_nothing_outlives_an_attempt_that_is_cancelled_twice(store: FaultyStore) -> None:
    """No watch goes on, and renews the claim, after an attempt that was cancelled while it was stopping."""
    model = Stubborn()
    handler = PromptHandler(model=model, orm=store)
    run = await handler.create_run("hello")
    watched = asyncio.Event()
    load = store.load_run

    async def noted(run_id: str) -> RunState:
        if model.asked.is_set():
            watched.set()
        return await load(run_id)

    store.load_run = noted  # type: ignore[method-assign]
    before = asyncio.all_tasks()
    attempt = asyncio.create_task(handler.run_iteration(run.run_id, 1, Attempt(watch=0.01)))
    await watched.wait()
    attempt.cancel()
    await model.cleaning.wait()
    attempt.cancel()
    await asyncio.sleep(0)  # the second one arrives
    model.clean.set()
    with suppress(asyncio.CancelledError):
        await attempt
    assert asyncio.all_tasks() - before == set()
    assert not (await load(run.run_id)).claim.owner
