"""One iteration, re-entrant: it looks at the store to see where it is, and goes on from there."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from thoughtgear import live
from thoughtgear.agent import Agent
from thoughtgear.calls import Calls
from thoughtgear.commit import FRESH_SECONDS, Change, RunWriter
from thoughtgear.context import LEFT_OUT, Plan, Summarise, Trim
from thoughtgear.errors import (
    ModelError,
    ModelRejectedError,
    ModelUnavailableError,
    RunCancelledError,
    StateRegressionError,
    StoreError,
    SupersededError,
)
from thoughtgear.foreign import contained
from thoughtgear.loop import limit_reached, seconds_of
from thoughtgear.models import InboxItem, Message, Paid, Parent, RunError, RunState, Status, Usage, now
from thoughtgear.payloads import IterationResult
from thoughtgear.protocols import Attempt, ModelReply, ModelRequest, OnText
from thoughtgear.replies import accept, bounded, storable
from thoughtgear.summaries import Fitted, Terms, home_of
from thoughtgear.transitions import as_message, close_calls, end_paid, lose_reply, pay, save_reply
from thoughtgear.watching import watched

FIRST_LOOK, LAST_LOOK = 0.2, 30.0
"""Seconds between two looks at the earlier run that a queued run waits for."""

PERSON_LOOK = 3600.0
"""Seconds between two looks at a run that waits for a person: a decision wakes it at once."""

log = logging.getLogger("thoughtgear")


async def run_iteration(agent: Agent, run_id: str, iteration: int, attempt: Attempt) -> IterationResult:
    """Run iteration `iteration` (from 1), or report where the run stands when it is not due.

    Raises what its parts raise: `SupersededError`, `StoreError`, `ModelError`, `RunNotFoundError`. When it
    is cancelled, the results of finished calls are saved first.
    """
    state, contact = await _newest(agent, run_id, attempt)
    if state.version < attempt.version:
        raise StateRegressionError
    if not state.over and attempt.epoch not in (None, state.claim.epoch):
        raise SupersededError
    if state.over or state.iteration != iteration - 1:
        return _rested(agent, state)
    if state.status == "waiting" and state.unsettled and not state.cancel_requested:
        return standing(state)
    writer = RunWriter(agent.store, state, attempt, agent.transcripts.appended, contact)
    if writer.must_wait:
        wait = state.claim.deadline - time.time()
        return standing(state, "in_progress", wait, "another attempt is at work")
    parent = await agent.sessions.busy_parent(state)
    if parent is not None and not state.cancel_requested:
        return standing(state, "waiting", _look_again(state), f"run {parent.run_id} goes first")
    place = _place(agent, state)
    if place:
        return paced(standing(state), place)
    return await _Iteration(agent, writer, attempt).run()


async def _newest(agent: Agent, run_id: str, attempt: Attempt) -> tuple[RunState, float]:
    """The newest state, and when the store had it.

    A driver that serialises and knows of no newer version than this process has just committed goes on from
    that one: it is as fresh as the check before an effect asks for, and whatever came in since then makes the
    next commit a conflict. Not where there may be no commit, because a person is to decide; and both clocks
    have to agree: one of them stands still while the machine is suspended.
    """
    known = agent.transcripts.acknowledged(run_id) if attempt.serialised and attempt.number == 1 else None
    if known and known[0].version == attempt.version and known[0].status == "running":
        passed = (now() - known[0].updated_at).total_seconds()
        if max(abs(passed), time.monotonic() - known[1]) < FRESH_SECONDS:
            return known
    asked = time.monotonic()
    return await agent.store.load_run(run_id), asked


def standing(state: RunState, status: Any = None, wait: float = 0.0, reason: str = "") -> IterationResult:
    """Report where a run stands: `status` unless it is over, or waits for a person."""
    if state.status == "waiting" and state.unsettled:
        status, wait = "waiting", PERSON_LOOK
        ids = ", ".join(row.call.id for row in state.unsettled)
        reason = f"a person has to settle call {ids}"
    result = IterationResult("running", state.iteration + 1, state.version, wait=wait)
    result.status = state.status if state.status in ("done", "failed", "cancelled") else status or "running"
    result.reason = f"{state.error.type}: {state.error.message}" if state.error else reason
    if state.over:
        result.usage = {"input_tokens": state.usage.input_tokens, "output_tokens": state.usage.output_tokens}
    return result


def paced(result: IterationResult, seconds: float) -> IterationResult:
    """Have a run that goes on wait for its executor's pace."""
    if result.status == "running" and seconds:
        # Rounded up: who comes too early has to come again.
        result.status, result.wait, result.paced = "waiting", math.ceil(seconds * 1000) / 1000, True
        result.reason = "the executor's pace"
    return result


