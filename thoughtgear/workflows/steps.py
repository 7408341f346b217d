"""The activities as the workflow calls them, by name: time-outs, retries and summaries in one place."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

from thoughtgear.errors import DecryptionError, PlaintextRefusedError, UnknownKeyError
from thoughtgear.loop import RETRY_FACTOR, RETRY_FIRST, RETRY_MOST
from thoughtgear.payloads import (
    CLOSE_RUN,
    DELIVER,
    RUN_ITERATION,
    START_RUN,
    CloseInput,
    DeliverInput,
    IterationInput,
    Report,
    RunInput,
    StartInput,
    restored,
    sparse,
)

T = TypeVar("T")

RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=RETRY_FIRST),
    backoff_coefficient=RETRY_FACTOR,
    maximum_interval=timedelta(seconds=RETRY_MOST),
)
"""Without an end: the run's own limits end it, at its next attempt."""

BRIEF = timedelta(seconds=30)
LONG = timedelta(hours=24)
HEARTBEAT = timedelta(seconds=10)


KEY_SECONDS = 10.0
"""How long to wait for another worker when one could not decrypt a heartbeat."""

_UNREADABLE = {kind.__name__ for kind in (UnknownKeyError, DecryptionError, PlaintextRefusedError)}


def start_input(given: RunInput) -> StartInput:
    """Name the run by the first execution, so that a retry and a reset find it; under a cron, by each."""
    info = workflow.info()
    return StartInput(
        prompt=given.prompt or "",
        execution=info.original_execution_run_id if info.cron_schedule else info.first_execution_run_id,
        handler=given.handler,
        session_id=given.session_id,
        user_id=given.user_id,
        metadata=given.metadata,
    )


def lane() -> str:
    """Return what tells this workflow, and those that it continues, from any other one: a few letters, which
    the history has once more with every iteration."""
    return workflow.info().first_execution_run_id[-8:]


async def start(given: StartInput) -> Report:
    """Create the run of a prompt that came by value."""
    report: dict[str, Any] = await workflow.execute_activity(
        START_RUN,
        sparse(given),
        result_type=dict,
        start_to_close_timeout=BRIEF,
        retry_policy=RETRY,
        summary="start",
    )
    return restored(Report, report)


async def iterate(given: IterationInput) -> Report:
    """Run an iteration. When cancelled it ends with what it saved, and may even report success.

    The SDK fails an activity for good where a worker can't decrypt the heartbeat of the attempt before. That
    is a matter of keys and no failure of the run: another activity begins without a heartbeat.
    """
    try:
        report: dict[str, Any] = await workflow.execute_activity(
            RUN_ITERATION,
            sparse(given),
            result_type=dict,
            start_to_close_timeout=LONG,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=RETRY,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=f"iteration {given.iteration}",
        )
    except ActivityError as exc:
        if _UNREADABLE.isdisjoint(_types(exc)):
            raise
        return Report(
            "in_progress", given.iteration, given.version, wait=KEY_SECONDS, reason="a worker lacks a key"
        )
    return restored(Report, report)


def _types(error: BaseException | None) -> Iterator[str]:
    """The types of a failure and its causes."""
    while error is not None:
        if isinstance(error, ApplicationError):
            yield error.type or ""
        error = error.__cause__


async def close(given: CloseInput) -> Report:
    """End the run in the store, even when the workflow is cancelled meanwhile."""
    closing = workflow.execute_activity(
        CLOSE_RUN,
        sparse(given),
        result_type=dict,
        start_to_close_timeout=BRIEF,
        retry_policy=RETRY,
        summary=f"close: {given.status}",
    )
    report: dict[str, Any] = await uncancelled(closing)
    return restored(Report, report)


async def deliver(given: DeliverInput) -> None:
    """Put a message into the run's inbox. One that the handler refuses is dropped, and the log says so."""
    try:
        await workflow.execute_activity(
            DELIVER,
            sparse(given),
            start_to_close_timeout=BRIEF,
            retry_policy=RETRY,
            summary="deliver a message",
        )
    except ActivityError as exc:
        workflow.logger.warning("A message was refused: %s", reason(exc)[0])


async def uncancelled(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end. A workflow is cancelled once at most, so that a second await holds."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        return await task


def reason(error: ActivityError) -> list[str]:
    """Return type and message of why an activity failed for good."""
    cause = error.cause
    if isinstance(cause, ApplicationError):
        return [cause.type or "ApplicationError", cause.message]
    return [type(cause).__name__, "The activity did not finish."]
