"""Iterations through the handler: re-entrant, fenced, and each reply bought once."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from thoughtgear.errors import (
    ExecutorUnavailableError,
    LimitExceededError,
    ModelRejectedError,
    ModelUnavailableError,
    RequestConflictError,
    RunBusyError,
    RunNotFoundError,
    SessionBusyError,
    StateRegressionError,
    StoreError,
    StoreUnavailableError,
    SupersededError,
    WaitTimeoutError,
)
from thoughtgear.executors.local import LocalExecutor
from thoughtgear.handler import PromptHandler
from thoughtgear.loop import Limits
from thoughtgear.models import Message, Usage, now
from thoughtgear.prices import Price
from thoughtgear.protocols import Attempt, ModelReply, ModelRequest, OnText, RequestedCall
from thoughtgear.providers.scripted import ScriptedProvider, call
from thoughtgear.testing import FaultyStore
from thoughtgear.tools import ToolContext, tool


class Model(ScriptedProvider):
    """A scripted model that counts what is bought and shows what it was asked."""

    def __init__(self, *replies: Any, **options: Any) -> None:
        super().__init__(replies=list(replies), **options)
        self.requests: list[ModelRequest] = []

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        self.requests.append(request)
        return await super().reply(request, on_text)


class Idle:
    """An executor that drives nothing."""

    name = "idle"
    scheduled = 0

    async def schedule_next_iteration(self, run_id: str) -> None:
        self.scheduled += 1


def seen(request: ModelRequest) -> list[str]:
    """The conversation as the model saw it."""
    return [m.text or (m.tool_result.content if m.tool_result else "") for m in request.messages]


def results(messages: list[Message]) -> list[tuple[str, str, str]]:
    found = [m.tool_result for m in messages if m.tool_result]
    return [(r.call_id, r.status, r.content) for r in found]


@tool
async def double(number: int) -> int:
    """Double a number."""
    return number * 2


async def test_prompt_to_answer(store: FaultyStore) -> None:
    """A prompt runs its tools and ends with the answer; the transcript is gap-free and numbered by commit."""
    model = Model([call("double", number=1), call("double", number=2)], "2 and 4")
    handler = PromptHandler(model=model, orm=store, tools=[double])
    state = await handler.handle_prompt("double 1 and 2")
    assert (state.status, state.output, state.iteration) == ("done", "2 and 4", 2)
    history = await handler.history(state.run_id)
    assert [m.seq for m in history] == list(range(state.message_count)) == [0, 1, 2, 3, 4]
    assert sorted(results(history)) == [("1.0", "ok", "2"), ("1.1", "ok", "4")]
    assert state.usage.total_tokens > 0


async def test_past_iteration_reports_where_the_run_stands(store: FaultyStore) -> None:
    """An iteration that is already saved is not run again; the report names the next one."""
    model = Model([call("double", number=1)], "done")
    handler = PromptHandler(model=model, orm=store, tools=[double])
    run = await handler.create_run("go")
    first = await handler.run_iteration(run.run_id, 1)
    again = await handler.run_iteration(run.run_id, 1)
    ahead = await handler.run_iteration(run.run_id, 7)
    assert first.iteration == again.iteration == ahead.iteration == 2
    assert len(model.requests) == 1
    await handler.run_iteration(run.run_id, 2)
    last = await handler.run_iteration(run.run_id, 2)
    assert (last.status, len(model.requests)) == ("done", 2)


async def test_duplicate_delivery_buys_nothing(store: FaultyStore) -> None:
    """A second driver that meets a live claim reports in_progress, buys no reply and takes over no tool."""
    release = asyncio.Event()

    async def slow(request: ModelRequest) -> str:
        await release.wait()
        return "hi"

    model = Model(slow)
    handler = PromptHandler(model=model, orm=store)
    run = await handler.create_run("go")
    first = asyncio.create_task(handler.run_iteration(run.run_id, 1))
    while not model.requests:
        await asyncio.sleep(0)
    second = await handler.run_iteration(run.run_id, 1)
    assert (second.status, len(model.requests)) == ("in_progress", 1)
    assert 0 < second.wait <= 30
    release.set()
    assert (await first).status == "done"


async def test_expired_claim_is_taken_over(store: FaultyStore) -> None:
    """When a claim's deadline has passed, the next attempt goes on from the last commit."""
    model = Model([call("double", number=1)], "done")
    handler = PromptHandler(model=model, orm=store, tools=[double])
    run = await handler.create_run("go")
    dead = Attempt(driver="local", keep_claim=True, hold=0.05)
    await handler.run_iteration(run.run_id, 1, dead)
    deadline = (await handler.get_run(run.run_id)).claim.deadline
    while time.time() <= deadline:
        await asyncio.sleep(0.01)
    assert (await handler.run_iteration(run.run_id, 2)).status == "done"


