"""Calls of unknown outcome where something else happens as well."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from thoughtgear.errors import ExecutorUnavailableError, OutcomeUnknownError
from thoughtgear.executors.local import LocalExecutor
from thoughtgear.handler import PromptHandler
from thoughtgear.models import OnUnknown, RunState, ToolResult
from thoughtgear.outcomes import Done, Outcome
from thoughtgear.payloads import IterationResult
from thoughtgear.protocols import Attempt, ModelReply, ModelRequest, OnText, OrmAdapter, RequestedCall
from thoughtgear.providers.scripted import ScriptedProvider, call
from thoughtgear.registry import open_store
from thoughtgear.tools import Tool, tool


@pytest.fixture
def store() -> OrmAdapter:
    return open_store("memory://")


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What a hanging tool waits for; it is set at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


class Idle:
    """An executor that drives nothing."""

    name = "idle"

    async def schedule_next_iteration(self, run_id: str) -> None: ...


def unsure(name: str = "pay", on_unknown: OnUnknown = "ask_person", **options: Any) -> Tool:
    """A tool that never knows."""

    async def act() -> str:
        """Act."""
        raise OutcomeUnknownError

    options = {"policy": "at_most_once", "on_unknown": on_unknown, **options}
    return tool(name=name, **options)(act)


def handler(store: OrmAdapter, *tools: Tool, **options: Any) -> PromptHandler:
    """A handler whose model calls every tool once, then answers."""
    model = ScriptedProvider(replies=[[call(one.name) for one in tools], "the end"])
    return PromptHandler(**{"model": model, "orm": store, "tools": tools, **options})


async def results(made: PromptHandler, run_id: str) -> dict[str, ToolResult]:
    return {m.tool_result.name: m.tool_result for m in await made.history(run_id) if m.tool_result}


async def until_waiting(made: PromptHandler, run_id: str) -> RunState:
    async with asyncio.timeout(20):
        while (state := await made.get_run(run_id)).status != "waiting":
            await asyncio.sleep(0.01)
        return state


async def test_a_warm_worker_sees_a_quick_decision(store: OrmAdapter) -> None:
    """A decision that comes right after the pause is seen by the worker that has just paused the run."""
    made = handler(store, unsure())
    run = await made.create_run("go")

    async def go_on(last: IterationResult) -> IterationResult:
        attempt = Attempt(driver="temporal", serialised=True, version=last.version)
        return await made.run_iteration(run.run_id, last.iteration, attempt)

    last = await go_on(IterationResult("running", 1, run.version))
    assert last.status == "waiting"
    await made.settle(run.run_id, "1.0", Done("paid"), schedule=False)
    assert (await go_on(last)).status == "running"


async def test_a_hanging_tool_leaves_room_for_its_reconcile(
    store: OrmAdapter, release: threading.Event
) -> None:
    """`reconcile` is asked although every thread of the tools hangs."""
    asked: list[str] = []

    def ask(key: str) -> Outcome:
        asked.append(key)
        return Done("paid")

    @tool(policy="at_most_once", timeout=0.2, reconcile=ask)
    def pay() -> str:
        """Pay."""
        release.wait(30)
        return "late"

    made = handler(store, pay, tool_threads=1)
    state = await made.handle_prompt("go")
    assert asked == [f"{state.run_id}:1.0"]
    assert (await results(made, state.run_id))["pay"].content == "paid"


class Unprintable:
    """A value that has no text."""

    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize("answer", [asyncio.CancelledError(), SystemExit(), Done(Unprintable()), True])
async def test_a_broken_reconcile_stops_nobody(
    store: OrmAdapter, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever `reconcile` raises or returns, the call stays unknown, the log says so, the run goes on."""

    async def ask(key: str) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    made = handler(store, unsure(on_unknown="tell_model", reconcile=lambda key: ask(key)))
    state = await made.handle_prompt("go")
    assert (state.status, (await results(made, state.run_id))["pay"].status) == ("done", "unknown")
    assert "reconcile of call 1.0" in caplog.text


async def test_a_run_that_fails_asks_nobody(store: OrmAdapter) -> None:
    """Of two unknown calls one fails the run: it does not wait for a person to settle the other."""
    made = handler(store, unsure("pay", "fail"), unsure("mail", "ask_person"))
    state = await made.handle_prompt("go")
    assert state.status == "failed"
    assert {each.status for each in (await results(made, state.run_id)).values()} == {"unknown"}


