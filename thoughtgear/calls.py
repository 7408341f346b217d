"""The calls of one iteration: run what is not done, keep what is."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

from thoughtgear.agent import Agent
from thoughtgear.cache import Slot, key_of
from thoughtgear.commit import RunWriter
from thoughtgear.errors import InvalidInputError, OutcomeUnknownError, SupersededError
from thoughtgear.foreign import being_cancelled, contained
from thoughtgear.memory import Memory, Scope, scope_of
from thoughtgear.models import CallRecord, RunState, ToolCall, ToolResult
from thoughtgear.outcomes import Done, Outcome, Reconcile, Void
from thoughtgear.protocols import Attempt
from thoughtgear.threads import ThreadsBusyError
from thoughtgear.tools import Tool, ToolContext, cut, idempotency_key, result_text
from thoughtgear.transitions import known, mark_started, save_outcomes, unknown

GRACE_SECONDS = 0.05
"""How long finished calls wait for their siblings before they are saved without them."""

STOP_SECONDS = 1.0
"""How long a cancelled call may take to clean up."""

CUT = "The tool was not run: the reply ended before this call was whole. Make the call shorter."

log = logging.getLogger("thoughtgear")


class Calls:
    """Runs the open calls of the current iteration.

    `finished` holds the results that no commit has yet, in the order of their completion, `unsettled` the
    ids of the calls whose outcome a person is to tell.
    """

    def __init__(self, agent: Agent, writer: RunWriter, attempt: Attempt) -> None:
        self.finished: list[ToolResult] = []
        self.unsettled: list[str] = []
        self._noted: set[str] = set()  # as started in the ledger, and not begun
        self._refused = False  # an unknown outcome fails the run: what comes in order is not begun
        self._agent = agent
        self._writer = writer
        self._attempt = attempt
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Run every open call to its end; what is done while a sibling goes on is saved.

        A call that an earlier attempt left `started` is not run again: its tool says what became of it, or
        nobody knows. When this is cancelled or superseded, the calls are stopped and what has finished is
        saved if it still may be.
        """
        rows = self._writer.state.ledger
        pending = [row for row in rows if row.status == "pending"]
        in_order = any(not self._may_overlap(row) for row in pending)
        tasks = {asyncio.create_task(self._call(row, in_order)) for row in pending}
        started = [row for row in rows if row.status == "started"]
        tasks |= {asyncio.create_task(self._keep(row, self._resolve)) for row in started}
        try:
            await self._collect(tasks)
        except BaseException as exc:
            await self._stop(tasks)
            if not isinstance(exc, SupersededError):
                await self._save_finished(self._noted)
            raise

    async def _collect(self, tasks: set[asyncio.Task[None]]) -> None:
        running = tasks
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            if running:
                more, running = await asyncio.wait(running, timeout=GRACE_SECONDS)
                done |= more
            for task in done:
                task.result()
            if running:
                await self._save_finished()

    async def _save_finished(self, not_begun: Collection[str] = ()) -> None:
        if self.finished or self.unsettled or not_begun:
            change = partial(
                save_outcomes, results=self.finished, unsettled=self.unsettled, not_begun=set(not_begun)
            )
            self.finished, self.unsettled = [], []
            await self._writer.commit(change)

    async def _stop(self, tasks: set[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS)

    def _may_overlap(self, row: CallRecord) -> bool:
        tool = self._agent.toolbox.find(row.call.name)
        return tool is None or tool.parallel

    async def _call(self, row: CallRecord, in_order: bool) -> None:
        if in_order:
            async with self._turn:
                if not self._refused:
                    await self._keep(row, self._result)
        else:
            await self._keep(row, self._result)

    async def _keep(self, row: CallRecord, work: Callable[[CallRecord], Awaitable[ToolResult]]) -> None:
        result = await work(row)
        if result.status == "unknown" and row.on_unknown == "ask_person":
            self.unsettled.append(row.call.id)
            return
        self._refused |= result.status == "unknown" and row.on_unknown == "fail"
        self.finished.append(result)
        await self._agent.callbacks.fire("on_tool_end", self._writer.state.run_id, result)

    async def _result(self, row: CallRecord) -> ToolResult:
        call = row.call
        tool = self._agent.toolbox.find(call.name)
        if tool is None:
            names = ", ".join(spec.name for spec in self._agent.toolbox.specs()) or "none"
            return self._cut(_error(call, f"There is no tool named {call.name!r}. Tools: {names}."))
        if call.cut:
            return _error(call, CUT)
        try:
            arguments = tool.validate(call.arguments)
        except InvalidInputError as exc:
            return self._cut(_error(call, str(exc)))
        if tool.cache is None:
            return self._cut(await self._execute(row, tool, arguments))
        return await self._cached(row, tool, arguments, tool.cache)

    async def _cached(
        self, row: CallRecord, tool: Tool, arguments: dict[str, Any], lasts: timedelta
    ) -> ToolResult:
        """The result that is kept, else that of running the tool. The first is no effect, so no check comes
        before it: its commit is fenced as any."""
        call, agent, state = row.call, self._agent, self._writer.state
        limit = agent.limits.tool_result_bytes
        key = key_of(state.user_id, agent.name, tool, limit, call.arguments, arguments)
        slot = Slot(agent.store, key, lasts, label=f"{tool.name} in run {state.run_id}")
        content = await slot.find()
        if content is not None:
            return ToolResult(call_id=call.id, name=call.name, content=content, cached=True)
        result = self._cut(await self._execute(row, tool, arguments))
        if result.status == "ok":
            await slot.keep(result.content)
        return result

    async def _execute(self, row: CallRecord, tool: Tool, arguments: dict[str, Any]) -> ToolResult:
        """Run a valid call: a plain function takes a thread first, so that the check comes last. Where none
        comes free within the tool's time-out, the call has not begun."""
        if tool.is_async:
            return await self._effect(row, tool, arguments, lambda function: function())
        try:
            async with self._agent.threads.place(tool.timeout) as place:
                return await self._effect(row, tool, arguments, place.run)
        except ThreadsBusyError as exc:
            return _error(row.call, f"The tool was not run. {exc} Try again later.")

    async def _effect(
        self, row: CallRecord, tool: Tool, arguments: dict[str, Any], run: Callable[[Any], Awaitable[Any]]
    ) -> ToolResult:
        call, writer = row.call, self._writer
        scope = asyncio.timeout(None)
        function = tool.bind(arguments, self._context(call, scope, tool.timeout))
        await self._agent.callbacks.fire("on_tool_start", writer.state.run_id, call)
        if row.policy == "at_most_once":
            self._noted.add(call.id)
            await writer.commit(partial(mark_started, call_id=call.id))
        await writer.check()
        self._noted.discard(call.id)
        try:
            async with scope:
                # Its time begins now: the commit before it may have waited long for the store.
                scope.reschedule(asyncio.get_running_loop().time() + tool.timeout)
                value = await run(function)
                if inspect.isawaitable(value):  # a plain function that returned a coroutine
                    value = await value
            return ToolResult(call_id=call.id, name=call.name, content=result_text(value))
        except asyncio.CancelledError as exc:
            if being_cancelled():
                raise
            return _error(call, _describe(exc))
        except SystemExit as exc:  # it would end the worker and all its runs
            return _error(call, _describe(exc))
        except Exception as exc:
            if isinstance(exc, OutcomeUnknownError) or (scope.expired() and row.policy == "at_most_once"):
                return await self._resolve(row)
            return _timed_out(row, tool) if scope.expired() else _error(call, _describe(exc))

    async def _resolve(self, row: CallRecord) -> ToolResult:
        """What became of a call whose end was not seen: what the tool's `reconcile` finds out, or unknown."""
        tool = self._agent.toolbox.find(row.call.name)
        if tool is None or tool.reconcile is None:
            return unknown(row.call)
        await self._writer.check()  # it settles the key outside, which is an effect
        try:
            async with asyncio.timeout(tool.timeout):
                outcome: Outcome = await contained("reconcile", self._ask, row.call, tool, tool.reconcile)
            return self._cut(_settled(row.call, outcome))
        except Exception as exc:
            extra = {"run_id": self._writer.state.run_id}
            log.warning("reconcile of call %s: %s", row.call.id, type(exc).__name__, extra=extra)
            return unknown(row.call)

    async def _ask(self, call: ToolCall, tool: Tool, reconcile: Reconcile) -> Outcome:
        """Ask the tool; a plain function in a thread, of a pool that hanging tools can't fill."""
        ask = partial(reconcile, idempotency_key(self._writer.state.run_id, call.id))
        if inspect.iscoroutinefunction(reconcile):
            found = ask()
        else:
            async with self._agent.reconcile_threads.place(tool.timeout) as place:
                found = await place.run(ask)
        outcome: Outcome = await found if inspect.isawaitable(found) else found
        return outcome

    def _context(self, call: ToolCall, scope: asyncio.Timeout, seconds: float) -> ToolContext:
        state = self._writer.state
        return ToolContext(
            run_id=state.run_id,
            session_id=state.session_id,
            user_id=state.user_id,
            iteration=state.iteration + 1,
            attempt=self._attempt.number,
            call_id=call.id,
            memory=Memory(self._agent.store, memory_scope(state)),
            metadata=dict(state.metadata),
            beat=partial(_extend, scope, seconds),
        )

    def _cut(self, result: ToolResult) -> ToolResult:
        result.content = cut(result.content, self._agent.limits.tool_result_bytes)
        return result


def _settled(call: ToolCall, outcome: Outcome) -> ToolResult:
    if isinstance(outcome, Done):
        return known(call, done=True, text=result_text(outcome.result))
    if isinstance(outcome, Void):
        return known(call, done=False, text=outcome.reason)
    if outcome is not None:
        raise InvalidInputError("reconcile has to return Done(result), Void(reason) or None.")
    return unknown(call)


def memory_scope(state: RunState) -> str:
    """Whose memory a tool sees: the user's, else the session's, else the run's own."""
    scopes: tuple[Scope, ...] = ("user", "session", "run")
    return next(name for scope in scopes if (name := scope_of(state, scope)) is not None)


def _extend(scope: asyncio.Timeout, seconds: float, *_details: Any) -> None:
    """A sign of life: the tool's time-out begins anew; harmless after the call's end."""
    with suppress(RuntimeError):
        scope.reschedule(asyncio.get_running_loop().time() + seconds)


def _describe(exc: BaseException) -> str:
    try:
        return f"{type(exc).__name__}: {exc}"
    except Exception:
        return type(exc).__name__


def _error(call: ToolCall, text: str) -> ToolResult:
    return ToolResult(call_id=call.id, name=call.name, status="error", content=text)


def _timed_out(row: CallRecord, tool: Tool) -> ToolResult:
    return _error(row.call, f"The tool gave no sign of life for {tool.timeout:g} s and was stopped.")