async def test_zombie_reply_is_not_saved(store: FaultyStore) -> None:
    """A frozen first attempt that wakes after a later one finished is superseded; its reply is lost, once."""
    release = asyncio.Event()

    async def first_hangs(request: ModelRequest) -> str:
        if len(model.requests) == 1:
            await release.wait()
        return f"reply {len(model.requests)}"

    model = Model(first_hangs)
    handler = PromptHandler(model=model, orm=store)
    run = await handler.create_run("go")
    options: dict[str, Any] = {"driver": "temporal", "scope": "activity", "serialised": True, "watch": 60}
    zombie = asyncio.create_task(handler.run_iteration(run.run_id, 1, Attempt(**options)))
    while not model.requests:
        await asyncio.sleep(0)
    result = await handler.run_iteration(run.run_id, 1, Attempt(**options, number=2))
    release.set()
    with pytest.raises(SupersededError):
        await zombie
    assert result.status == "done"
    assert [m.text for m in await handler.history(run.run_id)] == ["go", "reply 2"]


async def test_old_attempt_leaves_a_later_one_alone(store: FaultyStore) -> None:
    """A retry that a thawed worker starts late buys nothing while a later one of the same activity works."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: ModelRequest) -> str:
        asked.set()
        await go_on.wait()
        return "later"

    model = Model(slow)
    handler = PromptHandler(model=model, orm=store)
    run = await handler.create_run("Hi")
    options = {"driver": "temporal", "scope": "w/1", "serialised": True}
    later = asyncio.create_task(handler.run_iteration(run.run_id, 1, Attempt(**options, number=5)))
    await asked.wait()
    for number in (1, 2, 4):
        result = await handler.run_iteration(run.run_id, 1, Attempt(**options, number=number))
        assert result.status == "in_progress"
    go_on.set()
    assert (await later).status == "done"
    assert len(model.requests) == 1


async def test_lone_first_attempt_needs_no_claim_of_its_own(store: FaultyStore) -> None:
    """Under a driver that serialises, an answer costs one commit and a tool iteration two."""
    model = Model([call("double", number=1)], "done")
    handler = PromptHandler(model=model, orm=store, tools=[double])
    run = await handler.create_run("go")
    for iteration, commits in ((1, 2), (2, 1)):
        before = (await handler.get_run(run.run_id)).version
        await handler.run_iteration(run.run_id, iteration, Attempt(driver="temporal", serialised=True))
        assert (await handler.get_run(run.run_id)).version - before == commits


async def test_warm_worker_reads_no_history(store: FaultyStore) -> None:
    """A worker that has just written iteration n does not read the transcript again for n + 1."""
    reads: list[str] = []
    real = store._inner.get_history

    async def counted(run_id: str, after: int = -1, limit: int | None = None) -> list[Message]:
        reads.append(run_id)
        return await real(run_id, after, limit)

    store.get_history = counted  # type: ignore[attr-defined] # counts
    model = Model([call("double", number=1)], [call("double", number=2)], "done")
    handler = PromptHandler(model=model, orm=store, tools=[double])
    await handler.handle_prompt("go")
    assert len(reads) == 1


async def test_finished_calls_survive_a_sibling(store: FaultyStore) -> None:
    """What is done is saved while a sibling goes on, and is not run again by the next attempt."""
    runs: list[str] = []
    hang = asyncio.Event()

    @tool
    async def quick() -> str:
        """Quick."""
        runs.append("quick")
        return "q"

    @tool
    async def slow() -> str:
        """Slow."""
        runs.append("slow")
        if runs.count("slow") == 1:
            await hang.wait()
        return "s"

    model = Model([call("slow"), call("quick")], "done")
    handler = PromptHandler(model=model, orm=store, tools=[quick, slow])
    run = await handler.create_run("go")
    options: dict[str, Any] = {"driver": "temporal", "scope": "activity", "serialised": True}
    first = asyncio.create_task(handler.run_iteration(run.run_id, 1, Attempt(**options)))
    while not results(await handler.history(run.run_id)):
        await asyncio.sleep(0.01)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await handler.run_iteration(run.run_id, 1, Attempt(**options, number=2))
    assert sorted(runs) == ["quick", "slow", "slow"]
    assert results(await handler.history(run.run_id)) == [("1.1", "ok", "q"), ("1.0", "ok", "s")]
    assert len(model.requests) == 1


async def test_results_stand_in_the_order_of_their_completion(store: FaultyStore) -> None:
    """What finishes first stands first in the transcript, whatever the order of the calls."""
    second = asyncio.Event()

    @tool
    async def wait_for_second() -> str:
        """First."""
        await second.wait()
        return "first"

    @tool
    async def go_first() -> str:
        """Second."""
        second.set()
        return "second"

    model = Model([call("wait_for_second"), call("go_first")], "done")
    handler = PromptHandler(model=model, orm=store, tools=[wait_for_second, go_first])
    state = await handler.handle_prompt("go")
    found = results(await handler.history(state.run_id))
    assert [call_id for call_id, _, _ in found] == ["1.1", "1.0"]


async def test_serial_tool_runs_alone(store: FaultyStore) -> None:
    """When a tool says that it may not overlap, the calls of that reply run one after the other."""
    at_work: list[int] = []

    @tool(parallel=False)
    async def alone() -> int:
        """Alone."""
        at_work.append(1)
        await asyncio.sleep(0)
        count = len(at_work)
        at_work.pop()
        return count

    model = Model([call("alone"), call("alone"), call("alone")], "done")
    handler = PromptHandler(model=model, orm=store, tools=[alone])
    state = await handler.handle_prompt("go")
    assert {content for _, _, content in results(await handler.history(state.run_id))} == {"1"}


async def test_bad_calls_become_results(store: FaultyStore) -> None:
    """An unknown tool, bad arguments and a raising tool become results that the model can read."""

    @tool
    def fails() -> str:
        """Fails."""
        raise ValueError("no such table")

    calls = [call("absent"), call("double", number="x"), call("fails")]
    handler = PromptHandler(model=Model(calls, "done"), orm=store, tools=[double, fails])
    state = await handler.handle_prompt("go")
    found = {i: (s, c) for i, s, c in results(await handler.history(state.run_id))}
    assert state.status == "done"
    assert {status for status, _ in found.values()} == {"error"}
    assert "absent" in found["1.0"][1]
    assert "number" in found["1.1"][1]
    assert "no such table" in found["1.2"][1]


DEEP = ['{"number":' + "[" * levels + "]" * levels + "}" for levels in (180, 190, 196, 198, 5000)]


@pytest.mark.parametrize("arguments", ["{", '["a"]', '{"number": NaN}', '{"number": "\\ud800"}', *DEEP])
async def test_hostile_replies_wedge_nothing(store: FaultyStore, arguments: str) -> None:
    """Malformed arguments, lone surrogates and endless nesting are stored and answered with an error."""
    reply = ModelReply(text="half a pair: \ud83d", calls=[RequestedCall("double", arguments)])
    handler = PromptHandler(model=Model(reply, "done"), orm=store, tools=[double])
    state = await handler.handle_prompt("go")
    assert (state.status, state.output) == ("done", "done")
    assert results(await handler.history(state.run_id))[0][:2] == ("1.0", "error")


async def test_unstoppable_thread_is_counted_and_unknown(store: FaultyStore) -> None:
    """A plain at_most_once tool that outlives its time-out is counted, and its call is unknown."""
    release = threading.Event()

    @tool(policy="at_most_once", timeout=0.05)
    def pay() -> str:
        """Pay."""
        release.wait(20)
        return "paid"

    handler = PromptHandler(model=Model([call("pay")], "done"), orm=store, tools=[pay])
    state = await handler.handle_prompt("go")
    assert results(await handler.history(state.run_id))[0][:2] == ("1.0", "unknown")
    assert handler.abandoned_threads == 1
    release.set()
    while handler.abandoned_threads:
        await asyncio.sleep(0.01)


async def test_a_slow_commit_takes_nothing_of_a_tools_time(store: FaultyStore) -> None:
    """Where the commit of `started` takes longer than the tool may, the tool still has all its time."""
    waited: list[int] = []

    async def slow(state: Any) -> None:
        if any(row.status == "started" for row in state.ledger) and not waited:
            waited.append(state.version)
            await asyncio.sleep(0.3)  # the fault: longer than the tool may take

    @tool(policy="at_most_once", timeout=0.2)
    async def pay() -> str:
        """Pay."""
        await asyncio.sleep(0)
        return "paid"

    store.before_save = slow
    handler = PromptHandler(model=Model([call("pay")], "done"), orm=store, tools=[pay])
    state = await handler.handle_prompt("go")
    assert len(waited) == 1
    assert results(await handler.history(state.run_id)) == [("1.0", "ok", "paid")]


async def test_heartbeat_extends_the_timeout(store: FaultyStore) -> None:
    """A tool that gives signs of life may run longer than its time-out."""

    @tool(timeout=0.6)
    async def long(ctx: ToolContext) -> str:
        """Long."""
        for _ in range(7):
            await asyncio.sleep(0.1)
            ctx.heartbeat()
        return f"{ctx.idempotency_key} {ctx.attempt} {ctx.iteration}"

    handler = PromptHandler(model=Model([call("long")], "done"), orm=store, tools=[long])
    state = await handler.handle_prompt("go")
    assert results(await handler.history(state.run_id)) == [("1.0", "ok", f"{state.run_id}:1.0 1 1")]


async def test_large_result_is_cut_with_a_note(store: FaultyStore) -> None:
    """A tool result over the limit is cut, and the model is told."""

    @tool
    def big() -> str:
        """Big."""
        return "é" * 10_000

    limits = Limits(tool_result_bytes=1000)
    handler = PromptHandler(model=Model([call("big")], "done"), orm=store, tools=[big], limits=limits)
    state = await handler.handle_prompt("go")
    content = results(await handler.history(state.run_id))[0][2]
    assert len(content.encode()) <= 1000
    assert "20000" in content


@pytest.mark.parametrize("limits", [Limits(iterations=3), Limits(tokens=5), Limits(seconds=0.0)])
async def test_a_bill_stops_by_itself(store: FaultyStore, limits: Limits) -> None:
    """A model that never answers is stopped by the run's limits, with the limit's name as the reason."""
    model = Model(*[[call("double", number=1)]] * 50)
    handler = PromptHandler(model=model, orm=store, tools=[double], limits=limits)
    state = await handler.handle_prompt("go")
    assert (state.status, state.error and state.error.type) == ("failed", "LimitExceededError")
    assert len(model.requests) <= 3


async def test_rejected_request_fails_the_run_and_says_why(store: FaultyStore) -> None:
    """An error that no retry mends ends the run as failed, with its class and message in the store."""

    def reject(request: ModelRequest) -> str:
        raise ModelRejectedError("openai: HTTP 401 (invalid_api_key)")

    state = await PromptHandler(model=Model(reject), orm=store).handle_prompt("go")
    assert state.error is not None
    assert (state.status, state.error.type) == ("failed", "ModelRejectedError")
    assert "invalid_api_key" in state.error.message


async def test_foreign_errors_tell_their_class_alone(store: FaultyStore) -> None:
    """A programming error fails the run without its text, which may hold anything."""

    def broken(request: ModelRequest) -> str:
        raise KeyError("sk-secret")

    state = await PromptHandler(model=Model(broken), orm=store).handle_prompt("go")
    assert state.error is not None
    assert (state.status, state.error.type) == ("failed", "KeyError")
    assert "sk-secret" not in state.model_dump_json()


async def test_unavailable_model_is_tried_again(store: FaultyStore) -> None:
    """A retryable error is tried again under a new epoch, after what the provider asks for."""
    times: list[float] = []

    def flaky(request: ModelRequest) -> str:
        times.append(time.monotonic())
        if len(times) < 3:
            raise ModelUnavailableError("openai: HTTP 429", retry_after=0.05)
        return "hi"

    state = await PromptHandler(model=Model(flaky), orm=store).handle_prompt("go")
    assert (state.status, len(times), state.model_replies) == ("done", 3, 1)
    assert times[1] - times[0] >= 0.05
    assert state.claim.epoch == 3


async def test_hanging_model_times_out_retryably(store: FaultyStore) -> None:
    """A model call over `Limits.model_seconds` raises ModelUnavailableError."""
    handler = PromptHandler(model=Model("hi", delay=60), orm=store, limits=Limits(model_seconds=0.05))
    run = await handler.create_run("go")
    with pytest.raises(ModelUnavailableError):
        await handler.run_iteration(run.run_id, 1)


async def test_message_to_a_running_run(store: FaultyStore) -> None:
    """What is sent to a running run is read before the next model call, once, and the answer waits for it."""

    async def first(request: ModelRequest) -> str:
        await handler.send(run_id, "and in French?", request_id="m1")
        await handler.send(run_id, "and in French?", request_id="m1")
        return "hello"

    async def second(request: ModelRequest) -> str:
        await handler.send(run_id, "and in French?", request_id="m1")  # which the transcript has by now
        return "bonjour"

    model = Model(first, second)
    handler = PromptHandler(model=model, orm=store)
    run_id = (await handler.create_run("say hello")).run_id
    await handler.executor.schedule_next_iteration(run_id)
    state = await handler.wait(run_id, 10)
    assert state.output == "bonjour"
    assert seen(model.requests[1]) == ["say hello", "hello", "and in French?"]
    assert [m.text for m in await handler.history(run_id)] == [
        "say hello",
        "hello",
        "and in French?",
        "bonjour",
    ]
    await handler.send(run_id, "and in French?", request_id="m1")
    assert (await handler.get_run(run_id)).message_count == 4
    assert len((await store.list_runs()).runs) == 1


async def test_message_to_a_finished_run_is_a_new_run_of_its_session(store: FaultyStore) -> None:
    """A follow-up to a finished run becomes one run of its session, however often it is sent."""
    model = Model("one", "two")
    handler = PromptHandler(model=model, orm=store)
    first = await handler.handle_prompt("a", session_id="s")
    second = await handler.send(first.run_id, "b", request_id="m")
    again = await handler.send(first.run_id, "b", request_id="m")
    assert second.run_id == again.run_id != first.run_id
    assert (await handler.wait(second.run_id, 10)).output == "two"
    assert seen(model.requests[1]) == ["a", "one", "b"]


async def test_inbox_is_capped(store: FaultyStore) -> None:
    """A full inbox refuses with a clear error and keeps what it has."""
    handler = PromptHandler(model=Model("x"), orm=store, limits=Limits(inbox=2), executor=Idle())
    run = await handler.create_run("go")
    await handler.send(run.run_id, "1")
    await handler.send(run.run_id, "2")
    with pytest.raises(LimitExceededError):
        await handler.send(run.run_id, "3")
    assert [item.text for item in (await handler.get_run(run.run_id)).mail] == ["1", "2"]


async def test_cancel_while_the_model_hangs(store: FaultyStore) -> None:
    """Cancelling a local run ends it as cancelled within seconds, whatever the model does."""
    model = Model("never", delay=600)
    handler = PromptHandler(model=model, orm=store)
    run = await handler.handle_prompt("go", wait=False)
    while not model.requests:
        await asyncio.sleep(0.01)
    started = time.monotonic()
    await handler.cancel(run.run_id)
    state = await handler.wait(run.run_id, 10)
    assert state.status == "cancelled"
    assert time.monotonic() - started < 5


async def test_store_faults_end_no_local_run(store: FaultyStore) -> None:
    """A store that is away while a local run begins, or while it is being failed, delays the run only."""
    real, away = store._inner.load_run, [True, False, True]

    async def flaky(run_id: str) -> Any:
        if away and away.pop(0):
            store.fired += 1
            raise StoreUnavailableError("The store is away.")
        return await real(run_id)

    def broken(request: ModelRequest) -> str:
        away[:] = [True] * (len(model.requests) == 1)
        raise KeyError("a bug")

    model = Model(broken)
    handler = PromptHandler(model=model, orm=store)
    run = await handler.create_run("go")
    store.load_run = flaky  # type: ignore[method-assign] # the fault
    await handler.executor.schedule_next_iteration(run.run_id)
    while not (state := await real(run.run_id)).over:
        await asyncio.sleep(0.02)
    assert (state.status, state.error and state.error.type) == ("failed", "KeyError")
    assert store.fired >= 2


async def test_cancel_during_a_backoff(store: FaultyStore) -> None:
    """A local run that waits for an hour until its provider takes requests again is cancelled in seconds."""
    model = Model(_overloaded)
    handler = PromptHandler(model=model, orm=store)
    run = await handler.handle_prompt("go", wait=False)
    while not model.requests or (await handler.get_run(run.run_id)).started_at is None:
        await asyncio.sleep(0.01)
    await handler.cancel(run.run_id)
    assert (await handler.wait(run.run_id, 10)).status == "cancelled"


def _overloaded(request: ModelRequest) -> str:
    raise ModelUnavailableError("openai: HTTP 429", retry_after=3600)


async def test_a_wait_does_not_outlast_the_run(store: FaultyStore) -> None:
    """A provider that asks for an hour is waited for until the run's time limit, and the run then fails."""

    def busy(request: ModelRequest) -> str:
        raise ModelUnavailableError("openai: HTTP 429", retry_after=3600)

    handler = PromptHandler(model=Model(busy), orm=store, limits=Limits(seconds=0.6))
    run = await handler.create_run("go")
    with pytest.raises(ModelUnavailableError) as caught:
        await handler.run_iteration(run.run_id, 1)
    assert 0 <= (caught.value.retry_after or 0) <= 0.6
    state = await handler.continue_run(run.run_id)
    assert (state.status, state.error and state.error.type) == ("failed", "LimitExceededError")