async def test_what_comes_in_order_is_not_begun_by_a_run_that_fails(store: OrmAdapter) -> None:
    """After an unknown outcome that fails the run, the calls behind it in order are not made."""
    shipped: list[str] = []

    @tool(parallel=False)
    async def ship() -> str:
        """Ship."""
        shipped.append("it")
        return "shipped"

    made = handler(store, unsure("pay", "fail", parallel=False), ship)
    state = await made.handle_prompt("go")
    assert (state.status, shipped) == ("failed", [])
    assert (await results(made, state.run_id))["ship"].status == "cancelled"


async def test_an_unknown_outcome_is_saved_while_a_sibling_runs(store: OrmAdapter) -> None:
    """An outcome that a tool does not know is in the store before its slow sibling ends: a cancel finds it
    unknown, and a person may settle it meanwhile."""

    @tool
    async def slow() -> str:
        """Be slow."""
        await asyncio.Event().wait()
        return ""

    made = handler(store, unsure(policy="idempotent"), slow)
    run = await made.handle_prompt("go", wait=False)
    async with asyncio.timeout(20):
        while not (await made.get_run(run.run_id)).unsettled:
            await asyncio.sleep(0.01)
    await made.cancel(run.run_id)
    await made.wait(run.run_id, timeout=20)
    found = await results(made, run.run_id)
    assert {name: each.status for name, each in found.items()} == {"pay": "unknown", "slow": "cancelled"}


async def test_a_decision_is_gone_on_with_when_its_taker_stops(store: OrmAdapter) -> None:
    """A loop that waited goes on when another process took the decision over and then stopped."""
    pay = unsure()
    first = handler(store, pay, executor=LocalExecutor(claim_seconds=1))
    run = await first.handle_prompt("go", wait=False)
    await until_waiting(first, run.run_id)
    asked = asyncio.Event()

    class Hanging:
        model = "hanging"

        async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
            asked.set()
            await asyncio.Event().wait()
            return ModelReply()

        async def aclose(self) -> None: ...

    second = handler(store, pay, model=Hanging(), executor=LocalExecutor(claim_seconds=1))
    await second.settle(run.run_id, "1.0", Done("paid"))
    async with asyncio.timeout(20):
        await asked.wait()
    await second.executor.aclose()  # type: ignore[attr-defined]
    assert (await first.wait(run.run_id, timeout=20)).status == "done"
    await first.aclose()


async def test_ids_from_outside_are_no_decisions(store: OrmAdapter) -> None:
    """A message whose id looks like the library's own neither settles a call nor keeps a cancel out."""
    made = handler(store, unsure(), executor=Idle())
    run = await made.create_run("go")
    await made.run_iteration(run.run_id, 1)
    for request_id in ("settle-1.0", "cancel"):
        await made.send(run.run_id, "hello", request_id=request_id)
    assert (await made.settle(run.run_id, "1.0", Done())).unsettled == []
    assert (await made.cancel(run.run_id)).status == "cancelled"


async def test_a_decision_that_wakes_nobody_says_so(store: OrmAdapter) -> None:
    """A handler that can't wake what drives the run stores the decision and raises."""
    made = handler(store, unsure())
    run = await made.create_run("go")
    await made.run_iteration(run.run_id, 1, Attempt(driver="temporal", serialised=True))
    with pytest.raises(ExecutorUnavailableError, match="The decision is stored"):
        await handler(store, unsure(), executor=Idle()).settle(run.run_id, "1.0", Done())
    assert (await made.get_run(run.run_id)).unsettled == []


async def test_a_number_that_no_store_can_write_is_kept_as_text(store: OrmAdapter) -> None:
    """The transcript holds what the tool was called with, also where JSON has no number for it."""

    @tool
    async def pay(amount: float) -> str:
        """Pay."""
        return str(amount)

    given = '{"amount": 1e400}'

    class Endless(ScriptedProvider):
        async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
            if len(request.messages) > 1:
                return ModelReply("the end")
            return ModelReply(calls=[RequestedCall("pay", given)])

    made = PromptHandler(model=Endless("echo"), orm=store, tools=[pay])
    state = await made.handle_prompt("go")
    assert [one.arguments for m in await made.history(state.run_id) for one in m.tool_calls] == [given]
