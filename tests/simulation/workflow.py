"""Runs the shipped `RunWorkflow`: what Temporal's runtime gives a workflow, on the virtual loop.

Nothing is replayed: tests/temporal holds the workflow to its histories. Conditions are looked at when nothing
else is left to do at this moment, as Temporal does at the end of an activation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import temporalio.workflow
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError
from temporalio.workflow import ActivityCancellationType

from thoughtgear.workflows.run import RunWorkflow

if TYPE_CHECKING:
    from simulation.temporal import Temporal

RUNTIME: ContextVar[Runtime] = ContextVar("runtime")

LONG_HISTORY = 5
"""Activities after which the server suggests to continue as new, where a scenario has it so."""


class ContinueAsNew(BaseException):
    """What ends an execution for a successor, as Temporal's own does."""


class Order:
    """An activity that a workflow waits for. A cancel ends its retries; a heartbeat tells it."""

    def __init__(self, runtime: Runtime, kind: str, limit: float) -> None:
        self.runtime, self.kind, self.limit = runtime, kind, limit
        self.activity_id = str(runtime.activities)
        self.cancelled = False
        self._pause: asyncio.Future[None] | None = None

    def cancel(self) -> None:
        self.cancelled = True
        if self._pause is not None and not self._pause.done():
            self._pause.set_result(None)

    async def pause(self, seconds: float) -> None:
        """The server's wait before the next attempt; a cancel ends it."""
        if not self.cancelled:
            self._pause = self.runtime.server.world.loop.tick(seconds)
            await self._pause


@dataclass
class Info:
    """What `workflow.info()` says."""

    runtime: Runtime
    cron_schedule: str | None = None

    @property
    def first_execution_run_id(self) -> str:
        return self.runtime.first_execution_run_id

    original_execution_run_id = first_execution_run_id

    def is_continue_as_new_suggested(self) -> bool:
        return self.runtime.server.world.scenario.long and self.runtime.activities >= LONG_HISTORY


class Runtime:
    """One execution of a workflow, and its successors under the same id."""

    def __init__(
        self, server: Temporal, workflow_id: str, temporal_run_id: str, given: dict[str, Any]
    ) -> None:
        self.server, self.workflow_id = server, workflow_id
        self.first_execution_run_id = self.temporal_run_id = temporal_run_id
        self.activities = 0
        self.worker: Any = None
        self.over = False
        self._handlers = 0
        self._conditions: list[tuple[Callable[[], bool], asyncio.Future[bool]]] = []
        self._begin(given)

    def _begin(self, given: dict[str, Any]) -> None:
        self.activities = 0
        self.cancelled = False
        self._workflow = RunWorkflow()
        self._main = self._spawn(self._workflow.run(given), self._ended)

    def _spawn(
        self, work: Coroutine[Any, Any, Any], then: Callable[[asyncio.Task[Any]], object]
    ) -> asyncio.Task[Any]:
        """Start a task in the server, whoever asks for it, and do something at its end."""
        task = self.server.world.loop.spawn(self._inside(work))
        task.add_done_callback(then, context=Context())
        return task

    async def _inside(self, work: Coroutine[Any, Any, Any]) -> Any:
        RUNTIME.set(self)
        return await work

    def _ended(self, main: asyncio.Task[Any]) -> None:
        error = CancelledError() if main.cancelled() else main.exception()
        if isinstance(error, ContinueAsNew):
            self.temporal_run_id = self.server.next_run_id()
            self._begin(error.args[0])
            return
        self.over = True
        known = error is None or isinstance(error, (ApplicationError, CancelledError))
        if not known:
            self.server.world.wrong(f"the workflow raised {error!r}")
        self.server.world.ledger.history.append(repr(error) if error else main.result())

    # --- what comes from outside ---

    def wake(self) -> None:
        self._workflow.wake()

    def send(self, text: str, request_id: str) -> None:
        self._handlers += 1
        self._spawn(self._workflow.send({"text": text, "request_id": request_id}), self._handled)

    def _handled(self, work: asyncio.Task[Any]) -> None:
        self._handlers -= 1
        if not work.cancelled() and work.exception() is not None:
            self.server.world.wrong(f"a signal's handler raised {work.exception()!r}")

    def cancel(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            self._main.cancel()

    def settle(self) -> bool:
        """Look at the conditions; whether one has come true."""
        met = [pair for pair in self._conditions if pair[1].done() or pair[0]()]
        for pair in met:
            self._conditions.remove(pair)
            if not pair[1].done():
                pair[1].set_result(True)
        return bool(met)

    # --- what the workflow asks ---

    async def wait_condition(
        self, fn: Callable[[], bool], *, timeout: float | None = None, timeout_summary: str | None = None
    ) -> None:
        if fn():
            return
        met: asyncio.Future[bool] = self.server.world.loop.create_future()
        self._conditions.append((fn, met))
        await asyncio.wait_for(met, timeout)

    async def execute_activity(
        self,
        activity: str,
        arg: Any,
        *,
        start_to_close_timeout: timedelta,
        heartbeat_timeout: timedelta | None = None,
        cancellation_type: ActivityCancellationType = ActivityCancellationType.TRY_CANCEL,
        **_: Any,
    ) -> Any:
        self.activities += 1
        limit = (heartbeat_timeout or start_to_close_timeout).total_seconds()
        order = Order(self, activity.rpartition(".")[2], limit)
        work = self.server.world.loop.spawn(self.server.carry_out(order, arg))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            order.cancel()
            if cancellation_type == ActivityCancellationType.WAIT_CANCELLATION_COMPLETED:
                return await work
            work.add_done_callback(lambda late: late.cancelled() or late.exception())
            raise activity_error(CancelledError("The activity was cancelled.")) from None

    def all_handlers_finished(self) -> bool:
        return not self._handlers

    def continue_as_new(self, given: Any) -> None:
        raise ContinueAsNew(given)

    def cancellation_reason(self) -> str | None:
        return "" if self.cancelled else None

    def set_current_details(self, text: str) -> None:
        self.server.world.ledger.history.append(text)

    def upsert_search_attributes(self, attributes: Any) -> None:
        self.server.world.ledger.history.append(attributes)

    def info(self) -> Info:
        return Info(self)

    def time(self) -> float:
        return self.server.world.loop.now

    def uuid4(self) -> str:
        return f"signal-{self.server.next_run_id()}"


class WorkflowApi:
    """Stands in for the module `temporalio.workflow`: asks the runtime of whoever calls."""

    ActivityCancellationType = ActivityCancellationType
    logger = logging.getLogger("thoughtgear")

    def __getattr__(self, name: str) -> Any:
        return getattr(RUNTIME.get(), name)


MODULE = temporalio.workflow
API = WorkflowApi()


def activity_error(cause: BaseException) -> ActivityError:
    """Return the error that a workflow sees."""
    error = ActivityError(
        "The activity failed.",
        scheduled_event_id=0,
        started_event_id=0,
        identity="",
        activity_type="",
        activity_id="",
        retry_state=None,
    )
    error.__cause__ = cause
    return error