async def test_time_limit_counts_from_the_first_failed_attempt(store: FaultyStore) -> None:
    """A model that is never available doesn't keep a run for ever: the clock ticks from the first attempt."""
    handler = PromptHandler(model=Model(_overloaded), orm=store, limits=Limits(seconds=0.05))
    run = await handler.create_run("go")
    attempt = Attempt(driver="temporal", serialised=True)
    with pytest.raises(ModelUnavailableError):
        await handler.run_iteration(run.run_id, 1, attempt)
    started = (await handler.get_run(run.run_id)).started_at
    assert started is not None
    while (now() - started).total_seconds() < 0.05:
        await asyncio.sleep(0.01)
    result = await handler.run_iteration(run.run_id, 1, Attempt(driver="temporal", serialised=True))
    assert (result.status, result.reason.split(":")[0]) == ("failed", "LimitExceededError")


async def test_invoking_executor_schedules_nothing_for_a_duplicate(store: FaultyStore) -> None:
    """A duplicate event that meets a live claim does not become a second chain of events."""
    release = asyncio.Event()
    executor = Idle()

    async def slow(request: ModelRequest) -> str:
        await release.wait()
        return "hi"

    model = Model([call("double", number=1)], slow)
    handler = PromptHandler(model=model, orm=store, tools=[double], executor=executor)
    run = await handler.create_run("go")
    await handler.continue_run(run.run_id)
    assert executor.scheduled == 1
    first = asyncio.create_task(handler.continue_run(run.run_id))
    while len(model.requests) < 2:
        await asyncio.sleep(0.01)
    duplicate = asyncio.create_task(handler.continue_run(run.run_id))
    await asyncio.wait({duplicate}, timeout=0.05)
    release.set()
    assert (await first).status == "done"
    with pytest.raises(RunBusyError):
        await duplicate
    assert (executor.scheduled, len(model.requests)) == (1, 2)


