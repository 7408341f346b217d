"""The executor of this process: a loop that drives a run to its end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

from thoughtgear.errors import (
    ConfigurationError,
    ExecutorUnavailableError,
    ModelError,
    RunNotFoundError,
    StoreError,
    StoreUnavailableError,
    SupersededError,
    ThoughtgearError,
)
from thoughtgear.logs import loggable
from thoughtgear.loop import next_step, retry_delay
from thoughtgear.models import RunError, RunState
from thoughtgear.protocols import Attempt, check_hold

if TYPE_CHECKING:
    from thoughtgear.handler import PromptHandler

log = logging.getLogger("thoughtgear")

LOOK_AGAIN_SECONDS = 1.0
"""The longest that a loop sleeps before it looks at the store again."""


_COMES: dict[str, Callable[[RunState], bool]] = {
    "in_progress": lambda state: not state.claim.live(),
    "waiting": lambda state: state.status != "pending" and not state.unsettled and not state.claim.live(),
}
"""How the store shows that a wait is over: the claim is given back; a person has decided and nobody else goes
on with that (a run that is pending waits for its session's earlier one)."""


class LocalExecutor:
    """Drives runs in this process, each by one background task; the default.

    A retryable error is tried again after a while (`loop.retry_delay`), as under Temporal; any other ends
    the run as failed. When the process dies, `continue_run` in another one goes on from the last commit.
    """

    name = "local"
    self_driving = True
    waits = True

    def __init__(self, *, claim_seconds: float = 30.0) -> None:
        """`claim_seconds`: how long a run of a process that died stays untouched by others. Raises
        `ConfigurationError`."""
        self._claim_seconds = check_hold(claim_seconds)
        self._handler: PromptHandler | None = None
        self._loops: dict[str, asyncio.Task[None]] = {}
        self._stopped: dict[str, Exception] = {}
        self._again: set[str] = set()
        self._closed = False

    def bind(self, handler: PromptHandler) -> None:
        """Called by the handler that this executor is given to: one executor serves one handler."""
        if self._handler is not None and self._handler is not handler:
            raise ConfigurationError("A LocalExecutor serves one handler; give each its own.")
        self._handler = handler

    async def schedule_next_iteration(self, run_id: str) -> None:
        """Start the loop of this run; one that is going on looks at the store again before it ends. Raises
        `ExecutorUnavailableError` once closed."""
        self._check_open()
        self._again.add(run_id)
        task = self._loops.get(run_id)
        if task is None or task.done():
            self._stopped.pop(run_id, None)
            self._loops[run_id] = task = asyncio.create_task(self._drive(run_id), name=f"run {run_id}")
            task.add_done_callback(partial(self._forget, run_id))

    async def wait(self, run_id: str) -> None:
        """Return when this process no longer drives the run. Raises what stopped its loop before the run was
        over, and `ExecutorUnavailableError` once closed."""
        task = self._loops.get(run_id)
        if task is not None:
            await asyncio.wait((task,))
        if run_id in self._stopped:
            raise self._stopped.pop(run_id)
        self._check_open()

    async def cancel(self, run_id: str) -> bool:
        """The handler puts the cancel into the inbox, where the loop looks: nothing to do here."""
        return False

    async def aclose(self) -> None:
        """Stop driving; the runs stay where their last commit left them."""
        self._closed = True
        tasks = list(self._loops.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, run_id: str, task: asyncio.Task[None]) -> None:
        if self._loops.get(run_id) is task:
            del self._loops[run_id]

    def _check_open(self) -> None:
        if self._closed:
            raise ExecutorUnavailableError(
                "This executor is closed; continue_run elsewhere goes on with the run."
            )

    async def _drive(self, run_id: str) -> None:
        """Drive one run to its end. What can't be helped is kept for whoever waits."""
        if self._handler is None:
            raise ConfigurationError("Give this executor to a PromptHandler first.")
        scope = f"local-{uuid4().hex}"
        try:
            while run_id in self._again:
                self._again.discard(run_id)
                await self._loop(self._handler, run_id, scope)
        except asyncio.CancelledError:
            await self._handler.release(run_id, scope)
            raise
        except RunNotFoundError:
            log.info("the run was deleted", extra={"run_id": run_id})
        except Exception as exc:
            log.error("the run stops here: %s", describe(exc).message, extra={"run_id": run_id})
            self._stopped[run_id] = exc
        finally:
            self._again.discard(run_id)

    async def _loop(self, handler: PromptHandler, run_id: str, scope: str) -> None:
        iteration, failures = 1, 0
        while True:
            try:
                result = await handler.run_iteration(run_id, iteration, self._attempt(scope, failures))
            except RunNotFoundError:
                raise
            except SupersededError as exc:
                failures = 0
                await self._pause(handler, run_id, LOOK_AGAIN_SECONDS, str(exc))
            except Exception as exc:
                failures += 1
                if await self._ended_by(handler, run_id, exc, failures):
                    return
            else:
                step = next_step(result)
                if step.kind == "stop":
                    return
                if not result.paced or step.iteration != iteration:  # a wait for a place was no attempt
                    failures = 0
                iteration = step.iteration
                if step.kind == "wait":
                    comes = _COMES.get(result.status)
                    if result.paced and handler.pace is not None:
                        comes = handler.pace.cut_short
                    await self._pause(handler, run_id, step.seconds, result.reason, comes)

    def _attempt(self, scope: str, failures: int) -> Attempt:
        """The claim is kept from iteration to iteration: one loop drives the run."""
        return Attempt(
            driver=self.name, scope=scope, number=1 + failures, keep_claim=True, hold=self._claim_seconds
        )

    async def _ended_by(self, handler: PromptHandler, run_id: str, exc: Exception, failures: int) -> bool:
        """Wait where the error is worth another try; else end the run as failed, and say so."""
        retryable = isinstance(exc, ThoughtgearError) and exc.retryable
        if not retryable:
            log.error("the run fails", exc_info=loggable(exc), extra={"run_id": run_id})
            try:
                await handler.close_run(run_id, "failed", describe(exc))
            except StoreUnavailableError as fault:
                exc = fault  # try the iteration again: it fails the same way, or works now
            else:
                return True
        delay = retry_delay(failures, exc.retry_after if isinstance(exc, ModelError) else None)
        await self._pause(handler, run_id, delay, str(exc))
        return False

    async def _pause(
        self,
        handler: PromptHandler,
        run_id: str,
        seconds: float,
        reason: str,
        comes: Callable[[RunState], bool] | None = None,
    ) -> None:
        """Sleep, but look at the store now and then: the run may be over or to be cancelled, or what it waits
        for may come."""
        log.info("waiting %.1f s: %s", seconds, reason, extra={"run_id": run_id})
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, LOOK_AGAIN_SECONDS))
            if left > LOOK_AGAIN_SECONDS:
                with suppress(StoreError):
                    state = await handler.get_run(run_id)
                    if state.over or state.cancel_requested or (comes is not None and comes(state)):
                        return


def describe(exc: Exception) -> RunError:
    """The reason of a failed run. A foreign error's text may hold anything, so only its class is told."""
    known = isinstance(exc, ThoughtgearError)
    return RunError(type=type(exc).__name__, message=str(exc) if known else "See the worker's log.")
