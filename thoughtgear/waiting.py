"""Waiting for the end of a run, whatever drives it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from thoughtgear.errors import WaitTimeoutError
from thoughtgear.models import RunState
from thoughtgear.protocols import Executor, OrmAdapter

FIRST_POLL, MOST_POLL = 0.02, 1.0
"""Seconds between two looks at a run that is waited for."""

LONGEST_PAUSE = 10.0
"""Seconds that an invocation waits at the most before it schedules the next look at a waiting run."""


async def sit_out(seconds: float, *, whole: bool) -> None:
    """Sleep before the next schedule: the `whole` of a delay, as the next invocation would begin; a part of
    any other wait, as that one looks again."""
    await asyncio.sleep(seconds if whole else min(seconds, LONGEST_PAUSE))


async def until_over(
    store: OrmAdapter,
    executor: Executor,
    run_id: str,
    timeout: float | None,  # noqa: ASYNC109 - as asyncio's own functions have it
) -> RunState:
    """Return the state once the run is over. Raises `WaitTimeoutError` after `timeout` seconds, what the
    executor's `wait` raises, and `RunNotFoundError`."""
    deadline = None if timeout is None else time.monotonic() + timeout
    delay = FIRST_POLL
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        await _until_driven(executor, run_id, left)
        state = await store.load_run(run_id)
        if state.over:
            return state
        if deadline is not None and time.monotonic() >= deadline:
            raise WaitTimeoutError(f"Run {run_id} is {state.status} after {timeout:g} s; it goes on.")
        await asyncio.sleep(delay)
        delay = min(delay * 1.5, MOST_POLL)


async def _until_driven(executor: Executor, run_id: str, seconds: float | None) -> None:
    wait = getattr(executor, "wait", None)
    if wait is not None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await wait(run_id)
