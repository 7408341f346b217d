"""Calls whose end nobody saw: what the tool finds out, what a person says, and what stays unknown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from thoughtgear.errors import InvalidInputError, OutcomeUnknownError
from thoughtgear.executors.local import LocalExecutor
from thoughtgear.handler import PromptHandler
from thoughtgear.loop import Limits
from thoughtgear.models import OnUnknown, RunState, ToolPolicy, ToolResult, now
from thoughtgear.outcomes import Done, Outcome, Void
from thoughtgear.protocols import Attempt
from thoughtgear.providers.scripted import ScriptedProvider, call
from thoughtgear.testing import FaultyStore
from thoughtgear.tools import Tool, tool


class Shop:
    """A payment whose end is not seen, beside a look that works; counts what was done."""

    def __init__(self, store: FaultyStore, **options: Any) -> None:
        self.paid, self.asked = 0, list[str]()
        self.store, self.options = store, options
        self.handler = self.opened()

    def opened(self, limits: Limits | None = None) -> PromptHandler:
        """A handler as another process would make it."""
        model = ScriptedProvider(replies=[[call("pay"), call("look")], "the end"])
        executor = LocalExecutor(claim_seconds=0.1)
        tools = [self.pay(), look]
        return PromptHandler(model=model, orm=self.store, tools=tools, executor=executor, limits=limits)

    def pay(self) -> Tool:
        policy: ToolPolicy = self.options.pop("policy", "at_most_once")

        @tool(policy=policy, **self.options)
        async def pay() -> str:
            """Pay."""
            self.paid += 1
            raise OutcomeUnknownError

        return pay

    def reconcile(self, outcome: Outcome) -> Callable[[str], Any]:
        async def ask(key: str) -> Outcome:
            self.asked.append(key)
            return outcome

        return ask

    async def result(self, run_id: str) -> ToolResult:
        """The payment's only result in the transcript."""
        found = [m.tool_result for m in await self.handler.history(run_id) if m.tool_result]
        (result,) = [each for each in found if each.call_id == "1.0"]
        assert [each.call_id for each in found].count("1.1") == 1
        return result

    async def until(self, run_id: str, holds: Callable[[RunState], bool]) -> RunState:
        async with asyncio.timeout(20):
            while not holds(state := await self.handler.get_run(run_id)):
                await asyncio.sleep(0.01)
            return state


@tool
async def look() -> str:
    """Look."""
    return "looked"


OUTCOMES = [
    (Done("paid 7"), "ok", "paid 7"),
    (Void("The order was cancelled."), "error", "never will. The order was cancelled."),
    (None, "unknown", "unknown whether"),
]


@pytest.mark.parametrize(("outcome", "status", "text"), OUTCOMES)
async def test_reconcile_settles_the_call(
    store: FaultyStore, outcome: Outcome, status: str, text: str
) -> None:
    """What `reconcile` finds out under the call's key is the result; None stays unknown."""
    shop = Shop(store)
    shop.options = {"reconcile": shop.reconcile(outcome)}
    shop.handler = shop.opened()
    state = await shop.handler.handle_prompt("pay")
    result = await shop.result(state.run_id)
    assert (state.status, result.status, shop.paid) == ("done", status, 1)
    assert text in result.content
    assert shop.asked == [f"{state.run_id}:1.0"]


async def test_a_call_that_was_cut_off_is_reconciled_by_the_next_attempt(store: FaultyStore) -> None:
    """A process that dies after `started` leaves a call that the next attempt settles with the tool's own
    `reconcile`, a plain function in a thread, and does not run again."""
    asked: list[str] = []

    def ask(key: str) -> Outcome:
        asked.append(key)
        return Done("it was paid")

    shop = Shop(store, reconcile=ask)
    run = await shop.handler.create_run("pay")

    async def dead(state: RunState) -> None:
        raise asyncio.CancelledError  # who is dead writes nothing more

    async def die(state: RunState) -> None:
        if any(row.status == "started" for row in state.ledger):
            store.before_save, store.after_save = dead, None
            store.fired += 1
            raise asyncio.CancelledError

    store.after_save, store.fired = die, 0
    with pytest.raises(asyncio.CancelledError):
        await shop.handler.run_iteration(run.run_id, 1, Attempt(hold=0.0))
    assert store.fired == 1
    store.before_save = None
    state = await shop.opened().continue_run(run.run_id)
    result = await shop.result(run.run_id)
    assert (state.status, result.status, result.content, shop.paid) == ("done", "ok", "it was paid", 0)
    assert asked == [f"{run.run_id}:1.0"]


async def test_a_reconcile_that_fails_settles_nothing(store: FaultyStore) -> None:
    """A `reconcile` that raises or hangs leaves the call unknown, and the run goes on."""

    async def broken(key: str) -> Outcome:
        raise RuntimeError(key)

    async def hangs(key: str) -> Outcome:
        await asyncio.Event().wait()
        return None

    for reconcile in (broken, hangs):
        shop = Shop(store, reconcile=reconcile, timeout=0.1)
        state = await shop.handler.handle_prompt("pay")
        assert (state.status, (await shop.result(state.run_id)).status) == ("done", "unknown")


