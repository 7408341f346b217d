"""The threads in which a store makes its blocking calls."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from thoughtgear.errors import StoreError

T = TypeVar("T")


class Threads:
    """Up to `count` threads. They are started by the first call and anew in a forked process, belong to no
    event loop, and do not keep the interpreter from exiting."""

    def __init__(self, name: str, count: int) -> None:
        self._name, self._count = name, count
        self._pool: ThreadPoolExecutor | None = None
        self._pid = 0
        self.closed = False

    async def run(self, call: Callable[[], T]) -> T:
        """Return what `call` returns. A cancelled caller waits until the call is finished, or takes it
        back before it begins: it never goes on behind the caller's back."""
        loop = asyncio.get_running_loop()
        future, finished = self._submit(call), asyncio.Event()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(finished.set))
        try:
            await finished.wait()
        except asyncio.CancelledError:
            if not future.cancel():
                await until(finished)
            raise
        return future.result()

    def _submit(self, call: Callable[[], T]) -> Future[T]:
        if self.closed:
            raise StoreError("This store is closed.")
        if self._pool is None or self._pid != os.getpid():
            self._pool = ThreadPoolExecutor(self._count, thread_name_prefix=self._name)
            self._pid = os.getpid()
        return self._pool.submit(call)

    def close(self) -> None:
        """Let the threads end after the calls that were handed in."""
        self.closed = True
        if self._pool is not None and self._pid == os.getpid():
            self._pool.shutdown(wait=False)
        self._pool = None


async def until(finished: asyncio.Event) -> None:
    """Wait for the event, whatever cancels the caller meanwhile."""
    while not finished.is_set():
        with suppress(asyncio.CancelledError):  # the caller raises the one that it got
            await finished.wait()
