"""RunWorkflow: drives the iterations of one run. It holds ids and small facts, never the transcript."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy, SearchAttributeKey
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from thoughtgear.errors import InvalidInputError
    from thoughtgear.loop import RETRY_FACTOR, RETRY_FIRST, RETRY_MOST, next_step
    from thoughtgear.models import (
        CLOSE_RUN,
        DELIVER,
        OVER,
        RUN_ITERATION,
        START_RUN,
        WORKFLOW,
        Carried,
        CloseInput,
        DeliverInput,
        IterationInput,
        Report,
        RunInput,
        RunResult,
        StartInput,
        sparse,
    )
    from thoughtgear.workflows.details import add_row, render
    from thoughtgear.workflows.given import read_input

_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=RETRY_FIRST),
    backoff_coefficient=RETRY_FACTOR,
    maximum_interval=timedelta(seconds=RETRY_MOST),
)
_BRIEF = timedelta(minutes=2)
_LONG = timedelta(hours=24)
_HEARTBEAT = timedelta(seconds=10)


@workflow.defn(name=WORKFLOW)
class RunWorkflow:
    """Runs iterations until the run is over, then returns a `RunResult`.

    It fails when the run failed and is cancelled when it was cancelled; the store says the same. `wake`
    ends a wait; `send` takes `{"text": …, "request_id": …}`; `progress` answers where the run stands.
    """

    def __init__(self) -> None:
        self._given = RunInput()
        self._carried = Carried()
        self._report: Report | None = None
        self._mail = asyncio.Lock()

    @workflow.run
    async def run(self, *args: Any) -> RunResult:
        try:
            self._given = read_input(args)
        except InvalidInputError as exc:
            self._report = Report("failed", 1, 0)
            raise ApplicationError(str(exc), type=type(exc).__name__, non_retryable=True) from None
        self._carried = self._given.carried or Carried(by_value=self._given.run_id is None)
        report = await self._until_over()
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._end(report)

    @workflow.signal
    def wake(self) -> None:
        """Look at the store again, now."""
        self._carried.woken = True

    @workflow.signal
    async def send(self, message: Any = None) -> None:
        """Put a message into the run's inbox, in the order of the signals. What is no message is dropped."""
        text = message.get("text") if isinstance(message, dict) else None
        if not isinstance(text, str) or not text:
            workflow.logger.warning("A send signal without a text was dropped.")
            return
        request_id = str(message.get("request_id") or workflow.uuid4())
        async with self._mail:
            await workflow.wait_condition(lambda: self._given.run_id is not None or self._over)
            if self._given.run_id is not None:
                await self._deliver(DeliverInput(self._given.run_id, text, request_id, self._given.handler))

    @workflow.query
    def progress(self) -> dict[str, Any]:
        """Where the run stands, in ids and small facts."""
        report = self._report
        return {
            "run_id": self._given.run_id,
            "handler": self._given.handler,
            "status": report.status if report else "running",
            "iterations": self._carried.iteration - 1,
            "reason": report.reason if report else "",
            "totals": self._carried.totals,
        }

    @property
    def _over(self) -> bool:
        return self._report is not None and self._report.status in OVER

    async def _until_over(self) -> Report:
        try:
            if self._given.run_id is None:
                self._note(await self._start())
            return await self._loop()
        except (ActivityError, asyncio.CancelledError) as exc:
            cancelled = is_cancelled_exception(exc)
            error = [] if cancelled or not isinstance(exc, ActivityError) else _reason(exc)
        return await self._close(CloseInput("cancelled" if cancelled else "failed", error=error))

    async def _loop(self) -> Report:
        """Iterate until the run is over. What is done stays done when a cancel comes at the same time."""
        while True:
            step = next_step(self._report) if self._report else None
            if self._report and step and step.kind == "stop":
                return self._report
            if workflow.cancellation_reason() is not None:
                raise asyncio.CancelledError
            if workflow.info().is_continue_as_new_suggested():
                await self._continue_as_new()
            if step and step.kind == "wait":
                await self._wait(step.seconds)
            await self._iterate()

    async def _start(self) -> Report:
        report: Report = await workflow.execute_activity(
            START_RUN,
            sparse(self._start_input()),
            result_type=Report,
            start_to_close_timeout=_BRIEF,
            retry_policy=_RETRY,
            summary="start",
        )
        return report

    def _start_input(self) -> StartInput:
        """Name the run by the first execution, so that a retry and a reset find it; under a cron, by each."""
        info = workflow.info()
        given = self._given
        return StartInput(
            prompt=given.prompt or "",
            execution=info.original_execution_run_id if info.cron_schedule else info.first_execution_run_id,
            handler=given.handler,
            session_id=given.session_id,
            user_id=given.user_id,
            metadata=given.metadata,
        )

    async def _iterate(self) -> None:
        carried = self._carried
        carried.woken = False
        report: Report = await workflow.execute_activity(
            RUN_ITERATION,
            sparse(
                IterationInput(
                    run_id=self._given.run_id or "",
                    iteration=carried.iteration,
                    version=carried.version,
                    handler=self._given.handler,
                    by_value=carried.by_value,
                )
            ),
            result_type=Report,
            start_to_close_timeout=_LONG,
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=_RETRY,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=f"iteration {carried.iteration}",
        )
        if report.tools or report.tokens:
            add_row(carried, report)
        self._note(report)

    def _note(self, report: Report) -> None:
        """Take over what an activity reported, and show it."""
        carried = self._carried
        carried.iteration, carried.version = report.iteration, report.version
        carried.facts = report.facts or carried.facts
        self._given.run_id = self._given.run_id or report.run_id
        self._report = report
        self._show(report.status, report.reason)

    async def _wait(self, seconds: float) -> None:
        begin = workflow.time()
        with suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._carried.woken, timeout=seconds, timeout_summary="wait"
            )
        self._carried.waited += workflow.time() - begin

    async def _continue_as_new(self) -> None:
        """Go on with a fresh history. The handlers finish first: their messages are in the store then."""
        await workflow.wait_condition(workflow.all_handlers_finished)
        given = replace(self._given, prompt=None, metadata=None, carried=self._carried)
        workflow.continue_as_new(sparse(given))

    async def _close(self, close: CloseInput) -> Report:
        """End the run in the store, even when cancelled meanwhile; one that was over stays what it is."""
        fallback = Report(close.status, self._carried.iteration, self._carried.version, error=close.error)
        close = replace(
            close, run_id=self._given.run_id, handler=self._given.handler, by_value=self._carried.by_value
        )
        if close.run_id is None:
            if close.status == "failed":
                return fallback
            close.start = self._start_input()
        closing = workflow.start_activity(
            CLOSE_RUN,
            sparse(close),
            result_type=Report,
            start_to_close_timeout=_BRIEF,
            retry_policy=_RETRY,
            summary=f"close: {close.status}",
        )
        try:
            return await _uncancelled(closing)
        except ActivityError:
            return fallback

    async def _deliver(self, message: DeliverInput) -> None:
        try:
            await workflow.execute_activity(
                DELIVER,
                sparse(message),
                start_to_close_timeout=_BRIEF,
                retry_policy=_RETRY,
                summary="deliver a message",
            )
        except ActivityError as exc:
            workflow.logger.warning("A message was refused: %s", _reason(exc)[0])
        self._carried.woken = True

    def _end(self, report: Report) -> RunResult:
        self._note(report)
        if report.status == "failed" and not report.stale:
            kind, message = report.error or ("RunFailedError", "The run failed.")
            raise ApplicationError(message, type=kind, non_retryable=True)
        if report.status == "cancelled" and workflow.cancellation_reason() is not None:
            raise asyncio.CancelledError
        return RunResult(
            run_id=self._given.run_id or "",
            status=report.status,
            output=report.output,
            iterations=report.iterations,
            usage=report.usage,
        )

    def _show(self, status: str, reason: str) -> None:
        run_id, attributes = self._given.run_id, self._carried.facts.get("search", [])
        workflow.set_current_details(render(self._carried, run_id=run_id, status=status, reason=reason))
        shown = status if status in OVER else "running"
        if attributes and shown != self._carried.facts.get("shown"):
            self._carried.facts["shown"] = shown
            values = {
                "ThoughtgearStatus": shown,
                "ThoughtgearHandler": self._given.handler,
                "ThoughtgearModel": self._carried.facts.get("model"),
                "ThoughtgearSession": self._carried.facts.get("session"),
            }
            workflow.upsert_search_attributes(
                [
                    SearchAttributeKey.for_keyword(name).value_set(value)
                    for name, value in values.items()
                    if name in attributes and value
                ]
            )


async def _uncancelled(handle: workflow.ActivityHandle[Report]) -> Report:
    """Await an activity to its end, even when the workflow is cancelled meanwhile."""
    try:
        return await asyncio.shield(handle)
    except asyncio.CancelledError:
        return await handle


def _reason(error: ActivityError) -> list[str]:
    """Return type and message of why an activity failed for good."""
    cause = error.cause
    if isinstance(cause, ApplicationError):
        return [cause.type or "ApplicationError", cause.message]
    return [type(cause).__name__, "The activity did not finish."]