async def test_the_run_fails_where_the_tool_wants_it(store: FaultyStore) -> None:
    """With on_unknown="fail" the run fails with that reason, its transcript whole, and buys no more."""
    shop = Shop(store, on_unknown="fail")
    state = await shop.handler.handle_prompt("pay")
    assert (state.status, state.model_replies, shop.paid) == ("failed", 1, 1)
    assert state.error is not None
    assert state.error.type == "OutcomeUnknownError"
    assert (await shop.result(state.run_id)).status == "unknown"


@pytest.mark.parametrize(("outcome", "status", "text"), OUTCOMES)
async def test_a_person_settles_the_call(
    store: FaultyStore, outcome: Outcome, status: str, text: str
) -> None:
    """With on_unknown="ask_person" the run waits, its sibling's result saved, until a person says what the
    outcome was; a second decision changes nothing."""
    shop = Shop(store, on_unknown="ask_person")
    run = await shop.handler.handle_prompt("pay", wait=False)
    waiting = await shop.until(run.run_id, lambda state: state.status == "waiting")
    assert ([row.call.id for row in waiting.unsettled], waiting.claim.owner) == (["1.0"], "")
    await shop.handler.settle(run.run_id, "1.0", outcome)
    await shop.opened().settle(run.run_id, "1.0", Done("something else"))
    state = await shop.handler.wait(run.run_id, timeout=20)
    result = await shop.result(run.run_id)
    assert (state.status, state.iteration, state.model_replies, shop.paid) == ("done", 2, 2, 1)
    assert result.status == status
    assert text in result.content


async def test_a_decision_waits_for_whoever_goes_on(store: FaultyStore) -> None:
    """A decision for a run that nothing drives is kept: the run goes on when it is continued."""
    shop = Shop(store, on_unknown="ask_person")
    run = await shop.handler.handle_prompt("pay", wait=False)
    await shop.until(run.run_id, lambda state: state.status == "waiting")
    await shop.handler.executor.aclose()  # type: ignore[attr-defined]
    shop.handler = shop.opened()
    with pytest.raises(InvalidInputError, match=r"these do: 1\.0"):
        await shop.handler.settle(run.run_id, "1.1", Done())
    state = await shop.handler.settle(run.run_id, "1.0", Done("by the bank"))
    assert state.unsettled == []
    assert (await shop.handler.wait(run.run_id, timeout=20)).status == "done"
    assert (await shop.result(run.run_id)).content == "by the bank"
    with pytest.raises(InvalidInputError, match="none does"):
        await shop.handler.settle(run.run_id, "9.9", Done())


async def test_a_waiting_run_is_cancelled_at_once(store: FaultyStore) -> None:
    """A run that waits for a person can be cancelled; its call is unknown in the transcript."""
    shop = Shop(store, on_unknown="ask_person")
    run = await shop.handler.handle_prompt("pay", wait=False)
    await shop.until(run.run_id, lambda state: state.status == "waiting")
    await shop.handler.cancel(run.run_id)
    state = await shop.handler.wait(run.run_id, timeout=20)
    assert (state.status, (await shop.result(run.run_id)).status) == ("cancelled", "unknown")


async def test_waiting_for_a_person_uses_up_no_time(store: FaultyStore) -> None:
    """The time that a run waited for a person does not count for its limit of seconds."""
    shop = Shop(store, on_unknown="ask_person")
    run = await shop.handler.handle_prompt("pay", wait=False)
    await shop.until(run.run_id, lambda state: state.status == "waiting")
    await shop.handler.executor.aclose()  # type: ignore[attr-defined]
    waiting = await shop.handler.get_run(run.run_id)
    long_ago = now() - timedelta(days=3)
    moved = {"started_at": long_ago, "paused_at": long_ago, "version": waiting.version + 1}
    await store.save_run(waiting.model_copy(update=moved), [])
    shop.handler = shop.opened(Limits(seconds=3600))
    await shop.handler.settle(run.run_id, "1.0", None)
    state = await shop.handler.wait(run.run_id, timeout=20)
    assert (state.status, state.output) == ("done", "the end")
    assert state.paused_seconds > 250_000


@pytest.mark.parametrize("on_unknown", ["tell_model", "ask_person", "fail"])
async def test_an_idempotent_tool_may_not_know_either(store: FaultyStore, on_unknown: OnUnknown) -> None:
    """A tool that raises OutcomeUnknownError is taken at its word, whatever its policy."""
    shop = Shop(store, policy="idempotent", on_unknown=on_unknown)
    run = await shop.handler.handle_prompt("pay", wait=False)
    ends = {"tell_model": "done", "ask_person": "waiting", "fail": "failed"}
    state = await shop.until(run.run_id, lambda state: state.status == ends[on_unknown])
    assert [row.status for row in state.ledger] == (["waiting", "done"] if on_unknown == "ask_person" else [])
    await shop.handler.aclose()