async def test_redelivered_invocation_goes_on_after_a_model_fault(store: FaultyStore) -> None:
    """An invocation that fails gives its claim back: the platform's next try buys the reply and schedules."""
    answers = [_overloaded, _overloaded]

    def flaky(request: ModelRequest) -> Any:
        return answers.pop()(request) if answers else call("double", number=1)

    executor = Idle()
    handler = PromptHandler(model=Model(flaky), orm=store, tools=[double], executor=executor)
    run = await handler.create_run("go")
    for _ in range(2):
        with pytest.raises(ModelUnavailableError):
            await handler.continue_run(run.run_id)
    assert (await handler.continue_run(run.run_id)).iteration == 1
    assert executor.scheduled == 1


async def test_a_store_that_refuses_the_end_is_told(store: FaultyStore) -> None:
    """Where not even the failure of a local run can be stored, who waits gets the error instead of a hang."""

    async def refuse(state: Any) -> None:
        if state.version > 1:
            store.fired += 1
            raise StoreError("The database refused a row that breaks its rules.")

    store.before_save = refuse
    handler = PromptHandler(model="scripted:echo", orm=store)
    with pytest.raises(StoreError):
        async with asyncio.timeout(20):
            await handler.handle_prompt("go")
    assert store.fired >= 2


async def test_a_run_that_is_deleted_in_a_pause_ends_its_loop(store: FaultyStore) -> None:
    """A local run that is deleted while it waits for its provider ends quietly; who waits is told."""
    model = Model(_overloaded)
    handler = PromptHandler(model=model, orm=store)
    run = await handler.handle_prompt("go", wait=False)
    while (await handler.get_run(run.run_id)).started_at is None:
        await asyncio.sleep(0.01)
    await store.delete_run(run.run_id)
    with pytest.raises(RunNotFoundError):
        async with asyncio.timeout(20):
            await handler.wait(run.run_id)


