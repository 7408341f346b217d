"""Threads for plain tools: capped, and never in the way of the interpreter's exit.

A thread can't be stopped. One that goes on after its call was given up keeps its place under the cap and is
counted, so that a tool that hangs is seen.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary


class ThreadsBusyError(Exception):
    """No place came free: every thread is at work, or hangs in a call that was given up."""


class ToolThreads:
    """Runs plain functions in daemon threads, at most `most` at once per event loop."""

    def __init__(self, most: int = 32) -> None:
        self._most = most
        self._caps: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        self.abandoned = 0

    @asynccontextmanager
    async def place(self, seconds: float) -> AsyncIterator[Place]:
        """Wait up to `seconds` for a place under the cap. A thread that was started in it keeps it until it
        ends. Raises `ThreadsBusyError`."""
        cap = self._caps.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._most))
        if cap.locked():
            await self._wait(cap, seconds)
        else:
            await cap.acquire()
        place = Place(self, cap)
        try:
            yield place
        finally:
            if not place.taken:
                cap.release()

    async def _wait(self, cap: asyncio.Semaphore, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await cap.acquire()
        except TimeoutError:
            raise ThreadsBusyError(
                f"No thread came free in {seconds:g} s: all {self._most} are busy, "
                f"{self.abandoned} of them with calls that were given up."
            ) from None


class Place:
    """A place under the cap, for one thread."""

    def __init__(self, threads: ToolThreads, cap: asyncio.Semaphore) -> None:
        self.taken = False
        self._threads, self._cap = threads, cap

    async def run(self, function: Callable[[], Any]) -> Any:
        """Run `function` in a thread and return what it returns.

        When cancelled, the thread goes on and is counted in `abandoned` until it ends.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()
        work = partial(self._work, loop, future, function)
        thread = threading.Thread(target=context.run, args=(work,), name="thoughtgear-tool", daemon=True)
        thread.start()
        self.taken = True
        try:
            return await future
        except asyncio.CancelledError:
            self._threads.abandoned += 1
            raise

    def _work(
        self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], function: Callable[[], Any]
    ) -> None:
        try:
            finish = partial(self._finish, future, value=function())
        except BaseException as exc:
            finish = partial(self._finish, future, error=_as_exception(exc))
        with suppress(RuntimeError):  # the loop has closed: nobody waits for this thread any more
            loop.call_soon_threadsafe(finish)

    def _finish(self, future: asyncio.Future[Any], value: Any = None, error: Exception | None = None) -> None:
        self._cap.release()
        if future.cancelled():
            self._threads.abandoned -= 1
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)


def _as_exception(exc: BaseException) -> Exception:
    """SystemExit and its like end a thread, not the worker; a future can't hold a StopIteration."""
    if isinstance(exc, Exception) and not isinstance(exc, StopIteration):
        return exc
    return RuntimeError(f"the tool raised {type(exc).__name__}")
