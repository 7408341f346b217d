"""Work on many runs or documents: a few at once, all of them page by page, and again after a fault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Protocol, TypeVar

from thoughtgear.errors import ConflictError, RunNotFoundError, StoreUnavailableError
from thoughtgear.models import RunState
from thoughtgear.protocols import Collection, OrmAdapter, RunFilter

T = TypeVar("T")

TOGETHER = 8
"""Runs or documents under way at once."""

LISTED = 500
"""Runs that are listed at once: the files store reads every run for each page."""

KEYS = 1000
"""Keys of documents that are listed at once."""

TRIES = 5
FIRST_DELAY = 0.1


class Watcher(Protocol):
    """Who is told how far the work is."""

    def begin(self, stage: str, total: int | None) -> None:
        """A stage begins: its name, and how many steps it takes where that is known."""
        ...

    def step(self, count: int = 1) -> None:
        """Steps of this stage are done."""
        ...


class Unwatched:
    """Nobody watches."""

    def begin(self, stage: str, total: int | None) -> None:
        """Nothing."""

    def step(self, count: int = 1) -> None:
        """Nothing."""


async def each(items: AsyncIterator[T] | Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Do the work on every item, a few at once. The first error ends it."""
    items = items if isinstance(items, AsyncIterator) else _given(items)
    room = asyncio.Semaphore(TOGETHER)
    try:
        async with asyncio.TaskGroup() as group:
            async for item in items:
                await room.acquire()
                task = group.create_task(_one(work, item))
                task.add_done_callback(lambda _: room.release())
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def _given(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        yield item


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


async def all_runs(
    store: OrmAdapter,
    where: RunFilter = RunFilter(),  # noqa: B008 - frozen
    damaged: dict[str, str] | None = None,
) -> AsyncIterator[RunState]:
    """Yield the runs of a store, newest first. Those that it can't read are left out, and noted in `damaged`:
    why, by run id."""
    after = None
    while True:
        page = await store.list_runs(where, after=after, limit=LISTED)
        if damaged is not None:
            damaged.update(page.damaged)
        for state in page.runs:
            yield state
        if page.after is None:
            return
        after = page.after


async def key_pages(
    store: OrmAdapter, collection: Collection, prefix: str = "", after: str = ""
) -> AsyncIterator[list[str]]:
    """Yield the keys of documents in order, page by page."""
    while page := await store.list_documents(collection, prefix, after=after, limit=KEYS):
        yield page
        after = page[-1]


async def find_run(store: OrmAdapter, run_id: str) -> RunState | None:
    """Return the state, or None."""
    with suppress(RunNotFoundError):
        return await store.load_run(run_id)
    return None