async def test_closing_during_a_backoff_gives_the_claim_back(store: FaultyStore) -> None:
    """A local loop that is stopped between two attempts leaves no claim behind."""
    handler = PromptHandler(model=Model(_overloaded), orm=store)
    run = await handler.handle_prompt("go", wait=False)
    while not (await handler.get_run(run.run_id)).claim.live():
        await asyncio.sleep(0.01)
    assert isinstance(handler.executor, LocalExecutor)
    await handler.executor.aclose()
    assert not (await handler.get_run(run.run_id)).claim.live()


async def test_a_prompt_that_was_never_scheduled_blocks_no_session(store: FaultyStore) -> None:
    """A run that waits for one whose sender died before it was scheduled has that one driven first."""
    handler = PromptHandler(model="scripted:echo", orm=store)
    ghost = await handler.create_run("one", session_id="s")
    state = await handler.handle_prompt("two", session_id="s")
    assert (state.status, state.parent and state.parent.run_id) == ("done", ghost.run_id)
    assert (await handler.get_run(ghost.run_id)).output == "one"


async def test_invented_tool_names_stay_in_the_transcript(store: FaultyStore) -> None:
    """What an iteration reports names known tools only: an invented name is the model's own text."""
    handler = PromptHandler(
        model=Model([call("Patient John Doe"), call("double", number=1)]), orm=store, tools=[double]
    )
    run = await handler.create_run("go")
    assert (await handler.run_iteration(run.run_id, 1)).tools == ["unknown tool", "double"]


