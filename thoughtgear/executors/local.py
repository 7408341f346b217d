"""The executor of this process: a loop that drives a run to its end."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING
from uuid import uuid4

from thoughtgear.errors import ConfigurationError, ModelError, SupersededError, ThoughtgearError
from thoughtgear.loop import next_step, retry_delay
from thoughtgear.models import RunError
from thoughtgear.protocols import Attempt

if TYPE_CHECKING:
    from thoughtgear.handler import PromptHandler

log = logging.getLogger("thoughtgear")

LOOK_AGAIN_SECONDS = 1.0
"""The longest a waiting loop sleeps before it looks at the store again."""


class LocalExecutor:
    """Drives runs in this process, each by one background task; the default.

    A retryable error is tried again after a while (`loop.retry_delay`), as Temporal would; any other ends
    the run as failed. When the process dies, `continue_run` in another one goes on from the last commit.
    """

    name = "local"
    self_driving = True
    waits = True

    def __init__(self, *, claim_seconds: float = 30.0) -> None:
        """`claim_seconds`: how long a run of a process that died stays untouched by others."""
        self._claim_seconds = claim_seconds
        self._handler: PromptHandler | None = None
        self._loops: dict[str, asyncio.Task[None]] = {}

    def bind(self, handler: PromptHandler) -> None:
        """Called by the handler that this executor is given to: one executor serves one handler."""
        if self._handler is not None and self._handler is not handler:
            raise ConfigurationError("A LocalExecutor serves one handler; give each its own.")
        self._handler = handler

    async def schedule_next_iteration(self, run_id: str) -> None:
        """Start the loop of this run unless it is going on."""
        task = self._loops.get(run_id)
        if task is None or task.done():
            self._loops[run_id] = asyncio.create_task(self._drive(run_id), name=f"run {run_id}")

    async def wait(self, run_id: str) -> None:
        """Return when this process no longer drives the run."""
        task = self._loops.get(run_id)
        if task is not None:
            await asyncio.wait((task,))

    async def cancel(self, run_id: str) -> bool:
        """The handler puts the cancel into the inbox, where the loop looks: nothing to do here."""
        return False

    async def aclose(self) -> None:
        """Stop driving; the runs stay where their last commit left them."""
        tasks = [task for task in self._loops.values() if not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _drive(self, run_id: str) -> None:
        handler = self._handler
        if handler is None:
            raise ConfigurationError("Give this executor to a PromptHandler first.")
        try:
            await self._loop(handler, run_id)
        except ThoughtgearError as exc:
            log.error("the run stops here: %s", exc, extra={"run_id": run_id})
        finally:
            self._loops.pop(run_id, None)

    async def _loop(self, handler: PromptHandler, run_id: str) -> None:
        scope = f"local-{uuid4().hex}"
        state = await handler.get_run(run_id)
        iteration, failures = state.iteration + 1, 0
        while True:
            try:
                result = await handler.run_iteration(run_id, iteration, self._attempt(scope, failures))
            except Exception as exc:
                failures += 1
                await self._after_error(handler, run_id, exc, failures)
                continue
            failures = 0
            step = next_step(result)
            if step.kind == "stop":
                return
            iteration = step.iteration
            if step.kind == "wait":
                log.info("waiting: %s", result.reason, extra={"run_id": run_id})
                await asyncio.sleep(min(step.seconds, LOOK_AGAIN_SECONDS))

    def _attempt(self, scope: str, failures: int) -> Attempt:
        """The claim is kept from iteration to iteration: one loop drives the run."""
        return Attempt(
            driver=self.name, scope=scope, number=1 + failures, keep_claim=True, hold=self._claim_seconds
        )

    async def _after_error(self, handler: PromptHandler, run_id: str, exc: Exception, failures: int) -> None:
        """Wait where the error is worth another try; else end the run as failed."""
        if isinstance(exc, SupersededError):
            raise exc
        if isinstance(exc, ThoughtgearError) and exc.retryable:
            delay = retry_delay(failures, exc.retry_after if isinstance(exc, ModelError) else None)
            log.warning("%s; next try in %.1f s", exc, delay, extra={"run_id": run_id})
            await asyncio.sleep(delay)
            return
        log.error("the run fails", exc_info=exc, extra={"run_id": run_id})
        await handler.close_run(run_id, "failed", describe(exc))


def describe(exc: Exception) -> RunError:
    """The reason of a failed run. A foreign error's text may hold anything, so only its class is told."""
    known = isinstance(exc, ThoughtgearError)
    return RunError(type=type(exc).__name__, message=str(exc) if known else "See the worker's log.")
