"""How the steps of a copy are done: several at once, and again after a fault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from thoughtgear.errors import ConflictError, RunNotFoundError, StoreUnavailableError
from thoughtgear.models import RunState
from thoughtgear.protocols import OrmAdapter

T = TypeVar("T")

TOGETHER = 8
"""Runs or documents under way at once: what is in memory is a page of each."""

TRIES = 5
FIRST_DELAY = 0.1


async def each(items: AsyncIterator[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Do the work on every item, a few at once. The first error ends it."""
    room = asyncio.Semaphore(TOGETHER)
    try:
        async with asyncio.TaskGroup() as group:
            async for item in items:
                await room.acquire()
                task = group.create_task(_one(work, item))
                task.add_done_callback(lambda _: room.release())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def _one(work: Callable[[T], Awaitable[None]], item: T) -> None:
    await work(item)


async def insist(step: Callable[[], Awaitable[T]]) -> T:
    """Do a step that looks at what is there before it writes; again after a fault that may pass."""
    for number in range(TRIES):
        try:
            return await step()
        except (StoreUnavailableError, ConflictError) as exc:
            cause = exc
            await asyncio.sleep(FIRST_DELAY * 2**number)
    raise cause


async def find_run(store: OrmAdapter, run_id: str) -> RunState | None:
    """Return the state, or None."""
    with suppress(RunNotFoundError):
        return await store.load_run(run_id)
    return None
