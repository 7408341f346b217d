"""An event loop on a virtual clock: no time is waited for, and a program runs the same way each time."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, copy_context
from itertools import count
from typing import Any

from simulation.process import FROZEN, PROCESS, RUNNING, Process

MOST_STEPS = 100_000
"""So many callbacks that something goes round in circles."""

CLOSE_TRIES = 50


class LivelockError(Exception):
    """The experiment takes too many steps, or nothing will ever happen again."""


class Handle:
    """A callback and its context: asyncio's own, without what debugging costs."""

    __slots__ = ("_args", "_callback", "_cancelled", "_when", "context")

    def __init__(
        self, callback: Callable[..., Any], args: tuple[Any, ...], context: Context | None, when: float
    ) -> None:
        self._callback, self._args, self._when = callback, args, when
        self._cancelled = False
        self.context = copy_context() if context is None else context

    def cancel(self) -> None:
        self._cancelled = True

    def cancelled(self) -> bool:
        return self._cancelled

    def when(self) -> float:
        return self._when

    def run(self) -> None:
        if self._cancelled:
            return
        process = self.context.get(PROCESS)
        if process is None or process.state == RUNNING:
            self.context.run(self._callback, *self._args)
        elif process.state == FROZEN:
            process.kept.append(self)


_LOOPS = count()
_APART = 40
"""Bits: asyncio keeps all tasks in one set, where those of earlier loops must not be in the way. So far up,
they don't change the order of a small set."""


class NumberedTask(asyncio.Task[Any]):
    """A task that knows its process, and whose place in a set follows from its number, not its address."""

    def __init__(
        self, number: int, process: Process | None, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> None:
        self._number, self.process = number, process
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number

    @property
    def what(self) -> str:
        """The name of what it runs."""
        return getattr(self.get_coro(), "__qualname__", "?")


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs what is ready in its order, then jumps to the next timer. `now` is in seconds."""

    def __init__(self, start: float = 1000.0) -> None:
        self.now = start
        self.ready: deque[Handle] = deque()
        self.steps = 0
        self.tasks: list[NumberedTask] = []
        self._first_task = next(_LOOPS) % 2**20 << _APART
        self.complaints: list[str] = []
        self.on_idle: Callable[[], bool] = bool
        self._timers: list[tuple[float, int, Handle | asyncio.Future[None]]] = []
        self._timer_count = 0

    # --- what asyncio asks a loop for, without the types of the arguments ---

    def time(self) -> float:
        return self.now

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        handle = Handle(callback, args, context, self.now)
        self.ready.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        handle = Handle(callback, args, context, when)
        self._push(when, handle)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, context: Context | None = None, **options: Any) -> NumberedTask:
        process = PROCESS.get(None) if context is None else context.get(PROCESS)
        task = NumberedTask(
            self._first_task + len(self.tasks), process, coro, loop=self, context=context, **options
        )
        self.tasks.append(task)
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    # --- what the world asks it for ---

    def spawn(self, coro: Coroutine[Any, Any, Any], process: Process | None = None) -> NumberedTask:
        """Start a task in a process, or in the world itself."""
        return self.create_task(coro, context=Context() if process is None else process.context())

    def tick(self, delay: float) -> asyncio.Future[None]:
        """Return what is done after `delay` seconds: `asyncio.sleep` for less work."""
        future: asyncio.Future[None] = asyncio.Future(loop=self)
        self._push(self.now + delay, future)
        return future

    def in_world(self, delay: float, callback: Callable[..., Any], *args: Any) -> None:
        """Call something of the world itself after a while, whatever becomes of who asked for it."""
        self.call_later(delay, callback, *args, context=Context())

    def run_until(self, task: asyncio.Future[Any]) -> None:
        """Run until the task is done. Raises `LivelockError` when it never will be."""
        while not task.done():
            if not self.ready and not self._next_timer(None):
                raise LivelockError("Nothing is left to do, and the experiment is not over.")
            self._step()

    def drain(self, seconds: float) -> None:
        """Run what is left, for so long at the most."""
        end = self.now + seconds
        while self.ready or self._next_timer(end):
            self._step()

    def close(self) -> None:
        """Drop every task that is not done; by now each process has to be dead. Raises nothing."""
        for task in self.tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own, for its servers
                _close(task.get_coro())
        self.ready.clear()
        self._timers.clear()

    def _push(self, when: float, what: Handle | asyncio.Future[None]) -> None:
        self._timer_count += 1
        heapq.heappush(self._timers, (when, self._timer_count, what))

    def _step(self) -> None:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise LivelockError(f"{MOST_STEPS} steps, and no end.")
        self.ready.popleft().run()

    def _next_timer(self, end: float | None) -> bool:
        """Jump to the next timer and make ready what waits for it; False where there is none until `end`.
        Before that, `on_idle` may find something to do now."""
        if not self.ready:
            self.on_idle()
        while self._timers and not self.ready:
            if end is not None and self._timers[0][0] > end:
                return False
            when, _, what = heapq.heappop(self._timers)
            if isinstance(what, Handle):
                if not what.cancelled():
                    self.now = max(self.now, when)
                    self.ready.append(what)
            elif not what.done():
                self.now = max(self.now, when)
                what.set_result(None)
        return bool(self.ready)


def _close(coro: Any) -> None:
    """End a suspended coroutine. Where it awaits something on its way out, there is no loop any more."""
    for _ in range(CLOSE_TRIES):
        with suppress(Exception, asyncio.CancelledError):
            coro.close()
            return