async def test_closed_executor_is_an_error_not_a_hang(store: FaultyStore) -> None:
    """Waiting through a closed local executor raises, and says how to go on."""
    handler = PromptHandler(model=Model("late", delay=600), orm=store)
    run = await handler.handle_prompt("go", wait=False)
    waiting = asyncio.create_task(handler.wait(run.run_id))
    await asyncio.sleep(0)
    assert isinstance(handler.executor, LocalExecutor)
    await handler.executor.aclose()
    with pytest.raises(ExecutorUnavailableError):
        await waiting


async def test_interrupted_attempt_gives_its_claim_back(store: FaultyStore) -> None:
    """A driver that is stopped in order leaves no claim behind: the next one goes on at once."""
    model = Model("late", delay=600)
    handler = PromptHandler(model=model, orm=store)
    run = await handler.handle_prompt("go", wait=False)
    while not model.requests:
        await asyncio.sleep(0.01)
    assert (await handler.get_run(run.run_id)).claim.live()
    assert isinstance(handler.executor, LocalExecutor)
    await handler.executor.aclose()
    assert not (await handler.get_run(run.run_id)).claim.live()
    other = PromptHandler(model="scripted:echo", orm=store)
    assert (await other.run_iteration(run.run_id, 1)).status == "done"


async def test_cancel_during_a_tool(store: FaultyStore) -> None:
    """Cancel keeps the finished call's result and makes the at_most_once call cut short unknown."""
    paying = asyncio.Event()

    @tool(policy="at_most_once")
    async def pay() -> str:
        """Pay."""
        paying.set()
        await asyncio.sleep(600)
        return "paid"

    model = Model([call("pay"), call("double", number=4)], "never")
    handler = PromptHandler(model=model, orm=store, tools=[pay, double])
    run = await handler.handle_prompt("go", wait=False)
    await paying.wait()
    await handler.cancel(run.run_id)
    state = await handler.wait(run.run_id, 10)
    found = {call_id: status for call_id, status, _ in results(await handler.history(run.run_id))}
    assert (state.status, found) == ("cancelled", {"1.0": "unknown", "1.1": "ok"})


