"""What a store does that outlives its process: reopened, used by several processes, and killed."""

from __future__ import annotations

import asyncio
import faulthandler
import multiprocessing
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, TypeVar

from thoughtgear.errors import ConflictError
from thoughtgear.protocols import OrmAdapter
from thoughtgear.testing.case import StoreCase, append, assert_standing, new_run, texts_of
from thoughtgear.testing.races import contend, count_up

T = TypeVar("T")
Work = Callable[[OrmAdapter, str], Awaitable[T]]

PROCESSES = 8
COMMITS = 25
"""What each process commits: 200 together."""

PROCESS_SECONDS = 90.0
"""After this a process shows where it hangs, and ends: the test fails."""

_PRELOAD = [f"thoughtgear.adapters.{name}" for name in ("sql", "postgres", "files", "mongodb", "s3")]


class SharedClauses(StoreCase):
    """Reopening, several processes, SIGKILL."""

    async def test_reopening_finds_everything(self, store: OrmAdapter, tmp_path: Path) -> None:
        """State, transcript, documents, tombstones and the list are there after a close."""
        state = await append(store, new_run("kept", status="done"), "a", "b")
        await append(store, new_run("gone"), "a")
        await store.delete_run("gone")
        tag = await store.put_document("memory", "k", b"v", tag=None)
        await store.aclose()
        again = await self.open_store(tmp_path)
        await assert_standing(again, state, "a", "b")
        assert (await again.list_runs()).runs == [state]
        assert await again.put_document("memory", "k", b"w", tag=tag)
        try:
            await append(again, new_run("gone"), "b")
        except ConflictError:
            return
        finally:
            await again.aclose()
        raise AssertionError("the tombstone was lost")

    async def test_two_openings_are_one_store(self, store: OrmAdapter, tmp_path: Path) -> None:
        """What one acknowledged the other sees at once, and a stale one conflicts."""
        other = await self.open_store(tmp_path)
        first = await append(store, new_run("r"), "a")
        second = await append(other, await other.load_run("r"), "b")
        await assert_standing(store, second, "a", "b")
        try:
            await append(store, first, "late")
        except ConflictError:
            await assert_standing(other, second, "a", "b")
        else:
            raise AssertionError("a stale commit was acknowledged")
        finally:
            await other.aclose()

    async def test_processes_open_an_empty_store_at_once(self, tmp_path: Path) -> None:
        """Eight processes make the same new store, and one of them creates the run."""
        ended = await self.in_processes(tmp_path, _create)
        assert sorted(ended) == [False] * (PROCESSES - 1) + [True]

    async def test_processes_contend_for_a_run(self, store: OrmAdapter, tmp_path: Path) -> None:
        """Of 200 contended commits each version has one winner; the transcript is what they won, in order."""
        await append(store, new_run("race"))
        wins = await self.in_processes(tmp_path, _contend)
        won = sorted(win for each in wins for win in each)
        assert [version for version, _ in won] == list(range(2, 2 + PROCESSES * COMMITS))
        assert await texts_of(store, "race") == [text for _, text in won]
        assert (await store.load_run("race")).version == 1 + PROCESSES * COMMITS

    async def test_processes_count_in_a_document(self, store: OrmAdapter, tmp_path: Path) -> None:
        """No addition of eight processes to one document is lost."""
        await store.put_document("memory", "n", b"0", tag=None)
        await self.in_processes(tmp_path, _count)
        found = await store.get_document("memory", "n")
        assert found is not None
        assert int(found.value) == PROCESSES * COMMITS

    async def test_sigkill_loses_nothing_acknowledged(self, tmp_path: Path) -> None:
        """After kill -9 of a writer every commit that it reported is there, and the run goes on."""
        acknowledged = await asyncio.to_thread(killed_writer, type(self), tmp_path, 40)
        store = await self.open_store(tmp_path)
        state = await store.load_run("killed")
        assert state.version >= acknowledged >= 40
        texts = await texts_of(store, "killed")
        assert texts == [f"{version}" for version in range(1, state.version + 1)]
        await append(store, state, f"{state.version + 1}")
        await store.aclose()

    async def in_processes(self, place: Path, work: Work[T]) -> list[T]:
        """Run `work(store, name)` in eight fresh processes that begin together."""
        return await asyncio.to_thread(_in_processes, type(self), place, work)


async def _create(store: OrmAdapter, name: str) -> bool:
    try:
        await append(store, new_run("race"), name)
    except ConflictError:
        return False
    return True


async def _contend(store: OrmAdapter, name: str) -> list[tuple[int, str]]:
    return await contend(store, "race", name, COMMITS)


async def _count(store: OrmAdapter, _name: str) -> None:
    await count_up(store, "n", COMMITS)


_start: Barrier | None = None


def _keep(barrier: Barrier) -> None:
    global _start  # the way in which a pool hands a barrier to its processes
    _start = barrier
    _end_when_hanging()


def _end_when_hanging() -> None:
    faulthandler.dump_traceback_later(PROCESS_SECONDS, exit=True, file=sys.__stderr__ or sys.stderr)


def _fresh_processes() -> Any:
    """Return what starts a process that shares nothing with this one. A fork server imports the package once
    for all of them; where there is none, each one does."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__package__, *_PRELOAD])
    return context


def _in_processes(case: type[StoreCase], place: Path, work: Work[T]) -> list[T]:
    context = _fresh_processes()
    barrier = context.Barrier(PROCESSES)
    with ProcessPoolExecutor(PROCESSES, context, initializer=_keep, initargs=(barrier,)) as pool:
        ended = [pool.submit(_at_work, case, place, work, f"p{number}") for number in range(PROCESSES)]
        return [each.result() for each in ended]


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

    _end_when_hanging()
    asyncio.run(main())
