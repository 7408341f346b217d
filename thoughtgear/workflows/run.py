"""RunWorkflow: drives the iterations of one run. It holds ids and small facts, never the transcript."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from thoughtgear.errors import InvalidInputError
    from thoughtgear.loop import next_step
    from thoughtgear.models import OVER
    from thoughtgear.payloads import (
        WORKFLOW,
        Carried,
        CloseInput,
        DeliverInput,
        IterationInput,
        Report,
        RunInput,
        RunResult,
        sparse,
    )
    from thoughtgear.workflows import details, steps
    from thoughtgear.workflows.given import read_input, read_message


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
        await steps.uncancelled(workflow.wait_condition(workflow.all_handlers_finished))
        if self._given.run_id is not None and (self._carried.woken or report.status not in OVER):
            self._look_again()
        return self._end(report)

    @workflow.signal
    def wake(self) -> None:
        """Look at the store again, now."""
        self._carried.woken = True

    @workflow.signal
    async def send(self, message: Any = None) -> None:
        """Put a message into the run's inbox, in the order of the signals. What is no message is dropped."""
        found = read_message(message)
        if found is None:
            workflow.logger.warning("A send signal without a text, or with one over 2 MB, was dropped.")
            return
        text, request_id = found[0], found[1] or str(workflow.uuid4())
        async with self._mail:
            await workflow.wait_condition(lambda: self._given.run_id is not None or self._over)
            run_id, handler = self._given.run_id, self._given.handler
            if run_id is not None:
                await steps.deliver(DeliverInput(run_id, text, request_id, handler))
                self._carried.woken = self._carried.woken or not self._over

    @workflow.query
    def progress(self) -> dict[str, Any]:
        """Where the run stands, in ids and small facts."""
        given, carried, report = self._given, self._carried, self._report
        status, reason = (report.status, report.reason) if report else ("running", "")
        facts = {"run_id": given.run_id, "handler": given.handler, "status": status, "reason": reason}
        return {**facts, "iterations": carried.iteration - 1, "totals": carried.totals}

    @property
    def _over(self) -> bool:
        return self._report is not None and self._report.status in OVER

    async def _until_over(self) -> Report:
        try:
            if self._given.run_id is None:
                self._note(await steps.start(steps.start_input(self._given)))
            return await self._loop()
        except (ActivityError, asyncio.CancelledError) as exc:
            # Where a worker died before it saw the cancel, the activity timed out instead.
            cancelled = is_cancelled_exception(exc) or workflow.cancellation_reason() is not None
            error = [] if cancelled or not isinstance(exc, ActivityError) else steps.reason(exc)
        self._report = await self._close(CloseInput("cancelled" if cancelled else "failed", error=error))
        return self._report

    async def _loop(self) -> Report:
        """Iterate until the run is over. What is done stays done when a cancel comes at the same time."""
        while True:
            step = next_step(self._report) if self._report else None
            if self._report and step and step.kind == "stop":
                return self._report
            if workflow.cancellation_reason() is not None:
                raise asyncio.CancelledError
            renew = workflow.info().is_continue_as_new_suggested()
            paced = self._report is not None and self._report.paced
            if renew and not paced:
                await self._continue_as_new()
            if step and step.kind == "wait":
                await self._wait(step.seconds)
            if renew:  # a pace is waited for first: its successor would look at the run at once
                await self._continue_as_new()
            await self._iterate()

    async def _iterate(self) -> None:
        carried, given = self._carried, self._given
        carried.woken = False
        run_id, iteration, version = given.run_id or "", carried.iteration, carried.version
        report = await steps.iterate(
            IterationInput(run_id, iteration, version, given.handler, carried.by_value, steps.lane())
        )
        if report.tools or report.tokens:
            details.add_row(carried, report)
        self._note(report)

    def _note(self, report: Report) -> None:
        """Take over what an activity reported, and show it."""
        carried = self._carried
        carried.iteration, carried.version = report.iteration, report.version
        carried.facts = report.facts or carried.facts
        self._given.run_id = self._given.run_id or report.run_id
        self._report = report
        text = details.render(carried, run_id=self._given.run_id, status=report.status, reason=report.reason)
        workflow.set_current_details(text)
        workflow.upsert_search_attributes(
            details.attributes(carried, handler=self._given.handler, status=report.status)
        )

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
        self._succeed(self._carried)

    def _look_again(self) -> None:
        """A wake came after the last look at the run: it may have been retried. A successor looks, which is
        not cancelled where this workflow was."""
        self._succeed(replace(self._carried, version=0, woken=False, facts={}))

    def _succeed(self, carried: Carried) -> None:
        workflow.continue_as_new(sparse(replace(self._given, prompt=None, metadata=None, carried=carried)))

    async def _close(self, close: CloseInput) -> Report:
        """End the run in the store, even when cancelled meanwhile; one that was over stays what it is."""
        fallback = Report(close.status, self._carried.iteration, self._carried.version, error=close.error)
        close = replace(
            close, run_id=self._given.run_id, handler=self._given.handler, by_value=self._carried.by_value
        )
        if close.run_id is None:
            if close.status == "failed":
                return fallback
            close.start = steps.start_input(self._given)
        try:
            return await steps.close(close)
        except ActivityError:
            return fallback

    def _end(self, report: Report) -> RunResult:
        self._note(report)
        alone = self._given.carried is None  # else a predecessor has driven the run to this end
        if report.status == "failed" and not (report.stale and alone):
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
