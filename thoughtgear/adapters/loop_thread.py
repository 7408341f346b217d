"""The event loop in which a store's asynchronous driver works."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from thoughtgear.adapters.threads import until
from thoughtgear.errors import StoreError

T = TypeVar("T")
Begin = Callable[[], None]
Work = Callable[[Begin], Coroutine[Any, Any, T]]

_AGAIN = 0.5
"""Seconds that a piece of work has to come to its end before it is cancelled once more."""

_inherited: list[object] = []
"""Loops that a forked process got from its parent: they are not its to close."""


class LoopThread:
    """An event loop in a thread of its own, for connections that belong to one loop.

    Callers come from any loop, and theirs may end, be blocked by a long computation, or cancel all of its
    tasks on the way out: a transaction is not touched by that. It is started by the first call and anew in
    a forked process, and does not keep the interpreter from exiting.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0
        self.closed = False

    async def run(self, work: Work[T]) -> T:
        """Return what `work(begin)` returns. A cancelled caller takes it back unless it has called `begin`,
        and waits until it is over: it never goes on behind the caller's back."""
        loop, call = self._running(), _Call(work)
        future = asyncio.run_coroutine_threadsafe(call.run(), loop)
        finished = _event_of(future)
        try:
            await finished.wait()
        except asyncio.CancelledError:
            loop.call_soon_threadsafe(call.withdraw)
            await until(finished)
            raise
        return future.result()

    async def aclose(self, last: Work[None]) -> None:
        """Run `last` where there is a loop, and end the thread; closing twice is fine."""
        with self._lock:
            first, self.closed = not self.closed, True
            loop = self._loop if self._pid == os.getpid() else None
        if first and loop is not None and self._thread is not None:
            future = asyncio.run_coroutine_threadsafe(_Call(last).run(), loop)
            await until(_event_of(future))
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            future.result()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self.closed:
                raise StoreError("This store is closed.")
            if self._loop is None or self._pid != os.getpid():
                _inherited.append(self._loop)
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop,), name=self._name, daemon=True
                )
                self._thread.start()
            return self._loop


def _event_of(future: Future[Any]) -> asyncio.Event:
    """Return what is set, in the running loop, when the future is done."""
    loop, finished = asyncio.get_running_loop(), asyncio.Event()
    future.add_done_callback(lambda _: loop.call_soon_threadsafe(finished.set))
    return finished


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


class _Call(Generic[T]):
    """One piece of work; all but the constructor runs in the loop of the thread."""

    def __init__(self, work: Work[T]) -> None:
        self._work = work
        self._task: asyncio.Task[Any] | None = None
        self._begun = False
        self._withdrawn = False

    async def run(self) -> T:
        self._task = asyncio.current_task()
        self._check()
        return await self._work(self._begin)

    def withdraw(self) -> None:
        self._withdrawn = True
        if self._task is not None and not self._task.done() and not self._begun:
            self._task.cancel()
            # Until Python 3.12 `asyncio.wait_for`, and with it a driver, may swallow a cancellation.
            self._task.get_loop().call_later(_AGAIN, self.withdraw)

    def _begin(self) -> None:
        self._check()
        self._begun = True

    def _check(self) -> None:
        if self._withdrawn:
            raise asyncio.CancelledError