async def test_cancel_of_a_run_that_nobody_drives(store: FaultyStore) -> None:
    """A pending run is cancelled at once; a later schedule buys nothing."""
    model = Model("never")
    handler = PromptHandler(model=model, orm=store)
    run = await handler.create_run("go")
    assert (await handler.cancel(run.run_id)).status == "cancelled"
    assert (await handler.continue_run(run.run_id)).status == "cancelled"
    assert model.requests == []


async def test_same_request_is_the_same_run(store: FaultyStore) -> None:
    """A repeated request id gives the same run and buys nothing; another text under it is an error."""
    model = Model("hi")
    handler = PromptHandler(model=model, orm=store)
    runs = await asyncio.gather(*(handler.handle_prompt("go", request_id="q1") for _ in range(8)))
    assert len({run.run_id for run in runs}) == 1
    assert len(model.requests) == 1
    with pytest.raises(RequestConflictError):
        await handler.handle_prompt("other", request_id="q1")
    other = await PromptHandler(model=Model("x"), orm=store).handle_prompt("go", request_id="q1", user_id="u")
    assert other.run_id != runs[0].run_id


async def test_sessions_see_earlier_runs(store: FaultyStore) -> None:
    """With a session the model sees the earlier runs; without one, or as another user, it sees none."""
    model = Model("1", "2", "3", per_run=False)
    handler = PromptHandler(model=model, orm=store)
    await handler.handle_prompt("a", session_id="s", user_id="ann")
    await handler.handle_prompt("b", session_id="s", user_id="ann")
    await handler.handle_prompt("c", session_id="s", user_id="bob")
    await handler.handle_prompt("d", user_id="ann")
    assert [seen(request) for request in model.requests] == [["a"], ["a", "1", "b"], ["c"], ["d"]]


async def test_queued_run_waits_for_its_parent(store: FaultyStore) -> None:
    """A prompt to a busy session runs after the run before it and sees all of it."""
    release = asyncio.Event()

    async def slow(request: ModelRequest) -> str:
        await release.wait()
        return "1"

    model = Model(slow, "2")
    handler = PromptHandler(model=model, orm=store)
    await handler.handle_prompt("a", session_id="s", wait=False)
    second = await handler.handle_prompt("b", session_id="s", wait=False)
    assert (await handler.run_iteration(second.run_id, 1)).status == "waiting"
    release.set()
    await handler.wait(second.run_id, 10)
    assert seen(model.requests[1]) == ["a", "1", "b"]


async def test_busy_session_can_reject_or_run_in_parallel(store: FaultyStore) -> None:
    """on_busy="reject" raises and leaves no run behind; "parallel" sees the complete turns only."""
    release = asyncio.Event()

    async def slow(request: ModelRequest) -> str:
        await release.wait()
        return "late"

    model = Model([call("double", number=1)], slow)
    first_handler = PromptHandler(model=model, orm=store, tools=[double])
    first = await first_handler.handle_prompt("a", session_id="s", wait=False)
    while len(model.requests) < 2:
        await asyncio.sleep(0.01)
    with pytest.raises(SessionBusyError):
        await PromptHandler(model=Model("x"), orm=store, on_busy="reject").handle_prompt("b", session_id="s")
    assert len((await store.list_runs()).runs) == 1
    beside = PromptHandler(model="scripted:echo", orm=store, on_busy="parallel")
    state = await beside.handle_prompt("b", session_id="s")
    assert state.parent is not None
    assert (state.output, state.parent.seq) == ("b", 2)
    release.set()
    await first_handler.wait(first.run_id, 10)


