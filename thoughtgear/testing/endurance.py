"""The clauses whose claim is a large number. They take minutes: mark your class, and run it now and then."""

from __future__ import annotations

import asyncio
from pathlib import Path

from thoughtgear.protocols import OrmAdapter
from thoughtgear.testing.acknowledgements import commit_lossily
from thoughtgear.testing.case import StoreCase, append, new_run, texts_of
from thoughtgear.testing.processes import contend_in_processes, kill_writers
from thoughtgear.testing.races import contend

LOOPS = 8
HANGING_SECONDS = 1500.0


class AdapterEndurance(StoreCase):
    """One process. The numbers may be set lower, for a store that is slow."""

    lossy_commits = 2000
    contended_commits = 1000

    async def test_many_lost_acknowledgements_lose_and_double_nothing(self, store: OrmAdapter) -> None:
        """Of 2,000 commits that are done, and 30 % of which answer with an error, each is there once."""
        await commit_lossily(store, self.lossy_commits)

    async def test_event_loops_contend_for_a_run(self, store: OrmAdapter) -> None:
        """Of 1,000 commits that eight event loops in threads contend for, each version has one winner."""
        await append(store, new_run("race"))

        def work(number: int) -> list[tuple[int, str]]:
            return asyncio.run(contend(store, "race", f"t{number}", self.contended_commits // LOOPS))

        wins = await asyncio.gather(*(asyncio.to_thread(work, number) for number in range(LOOPS)))
        won = sorted(win for each in wins for win in each)
        assert [version for version, _ in won] == list(range(2, 2 + self.contended_commits // LOOPS * LOOPS))
        assert await texts_of(store, "race") == [text for _, text in won]


class SharedAdapterEndurance(AdapterEndurance):
    """Several processes as well. `kills`: how many writers get SIGKILL."""

    processes = 8
    kills = 500

    async def test_processes_contend_long_for_a_run(self, store: OrmAdapter, tmp_path: Path) -> None:
        """Of 1,000 commits that eight processes contend for, each version has one winner."""
        await contend_in_processes(type(self), store, tmp_path, self.contended_commits, HANGING_SECONDS)

    async def test_many_kills_leave_a_readable_run(self, tmp_path: Path) -> None:
        """After each of 500 SIGKILLs at random moments, every commit that the writer had reported is there,
        once and in order, and the next writer goes on."""
        reported = await kill_writers(type(self), tmp_path, self.kills)
        assert reported > self.kills
