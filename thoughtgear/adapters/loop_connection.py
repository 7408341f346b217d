"""What a store's asynchronous driver has open: one connection, or pool of them, in each process."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from thoughtgear.adapters.loop_thread import Begin, LoopThread

T = TypeVar("T")

_inherited: list[object] = []
"""Connections that a forked process got from its parent: closing one there would end the parent's."""


class LoopConnection(ABC):
    """The connection, or the pool, of one process. Used in the loop of the thread only."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._ready = False
        self._preparing = asyncio.Lock()
        self._under_way: set[asyncio.Task[Any] | None] = set()

    @abstractmethod
    async def prepare(self) -> None:
        """Check the database, and make what is missing: before the first use."""

    @abstractmethod
    async def close(self) -> None:
        """Close it; nothing is under way."""

    @asynccontextmanager
    async def in_use(self) -> AsyncIterator[None]:
        """Keep it open for what the calling task does within, and prepared."""
        task = asyncio.current_task()
        self._under_way.add(task)
        try:
            await self._once_prepared()
            yield
        finally:
            self._under_way.discard(task)

    async def aclose(self) -> None:
        """Wait for what is under way, and close it."""
        under_way = [task for task in self._under_way if task is not None]
        if under_way:
            await asyncio.wait(under_way)
        await self.close()

    async def _once_prepared(self) -> None:
        if self._ready:
            return
        async with self._preparing:
            if not self._ready:
                await self.prepare()
                self._ready = True


C = TypeVar("C", bound=LoopConnection)


class Connected(Generic[C]):
    """A loop thread, and in it the connection of this process, which the first use makes."""

    def __init__(self, name: str, connect: Callable[[], C]) -> None:
        self._thread = LoopThread(name)
        self._connect = connect
        self.connection: C | None = None

    async def run(self, work: Callable[[C, Begin], Coroutine[Any, Any, T]]) -> T:
        """Return what `work(connection, begin)` returns; `LoopThread.run` says what `begin` is."""
        return await self._thread.run(lambda begin: work(self._open(), begin))

    async def aclose(self) -> None:
        """Finish what is under way, close the connection and end the thread."""
        await self._thread.aclose(self._close)

    def _open(self) -> C:
        if self.connection is None or self.connection.pid != os.getpid():
            _inherited.append(self.connection)
            self.connection = self._connect()
        return self.connection

    async def _close(self, _begin: Begin) -> None:
        if self.connection is not None and self.connection.pid == os.getpid():
            await self.connection.aclose()
