"""The store as a process reaches it: the shipped memory adapter, over a line on which anything may happen."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from simulation.ledger import SECRET, Write
from simulation.process import Process
from thoughtgear.errors import StoreError, StoreUnavailableError
from thoughtgear.models import Message, RunState
from thoughtgear.protocols import Collection, Document, Reach

if TYPE_CHECKING:
    from simulation.world import World

REFUSAL = 0.01
"""Seconds until a line that is down says so."""


class Line:
    """One process's line to the store that all share."""

    reach: Reach = "network"

    def __init__(self, world: World, process: Process) -> None:
        self._world, self._process = world, process
        self._store = world.memory

    async def load_run(self, run_id: str) -> RunState:
        await self._before("load_run:before")
        state = await self._store.load_run(run_id)
        await self._after("load_run:after")
        return state

    async def save_run(
        self, state: RunState, messages: Sequence[Message], *, expected: int | None = None
    ) -> None:
        late = await self._before("save_run:before")
        if late is not None:
            # It must be what it was when it was sent: a retry numbers the messages anew.
            sent = [message.model_copy() for message in messages]
            self._world.later(late, _landing(self._land(state, sent, expected, self._world.attempt())))
            raise unreachable()
        await self._land(state, messages, expected, self._world.attempt())
        await self._after("save_run:after")

    async def get_history(self, run_id: str, after: int = -1, limit: int | None = None) -> list[Message]:
        await self._before("get_history:before")
        messages = await self._store.get_history(run_id, after, limit)
        await self._after("get_history:after")
        return messages

    async def get_document(self, collection: Collection, key: str) -> Document | None:
        await self._before("get_document:before")
        document = await self._store.get_document(collection, key)
        await self._after("get_document:after")
        return document

    async def put_document(
        self, collection: Collection, key: str, value: bytes | None, *, tag: str | None
    ) -> str | None:
        late = await self._before("put_document:before")
        write = self._store.put_document(collection, key, value, tag=tag)
        if late is not None:
            self._world.later(late, _landing(write))
            raise unreachable()
        made = await write
        await self._after("put_document:after")
        return made

    async def aclose(self) -> None:
        """The store stays: it is everyone's."""

    async def _land(
        self, state: RunState, messages: Sequence[Message], expected: int | None, attempt: str
    ) -> None:
        await self._store.save_run(state, messages, expected=expected)
        self._world.committed(Write(state, self._process, attempt, self._world.loop.now))

    async def _before(self, point: str) -> float | None:
        """Returns the seconds after which this write lands, where it is late."""
        world, late = self._world, None
        if fault := world.due(point, self._process):
            late = await world.strike(fault, point, self._process)
        if world.away_until > world.loop.now:
            await world.loop.tick(REFUSAL)
            raise unreachable()
        return late

    async def _after(self, point: str) -> None:
        world = self._world
        await world.loop.tick(world.latency())
        if fault := world.due(point, self._process):
            await world.strike(fault, point, self._process)


def unreachable() -> StoreUnavailableError:
    """Return an error as an adapter makes it: what the driver said, with its password, is the cause alone."""
    error = StoreUnavailableError("The store did not answer.")
    error.__cause__ = OSError(f"postgresql://app:{SECRET}@db refused the connection")
    return error


async def _landing(write: Awaitable[object]) -> None:
    with suppress(StoreError):  # someone else was there first
        await write
