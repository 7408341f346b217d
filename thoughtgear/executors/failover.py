"""The executor that asks others in turn, until one can drive the run."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from thoughtgear import registry
from thoughtgear.control import note_driver
from thoughtgear.errors import ConfigurationError, ExecutorUnavailableError
from thoughtgear.protocols import Executor

if TYPE_CHECKING:
    from thoughtgear.handler import PromptHandler
    from thoughtgear.models import RunState

T = TypeVar("T")

PATIENCE_SECONDS = 10.0
"""How long an executor may take to schedule a run before the next one is asked."""

REST_SECONDS = 30.0
"""How long an executor that could not is asked last."""

LOOK_SECONDS = 1.0
"""Seconds between two looks at a run that is waited for: another executor may have taken it over."""

log = logging.getLogger("thoughtgear")


class FailoverExecutor:
    """Has the first executor drive a run that can; the next one where it raises `ExecutorUnavailableError`,
    or does not answer within `patience` seconds. One that could not is asked last for `rest` seconds.

    A run that has begun stays with whatever drives it, as long as that can be told to go on. Where it is
    another executor's, the first one may still be at work on it: the claim lets one of both run an iteration.
    `executors` are executors that drive by themselves, or their names; each needs its own workers. One
    executor serves one handler. Raises `ConfigurationError`.
    """

    self_driving = True

    def __init__(
        self,
        executors: Sequence[str | Executor],
        *,
        patience: float = PATIENCE_SECONDS,
        rest: float = REST_SECONDS,
    ) -> None:
        if isinstance(executors, str) or not isinstance(executors, Sequence) or len(executors) < 2:
            raise ConfigurationError("FailoverExecutor takes a list of two executors or more.")
        if not patience > 0 or not rest >= 0:
            raise ConfigurationError("patience is a number of seconds above 0, rest one from 0 on.")
        self.members = tuple(registry.open_executor(each) for each in executors)
        _check(self.members)
        self.name = self.members[0].name
        self.names = tuple(name for each in self.members for name in getattr(each, "names", (each.name,)))
        self.waits = all(getattr(each, "waits", False) for each in self.members)
        self._patience, self._rest = patience, rest
        self._out: dict[int, float] = {}
        self._handler: PromptHandler | None = None

    def bind(self, handler: PromptHandler) -> None:
        """Called by the handler that this executor is given to. Raises `ConfigurationError`."""
        if self._handler is not None and self._handler is not handler:
            raise ConfigurationError("One FailoverExecutor serves one handler; give each its own.")
        for each in self.members:
            bind = getattr(each, "bind", None)
            if bind is not None:
                bind(handler)
        self._handler = handler

    async def schedule_next_iteration(self, run_id: str) -> None:
        """Have the first executor that can drive the run. Raises `ExecutorUnavailableError` when none can."""
        refused: list[str] = []
        state = await self._state(run_id)
        for place, each in self._in_turn(state):
            drive = getattr(
                each, "drive", None
            )  # without the read, which may be slow: that is no fault of it
            try:
                await self._patiently(drive(state) if drive else each.schedule_next_iteration(run_id))
            except ExecutorUnavailableError as exc:
                self._out[place] = time.monotonic() + self._rest
                log.warning("%s can't drive the run: %s", each.name, exc, extra={"run_id": run_id})
                refused.append(f"{each.name}: {exc}")
            else:
                self._out.pop(place, None)
                await self._note(state, each)
                return
        raise ExecutorUnavailableError(f"None of {len(refused)} executors can drive it. {' '.join(refused)}")

    async def _note(self, state: RunState, taken: Executor) -> None:
        """Have the store say whose a run is that has not begun: a reconciler would start a workflow for what
        is on its way through a queue. The run is scheduled, whatever becomes of this."""
        if self._handler is None or state.claim.epoch or state.driver.executor == taken.name:
            return
        try:
            async with asyncio.timeout(self._patience):
                await note_driver(self._handler.store, state.run_id, taken.name)
        except Exception as exc:  # a store may raise anything
            text = "%s drives the run, and the store could not be told (%s)."
            log.warning(text, taken.name, type(exc).__name__, extra={"run_id": state.run_id})

    async def wait(self, run_id: str) -> None:
        """Return when the run may be over: what drives it says so, or can't be asked, or is another one now.
        Of two executors of one name nobody knows which it is, so the store is asked."""
        driver = (await self._state(run_id)).driver.executor
        found = self._of(driver, "wait")
        if len(found) != 1:
            return
        waiting = asyncio.ensure_future(found[0](run_id))
        try:
            while not (await asyncio.wait((waiting,), timeout=LOOK_SECONDS))[0]:
                state = await self._state(run_id)
                if state.over or state.driver.executor != driver:
                    return
            with suppress(ExecutorUnavailableError):
                waiting.result()
        finally:
            waiting.cancel()

    async def cancel(self, run_id: str) -> bool:
        """Cancel what drives the run. Returns False where that can't be told, or is nothing that can be
        cancelled: the handler leaves the cancel in the store then, where whoever drives the run finds it."""
        cancelled = False
        for cancel in self._of((await self._state(run_id)).driver.executor, "cancel"):
            with suppress(ExecutorUnavailableError):
                cancelled = bool(await self._patiently(cancel(run_id))) or cancelled
        return cancelled

    async def aclose(self) -> None:
        """Close the executors."""
        for each in self.members:
            close = getattr(each, "aclose", None)
            if close is not None:
                await close()

    async def _state(self, run_id: str) -> RunState:
        if self._handler is None:
            raise ConfigurationError("Give this executor to a PromptHandler first.")
        return await self._handler.get_run(run_id)

    def _in_turn(self, state: RunState) -> list[tuple[int, Executor]]:
        """The executors as they are asked: that of a run which has begun, also where it could not just now,
        then the others as they were given, and then those that could not."""
        moment = time.monotonic()
        drives = state.driver.executor if state.claim.epoch else None

        def late(found: tuple[int, Executor]) -> tuple[bool, bool]:
            place, each = found
            other = drives is not None and drives not in getattr(each, "names", (each.name,))
            return other, self._out.get(place, 0.0) > moment

        return sorted(enumerate(self.members), key=late)

    async def _patiently(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._patience) as scope:
                return await work
        except TimeoutError:
            if not scope.expired():
                raise
            raise ExecutorUnavailableError(f"No answer within {self._patience:g} s.") from None

    def _of(self, name: str, method: str) -> list[Callable[[str], Awaitable[Any]]]:
        """A method of the executors of that name, of those that have it."""
        named = [each for each in self.members if name in getattr(each, "names", (each.name,))]
        return [found for each in named if (found := getattr(each, method, None)) is not None]


def _check(members: Sequence[Executor]) -> None:
    for each in members:
        name = type(each).__name__
        if not getattr(each, "self_driving", False):
            raise ConfigurationError(f"{name} only schedules: FailoverExecutor takes what drives by itself.")
        if getattr(each, "pace", None) is not None:
            raise ConfigurationError(
                "A pace is of all executors: ScheduledExecutor(FailoverExecutor([…]), …), not inside of it."
            )
    if len({id(each) for each in members}) < len(members):
        raise ConfigurationError("An executor that can't schedule is not asked twice: give another one.")