def _rested(agent: Agent, state: RunState) -> IterationResult:
    """Where a run stands, with what is left of the delay after its last iteration."""
    return paced(standing(state), agent.pace.rest(state) if agent.pace else 0.0)


def _place(agent: Agent, state: RunState) -> float:
    """Seconds until the model may be asked. Where its reply is there the iteration goes on, and a cancel
    waits for nothing."""
    if agent.pace is None or state.ledger or state.cancel_requested:
        return 0.0
    return agent.pace.admit(state)


def _dated(agent: Agent, change: Change) -> Change:
    """The change, which also says when the next iteration is due where it ends one."""
    if agent.pace is None:
        return change
    pace = agent.pace

    def dated(state: RunState) -> list[Message]:
        iteration = state.iteration
        messages = change(state)
        if state.iteration > iteration:
            state.due_at = pace.due_at()
        return messages

    return dated


def _look_again(state: RunState) -> float:
    """A quarter of the time waited so far: the looks of a long wait are few, and none is late by much."""
    waited = (now() - state.created_at).total_seconds()
    return min(max(FIRST_LOOK, waited / 4), LAST_LOOK)


class _Iteration:
    """One attempt at one iteration."""

    def __init__(self, agent: Agent, writer: RunWriter, attempt: Attempt) -> None:
        self._agent, self._writer, self._attempt = agent, writer, attempt
        self._used = Usage()
        self._replies = writer.state.model_replies
        self._fitted = Fitted()
        self._text: live.LiveWriter | None = None
        self._extra = {"run_id": writer.state.run_id, "iteration": writer.state.iteration + 1}

    async def run(self) -> IterationResult:
        try:
            tools = await watched(
                self._turn(), partial(self._writer.watch, self._looked), self._attempt.watch
            )
        except RunCancelledError:
            tools = []
            if not self._writer.state.over:
                await self._end("cancelled", None, self._unbilled())
        except asyncio.CancelledError:
            await self._writer.let_go()
            raise
        except ModelRejectedError as exc:
            if exc.paid is not None or self._fitted.paid:
                await self._note(exc)
            raise
        except ModelUnavailableError as exc:
            await self._note(exc)
            if not self._attempt.serialised and not self._attempt.keep_claim:
                await self._writer.let_go()
            if exc.retry_after is not None:
                exc.retry_after = min(exc.retry_after, self._seconds_left())
            raise
        state = self._writer.state
        result = _rested(self._agent, state)
        if state.status != "waiting":  # else the iteration goes on later, and reports then
            result.tools, result.tokens = tools, [self._used.input_tokens, self._used.output_tokens]
        await self._tell(state, result)
        return result

    async def _turn(self) -> list[str]:
        """The steps that are not done yet; returns the names of the tools."""
        if self._writer.must_claim_first:
            await self._writer.claim()
        if self._writer.state.cancel_requested:
            raise RunCancelledError
        if self._writer.state.ledger:
            self._used = await self._saved_usage()
        else:
            await self._buy_reply()
        tools = [self._known_name(row.call.name) for row in self._writer.state.ledger]
        if tools:
            await self._run_calls()
        return tools

    async def _note(self, exc: ModelError) -> None:
        """Count a reply that was lost, for it was paid for in part, and what was bought before it; else note
        that the run has begun."""
        paid = [*self._unbilled(), *self._paid(exc.paid)]
        if not exc.begun and not paid:
            await self._writer.begin()
            return
        lost = partial(lose_reply, paid=paid, summarised=self._fitted.place, begun=exc.begun)
        with suppress(StoreError, SupersededError):
            await self._writer.commit(lost, release=not self._attempt.keep_claim)

    def _unbilled(self) -> list[Paid]:
        """What was bought for the reply and is on no bill: where the reply is saved, all of it is."""
        return self._fitted.paid if self._writer.state.model_replies == self._replies else []

    def _paid(self, reply: object) -> list[Paid]:
        """What was counted of a reply, and of those that were lost on the way to it."""
        several = reply.bought if isinstance(reply, ModelReply) else []
        return [(each.usage, self._agent.prices.cost(each)) for each in several]

    def _seconds_left(self) -> float:
        """Until the run reaches its limit: to wait for longer would only delay its end."""
        return max(0.0, self._agent.limits.seconds - seconds_of(self._writer.state))

    def _known_name(self, name: str) -> str:
        """The tool's own name: what a model calls a tool that isn't there is the model's text."""
        tool = self._agent.toolbox.find(name)
        return tool.name if tool else "unknown tool"

    async def _buy_reply(self) -> None:
        if await self._limited():
            return
        state, agent = self._writer.state, self._agent
        seen = state.mail
        parent = await agent.sessions.frozen(state)
        request = await self._request(seen, parent)
        if self._fitted.paid and await self._limited():
            return
        await self._writer.check()
        reply = await self._call_model(request)
        message, rows = accept(agent, reply, state.iteration + 1)
        paid = [*self._fitted.paid, *self._paid(reply)[:-1]]
        self._used = sum((usage for usage, _ in paid), reply.usage)
        change = partial(save_reply, reply=message, rows=rows, seen=seen, parent=parent, limits=agent.limits)
        change = partial(change, summarised=self._fitted.place, paid=paid)
        if agent.output_type is not None and not rows:
            change = partial(change, answer=agent.output_type.check(message.text))
        await self._writer.commit(_dated(agent, change), release=not rows and not self._attempt.keep_claim)

    async def _limited(self) -> bool:
        """End a run that may buy nothing more, with what was bought for this reply."""
        error = self._limit(self._fitted.paid)
        if error is not None:
            await self._end("failed", error, self._fitted.paid)
        return error is not None

    def _limit(self, paid: Sequence[Paid]) -> RunError | None:
        """Why the run must buy nothing more when it has paid for this."""
        draft = self._writer.state.model_copy()
        pay(draft, paid, 0)
        return limit_reached(draft, self._agent.limits)

    async def _end(self, status: Status, error: RunError | None, paid: Sequence[Paid]) -> None:
        end = partial(end_paid, status=status, error=error, paid=paid, summarised=self._fitted.place)
        await self._writer.commit(end)

    async def _saved_usage(self) -> Usage:
        """What the reply cost that an earlier attempt has bought."""
        messages = await self._agent.transcripts.messages(self._writer.state)
        replies = (message for message in reversed(messages) if message.role == "assistant")
        reply = next(replies, None)
        return reply.usage or Usage() if reply else Usage()

    async def _run_calls(self) -> None:
        calls = Calls(self._agent, self._writer, self._attempt)
        await calls.run()
        finish = partial(
            close_calls, results=calls.finished, unsettled=calls.unsettled, limits=self._agent.limits
        )
        await self._writer.commit(_dated(self._agent, finish), release=not self._attempt.keep_claim)

    async def _request(self, seen: Sequence[InboxItem], parent: Parent | None) -> ModelRequest:
        agent, state = self._agent, self._writer.state
        earlier = await agent.sessions.earlier(state, parent)
        own = await agent.transcripts.messages(state)
        mail = [as_message(item, state.iteration + 1) for item in seen]
        attached = [(run_id, message) for run_id, message in earlier if message.attachments]
        attached += [(state.run_id, message) for message in await agent.transcripts.attached(state)]
        context, tools = await agent.context_for(state), agent.toolbox.specs()
        files = [(run_id, each.sha256) for run_id, message in attached for each in message.attachments]
        messages = [*(message for _, message in earlier), *own, *mail]
        if agent.context_policy is not None:
            plan = agent.context_policy.plan(earlier, state.run_id, [*own, *mail], context, tools)
            messages = await self._fit(agent.context_policy, plan)
            sent = {each.sha256 for message in messages for each in message.attachments}
            files = [(run_id, sha256) for run_id, sha256 in files if sha256 in sent]
        return ModelRequest(
            context=context,
            messages=messages,
            tools=tools,
            files={sha256: await agent.transcripts.file(run_id, sha256) for run_id, sha256 in files},
            options=agent.model_options,
            output=agent.output_type.spec if agent.output_type else None,
        )

    async def _fit(self, policy: Trim, plan: Plan) -> list[Message]:
        if not isinstance(policy, Summarise):
            return plan.joined(LEFT_OUT)
        agent, state = self._agent, self._writer.state
        terms = Terms(
            state.run_id,
            state.summarised,
            home_of(state),
            may_buy=lambda paid: self._limit(paid) is None,
            buy=self._buy_summary,
            cost=agent.prices.cost,
        )
        await agent.summaries.fit(policy, plan, terms, self._fitted)
        return self._fitted.messages

    async def _buy_summary(self, request: ModelRequest) -> ModelReply:
        """Ask for a summary, of which nobody is shown anything while it is written."""

        async def unheard(piece: str) -> None:
            pass

        await self._writer.check()
        return await self._ask(request, unheard)

    async def _call_model(self, request: ModelRequest) -> ModelReply:
        agent, state = self._agent, self._writer.state
        text = live.LiveWriter(agent.store, state.run_id, state.iteration + 1, state.version)

        async def on_text(piece: str) -> None:
            await agent.callbacks.fire("on_partial_reply", state.run_id, piece)
            text.add(storable(piece), wanted=self._writer.state.stream)  # a reader may come meanwhile

        self._text = text
        async with aclosing(text):
            reply = await self._ask(request, on_text)
        log.info("reply with %d calls", len(reply.calls), extra=self._extra)
        return reply

    def _looked(self) -> None:
        """Have a reader who came meanwhile told what was said so far: the next piece may take a while."""
        if self._text is not None and self._writer.state.stream:
            self._text.add("")

    async def _ask(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        agent, seconds = self._agent, self._agent.limits.model_seconds
        try:
            async with asyncio.timeout(seconds) as scope:
                ask = partial(agent.model.reply, request, bounded(on_text, agent.limits))
                reply: ModelReply = await contained("The model's provider", ask)
        except TimeoutError as exc:
            if not scope.expired():
                raise
            raise ModelUnavailableError(
                f"The model did not answer within {seconds:g} s.", begun=True
            ) from exc
        return reply if reply.model else replace(reply, model=agent.model.model)

    async def _tell(self, state: RunState, result: IterationResult) -> None:
        await self._agent.callbacks.fire("on_iteration", state.run_id, result)
        await told_end(self._agent, state)


async def told_end(agent: Agent, state: RunState) -> None:
    """Tell the callbacks that a run is over, and drop its live text and its place."""
    if state.over and agent.pace is not None:
        agent.pace.forget(state.run_id)
    if state.status == "done":
        await agent.callbacks.fire("on_done", state)
    elif state.over:
        await agent.callbacks.fire("on_error", state, state.error)
    if state.over and state.stream:
        try:
            await live.forget(agent.store, state.run_id)
        except Exception as exc:  # an adapter may raise anything, and the run is over
            log.warning("the live text stays: %s", type(exc).__name__, extra={"run_id": state.run_id})