async def test_concurrent_prompts_of_a_session_form_one_chain(store: FaultyStore) -> None:
    """Ten concurrent prompts of one session have ten different parents: one chain, nothing forks."""
    handler = PromptHandler(model="scripted:echo", orm=store)
    runs = await asyncio.gather(
        *(handler.handle_prompt(str(n), session_id="s", wait=False) for n in range(10))
    )
    for run in runs:
        await handler.wait(run.run_id, 30)
    parents = [(await handler.get_run(run.run_id)).parent for run in runs]
    assert len({parent.run_id if parent else None for parent in parents}) == 10


async def test_files_are_stored_once(store: FaultyStore, tmp_path: Path) -> None:
    """A file reaches the model's request by hash, and is stored once per run, not in the messages."""
    (tmp_path / "a.txt").write_text("content of a")
    model = Model([call("double", number=1)], "read")
    handler = PromptHandler(model=model, orm=store, tools=[double])
    state = await handler.handle_prompt("read", files=[tmp_path / "a.txt"])
    (attachment,) = model.requests[1].messages[0].attachments
    assert model.requests[1].files[attachment.sha256] == b"content of a"
    assert await store.list_documents("files", f"{state.run_id}/") == [f"{state.run_id}/{attachment.sha256}"]


async def test_state_regression_is_not_rerun(store: FaultyStore) -> None:
    """A store that stands behind what the driver saw acknowledged is refused, and nothing is bought."""
    model = Model("hi")
    handler = PromptHandler(model=model, orm=store)
    run = await handler.create_run("go")
    with pytest.raises(StateRegressionError):
        await handler.run_iteration(run.run_id, 1, Attempt(version=9))
    assert model.requests == []


async def test_wait_times_out_and_the_run_goes_on(store: FaultyStore) -> None:
    """wait raises WaitTimeoutError after its time-out and does not touch the run."""
    release = asyncio.Event()

    async def slow(request: ModelRequest) -> str:
        await release.wait()
        return "hi"

    handler = PromptHandler(model=Model(slow), orm=store)
    run = await handler.handle_prompt("go", wait=False)
    with pytest.raises(WaitTimeoutError):
        await handler.wait(run.run_id, 0.05)
    release.set()
    assert (await handler.wait(run.run_id, 10)).status == "done"


async def test_lost_acknowledgements_all_along(store: FaultyStore) -> None:
    """A run whose every second commit loses its acknowledgement has the transcript of a faultless one."""
    count = 0

    async def every_second(state: Any) -> None:
        nonlocal count
        count += 1
        if count % 2 == 0:
            store.fired += 1
            raise StoreUnavailableError("The connection was lost.")

    model = Model([call("double", number=1)], [call("double", number=2)], "done")
    handler = PromptHandler(model=model, orm=store, tools=[double])
    store.after_save = every_second
    state = await handler.handle_prompt("go")
    assert store.fired >= 2
    assert (state.status, len(model.requests), state.message_count) == ("done", 3, 6)


async def test_unknown_run(store: FaultyStore) -> None:
    """A run id that is not there raises RunNotFoundError; a malformed one is refused before the store."""
    handler = PromptHandler(model="scripted:echo", orm=store)
    with pytest.raises(RunNotFoundError):
        await handler.get_run("nothere")
    for bad in ("../x", "", "a/b", "con", "a" * 200):
        with pytest.raises(ValueError, match="run id"):
            await handler.get_run(bad)


def test_sync_handler(tmp_path: Path) -> None:
    """handle_prompt_sync works twice on one handler without an event loop, and close frees it."""
    handler = PromptHandler(
        model="scripted:echo", db=f"sqlite:///{tmp_path}/runs.db", executor=LocalExecutor()
    )
    assert handler.handle_prompt_sync("one").output == "one"
    assert handler.handle_prompt_sync("two").output == "two"
    handler.close()


@pytest.mark.parametrize("limits", [Limits(tool_calls=2), Limits(reply_bytes=100)])
async def test_a_reply_over_the_limits_is_on_the_bill(store: FaultyStore, limits: Limits) -> None:
    """A reply that asks for too many calls, or is too large, fails the run and is on its bill."""
    usage = Usage(input_tokens=70, output_tokens=30)
    calls = [RequestedCall("double", '{"number": 1}')] * 50

    class Paid(Model):
        async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
            return ModelReply(calls=calls, usage=usage, model="m")

    prices = {"m": Price(input=1.0, output=2.0)}
    handler = PromptHandler(model=Paid(), orm=store, tools=[double], limits=limits, prices=prices)
    state = await handler.handle_prompt("go")
    assert (state.status, state.error and state.error.type) == ("failed", "ModelRejectedError")
    assert (state.usage, state.bill.spent) == (usage, pytest.approx(130e-6))
