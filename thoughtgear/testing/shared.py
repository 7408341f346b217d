"""What a store does that outlives its process: reopened, used by several processes, and killed."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from thoughtgear.errors import ConflictError, SupersededError
from thoughtgear.protocols import OrmAdapter
from thoughtgear.testing.attempts import PROMPT, RUN, adds, asks, latest_writer, prompted, take_and_add
from thoughtgear.testing.case import StoreCase, append, assert_standing, new_run, texts_of
from thoughtgear.testing.ownership import FOLDED
from thoughtgear.testing.processes import contend_in_processes, in_processes, killed_writer
from thoughtgear.testing.races import count_up


class SharedClauses(StoreCase):
    """Reopening, several processes, SIGKILL. `contended_commits`: how many the processes make together."""

    contended_commits = 80

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
        with pytest.raises(ConflictError):  # the tombstone
            await append(again, new_run("gone"), "b")
        await again.aclose()

    async def test_two_openings_are_one_store(self, store: OrmAdapter, tmp_path: Path) -> None:
        """What one acknowledged the other sees at once, and a stale one conflicts."""
        other = await self.open_store(tmp_path)
        first = await append(store, new_run("r"), "a")
        second = await append(other, await other.load_run("r"), "b")
        await assert_standing(store, second, "a", "b")
        with pytest.raises(ConflictError):
            await append(store, first, "late")
        await assert_standing(other, second, "a", "b")
        await other.aclose()

    async def test_an_opening_that_slept_writes_nothing(self, store: OrmAdapter, tmp_path: Path) -> None:
        """An attempt of another process, with all that it remembers of the run, is fenced after so many
        commits that its version is folded away; then it reads every one of them."""
        other = await self.open_store(tmp_path)
        await prompted(store)
        sleeper, at_work = await latest_writer(other), await latest_writer(store)
        await sleeper.claim()
        at_work = await latest_writer(store)
        for number in range(FOLDED):
            await at_work.commit(adds(f"{number}"))
        with pytest.raises(SupersededError):
            await sleeper.commit(asks())
        texts = [PROMPT, *(f"{number}" for number in range(FOLDED))]
        for each in (store, other):
            await assert_standing(each, at_work.state, *texts)
        await other.aclose()

    async def test_processes_open_an_empty_store_at_once(self, tmp_path: Path) -> None:
        """Processes make the same new store, and one of them creates the run."""
        ended = await in_processes(type(self), tmp_path, _create)
        assert sorted(ended) == [False] * (self.processes - 1) + [True]

    async def test_processes_contend_for_a_run(self, store: OrmAdapter, tmp_path: Path) -> None:
        """Of contended commits each version has one winner; the transcript is what they won, in order."""
        await contend_in_processes(type(self), store, tmp_path, self.contended_commits)

    async def test_processes_take_a_run_from_one_another(self, store: OrmAdapter, tmp_path: Path) -> None:
        """Processes claim one run again and again: what was acknowledged to one is there once, in its
        order, and nothing else is."""
        await prompted(store)
        said = await in_processes(type(self), tmp_path, partial(take_and_add, count=5))
        texts = await texts_of(store, RUN)
        assert sorted(texts) == sorted([PROMPT, *(text for each in said for text in each)])
        for each in said:
            assert [text for text in texts if text in each] == each
        state = await store.load_run(RUN)
        assert state.version == 1 + self.processes * 5

    async def test_processes_read_while_one_writes(self, store: OrmAdapter, tmp_path: Path) -> None:
        """Whatever state a process loads while another one commits, all of its messages can be read, and
        states never go back."""
        await append(store, new_run("read"), "0")
        seen = await in_processes(type(self), tmp_path, _write_or_read)
        assert all(count > 1 for count in seen)

    async def test_processes_count_in_a_document(self, store: OrmAdapter, tmp_path: Path) -> None:
        """No addition of the processes to one document is lost."""
        await store.put_document("memory", "n", b"0", tag=None)
        await in_processes(type(self), tmp_path, _count)
        found = await store.get_document("memory", "n")
        assert found is not None
        assert int(found.value) == self.processes * COUNTED

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


COUNTED = 10
"""What each process adds to a document."""


READ_VERSIONS = 60
"""How many versions of a run are written while others read it."""

READ_PAUSE = 0.002
"""Seconds between two reads of a process."""


async def _write_or_read(store: OrmAdapter, name: str) -> int:
    """Write all versions, or read them and return how many were seen."""
    if name == "p0":
        state = await store.load_run("read")
        while state.version < READ_VERSIONS:
            state = await append(store, state, *[f"{state.version}"] * 3)
        return READ_VERSIONS
    versions: list[int] = [0]
    while versions[-1] < READ_VERSIONS:
        seen = await store.load_run("read")
        history = await store.get_history("read", limit=seen.message_count)
        assert [message.seq for message in history] == list(range(seen.message_count))
        versions.append(seen.version)
        # Readers that never rest keep a machine of few cores from writing to its disk at all.
        await asyncio.sleep(READ_PAUSE)
    assert versions == sorted(versions)
    return len(set(versions))


async def _create(store: OrmAdapter, name: str) -> bool:
    try:
        await append(store, new_run("race"), name)
    except ConflictError:
        return False
    return True


async def _count(store: OrmAdapter, _name: str) -> None:
    await count_up(store, "n", COUNTED)
