"""The threads in which a store makes its blocking calls."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from thoughtgear.errors import StoreError

T = TypeVar("T")


class Threads:
    """Up to `count` threads. They are started as calls need them and anew in a forked process, belong to no
    event loop, and do not keep the interpreter from exiting.

    Not a `ThreadPoolExecutor`: handing a call to one costs several times as much.
    """

    def __init__(self, name: str, count: int) -> None:
        self._name, self._count = name, count
        self._crews: dict[int, _Crew] = {}  # by process: a forked one has no threads in its parent's
        self.closed = False

    async def run(self, call: Callable[[], T]) -> T:
        """Return what `call` returns. A cancelled caller waits until the call is finished, or takes it
        back before it begins: it never goes on behind the caller's back."""
        job = _Job(call)
        self._crew().hand_in(job)
        try:
            await job.finished.wait()
        except asyncio.CancelledError:
            if not job.take():
                await until(job.finished)
            raise
        return job.result()

    def _crew(self) -> _Crew:
        if self.closed:
            raise _closed()
        pid = os.getpid()
        # One step, without a lock that a fork could find taken.
        return self._crews.get(pid) or self._crews.setdefault(pid, _Crew(self._name, self._count))

    def close(self) -> None:
        """Let the threads end after the calls that were handed in."""
        self.closed = True
        crew = self._crews.get(os.getpid())
        if crew is not None:
            crew.close()

    def __del__(self) -> None:
        self.close()


class _Crew:
    """The threads of one process. They hold this object, and not the `Threads`: these close it at last."""

    def __init__(self, name: str, count: int) -> None:
        self._name, self._count = name, count
        self._queue: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._lock = threading.RLock()  # the garbage collector may close this crew in the midst of it
        self._unfinished = 0
        self._threads = 0
        self._closed = False

    def hand_in(self, job: _Job[Any]) -> None:
        with self._lock:
            if self._closed:
                raise _closed()
            if self._threads < min(self._unfinished + 1, self._count):
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
                self._threads += 1
            self._unfinished += 1
            self._queue.put(job)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._queue.put(None)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            if job.take():
                job.run()
            with self._lock:
                self._unfinished -= 1
            job.finish()
            del job  # it may hold the last reference to the store
        self._queue.put(None)  # for the next thread


class _Job(Generic[T]):
    """A call, on its way to a thread of the crew and back to the event loop that made it."""

    def __init__(self, call: Callable[[], T]) -> None:
        self.finished = asyncio.Event()
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._taken = threading.Lock()
        self._value: T
        self._error: BaseException | None = None

    def take(self) -> bool:
        """Whether the job is now the asker's: the thread's, to run it, or the caller's, to withdraw it."""
        return self._taken.acquire(blocking=False)

    def run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as exc:
            self._error = exc

    def finish(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self.finished.set)

    def result(self) -> T:
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # no cycle of the error, its traceback and this
        return self._value


def _closed() -> StoreError:
    return StoreError("This store is closed.")


async def until(finished: asyncio.Event) -> None:
    """Wait for the event, whatever cancels the caller meanwhile."""
    while not finished.is_set():
        with suppress(asyncio.CancelledError):  # the caller raises the one that it got
            await finished.wait()
