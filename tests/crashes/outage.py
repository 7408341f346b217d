"""A server that is killed under all the cases of a test at once, and comes back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from server_process import Server

from thoughtgear.devserver import DevServer


class Outage:
    """`cases` is how many have to arrive before the server is killed."""

    def __init__(
        self, cases: int, kill: Callable[[], Awaitable[None]], start: Callable[[], Awaitable[None]]
    ) -> None:
        self._kill, self._start = kill, start
        self._barrier = asyncio.Barrier(cases)
        self.kills = 0

    @asynccontextmanager
    async def during(self) -> AsyncIterator[None]:
        """Inside, the server is down."""
        if await self._barrier.wait() == 0:
            await self._kill()
            self.kills += 1
        await self._barrier.wait()
        yield
        if await self._barrier.wait() == 0:
            await self._start()
        await self._barrier.wait()


def of_database(server: Server, cases: int) -> Outage:
    """SIGKILL for the server of a store."""

    async def kill() -> None:
        await asyncio.to_thread(server.kill)

    async def start() -> None:
        await asyncio.to_thread(server.start)

    return Outage(cases, kill, start)


def of_temporal(server: DevServer, cases: int) -> Outage:
    """SIGKILL for the Temporal server; what it knows is in its file."""

    async def kill() -> None:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        while server.pid is not None:
            await asyncio.sleep(0.01)

    return Outage(cases, kill, server.start)
