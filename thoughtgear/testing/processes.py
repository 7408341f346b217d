"""Processes of their own that use a store at the same time, or are killed while they do."""

from __future__ import annotations

import asyncio
import faulthandler
import multiprocessing
import random
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, TypeVar

from thoughtgear.protocols import OrmAdapter
from thoughtgear.testing.case import StoreCase, append, new_run, texts_of
from thoughtgear.testing.races import contend

T = TypeVar("T")
Work = Callable[[OrmAdapter, str], Awaitable[T]]

PROCESS_SECONDS = 90.0
"""After this a process shows where it hangs, and ends: the test fails."""

_PRELOAD = [f"thoughtgear.adapters.{name}" for name in ("sql", "postgres", "files", "mongodb", "s3")]

_start: Barrier | None = None


async def in_processes(
    case: type[StoreCase], place: Path, work: Work[T], seconds: float = PROCESS_SECONDS
) -> list[T]:
    """Run `work(store, name)` in as many fresh processes as the case has, which begin together."""
    return await asyncio.to_thread(_in_processes, case, place, work, seconds)


async def contend_in_processes(
    case: type[StoreCase], store: OrmAdapter, place: Path, commits: int, seconds: float = PROCESS_SECONDS
) -> None:
    """Let the processes make so many contended commits, and check that each version has one winner."""
    assert commits % case.processes == 0
    state = await append(store, new_run("race"))
    work = partial(_contend, wins=commits // case.processes)
    wins = await in_processes(case, place, work, seconds)
    won = sorted(win for each in wins for win in each)
    assert [version for version, _ in won] == list(range(state.version + 1, state.version + 1 + commits))
    assert await texts_of(store, "race") == [text for _, text in won]
    assert (await store.load_run("race")).version == state.version + commits


async def _contend(store: OrmAdapter, name: str, wins: int) -> list[tuple[int, str]]:
    return await contend(store, "race", name, wins)


async def kill_writers(case: type[StoreCase], place: Path, kills: int) -> int:
    """Kill so many writers of one run at random moments; after each, all that it reported is there and the
    run can be read. Return the version that the run has reached."""
    chance = random.Random(22)  # noqa: S311  repeats itself
    reported = 0
    for _ in range(kills):
        after, delay = chance.randrange(10), chance.uniform(0, 0.06)
        reported = max(reported, await asyncio.to_thread(killed_writer, case, place, after, delay))
        store = await case.open_store(place)
        runs = (await store.list_runs()).runs
        version = runs[0].version if runs else 0
        assert version >= reported
        texts = await texts_of(store, "killed")
        # A server may do the last commit of a writer that is dead between the two reads.
        assert len(texts) in (version, version + 1)
        assert texts == [f"{number}" for number in range(1, len(texts) + 1)]
        await store.aclose()
    return reported


def killed_writer(case: type[StoreCase], place: Path, kill_after: int, delay: float = 0.0) -> int:
    """Let a process append to the run `killed`, kill it by SIGKILL `delay` seconds after that many commits,
    and return the last version that it reported."""
    context = _fresh_processes()
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_write_for_ever, args=(case, place, writer), daemon=True)
    process.start()
    writer.close()
    reported = [reader.recv() for _ in range(kill_after)]
    process.join(delay)
    process.kill()
    process.join()
    try:
        while True:
            reported.append(reader.recv())
    except EOFError:
        return int(max(reported, default=0))


def _write_for_ever(case: type[StoreCase], place: Path, reports: Connection) -> None:
    async def main() -> None:
        store = await case.open_store(place)
        found = (await store.list_runs()).runs
        state = found[0] if found else new_run("killed")
        while True:
            state = await append(store, state, f"{state.version + 1}")
            reports.send(state.version)

    _end_when_hanging(PROCESS_SECONDS)
    asyncio.run(main())


def _fresh_processes() -> Any:
    """Return what starts a process that shares nothing with this one. A fork server imports the package once
    for all of them; where there is none, each one does."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__package__, *_PRELOAD])
    return context


def _in_processes(case: type[StoreCase], place: Path, work: Work[T], seconds: float) -> list[T]:
    context = _fresh_processes()
    barrier = context.Barrier(case.processes)
    with ProcessPoolExecutor(
        case.processes, context, initializer=_begin, initargs=(barrier, seconds)
    ) as pool:
        ended = [pool.submit(_at_work, case, place, work, f"p{number}") for number in range(case.processes)]
        return [each.result() for each in ended]


def _begin(barrier: Barrier, seconds: float) -> None:
    global _start  # the way in which a pool hands a barrier to its processes
    _start = barrier
    _end_when_hanging(seconds)


def _end_when_hanging(seconds: float) -> None:
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)


def _at_work(case: type[StoreCase], place: Path, work: Work[T], name: str) -> T:
    assert _start is not None
    _start.wait(60)

    async def main() -> T:
        store = await case.open_store(place)
        try:
            return await work(store, name)
        finally:
            await store.aclose()

    return asyncio.run(main())
