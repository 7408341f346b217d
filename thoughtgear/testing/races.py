"""What a store does when several tasks use it at once, and when they are cancelled."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from thoughtgear.errors import ConflictError
from thoughtgear.protocols import OrmAdapter
from thoughtgear.testing.case import StoreCase, append, follow_up, new_run, texts_of


class RaceClauses(StoreCase):
    """One process, many tasks."""

    async def test_one_of_many_creators_wins(self, store: OrmAdapter) -> None:
        """Of ten creators of one run exactly one succeeds, and its message is the transcript."""
        racers = [append(store, new_run("race"), f"{number}") for number in range(10)]
        ended = await asyncio.gather(*racers, return_exceptions=True)
        winners = [number for number, each in enumerate(ended) if not isinstance(each, BaseException)]
        assert len(winners) == 1
        assert sum(isinstance(each, ConflictError) for each in ended) == 9
        assert await texts_of(store, "race") == [f"{winners[0]}"]

    async def test_each_version_has_one_winner(self, store: OrmAdapter) -> None:
        """Tasks that contend for a run make a transcript of exactly what was acknowledged, in order."""
        await append(store, new_run("race"))
        wins = await asyncio.gather(*(contend(store, "race", f"t{number}", 10) for number in range(5)))
        won = sorted(win for each in wins for win in each)
        assert [version for version, _ in won] == list(range(2, 52))
        assert await texts_of(store, "race") == [text for _, text in won]

    async def test_a_document_counts_right(self, store: OrmAdapter) -> None:
        """Tasks that add one by comparing tags lose no addition."""
        await store.put_document("memory", "n", b"0", tag=None)
        await asyncio.gather(*(count_up(store, "n", 10) for _ in range(5)))
        found = await store.get_document("memory", "n")
        assert found is not None
        assert found.value == b"50"

    async def test_a_reader_sees_whole_commits(self, store: OrmAdapter) -> None:
        """Whatever state is loaded while commits go on, all of its messages can be read."""
        state = await append(store, new_run("r"), "0")

        async def write() -> None:
            current = state
            for number in range(150):
                current = await append(store, current, f"{number}", "more")
                await asyncio.sleep(0)

        writer = asyncio.create_task(write())
        while not writer.done():
            seen = await store.load_run("r")
            history = await store.get_history("r", limit=seen.message_count)
            assert [message.seq for message in history] == list(range(seen.message_count))
            await asyncio.sleep(0)
        await writer

    @pytest.mark.parametrize("steps", range(8))
    async def test_a_cancelled_commit_is_whole_or_absent(self, store: OrmAdapter, steps: int) -> None:
        """After the cancelled caller is back the commit is there or not, and never lands later."""
        state = await append(store, new_run("r"), "first")
        for number in range(5):
            after, messages = follow_up(state, f"{number}a", f"{number}b")
            task = asyncio.create_task(store.save_run(after, messages))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            found = await store.load_run("r")
            assert found.version in (state.version, after.version)
            # A write that landed now would take this version away.
            state = await append(store, found, "on top")
            texts = await texts_of(store, "r")
            assert texts.count(f"{number}a") == texts.count(f"{number}b") == (found.version == after.version)
            assert len(texts) == state.message_count

    async def test_a_cancel_that_comes_twice_is_the_same(self, store: OrmAdapter) -> None:
        """A second cancel does not tear the commit from its caller either."""
        state = await append(store, new_run("r"), "first")
        after, messages = follow_up(state, "second")
        task = asyncio.create_task(store.save_run(after, messages))
        for _ in range(3):
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait([task])
        found = await store.load_run("r")
        assert (await append(store, found, "on top")).version == found.version + 1

    async def test_another_event_loop_can_use_it(self, store: OrmAdapter) -> None:
        """A store that was used in one event loop works in a second one, and in the first one again."""
        state = await append(store, new_run("r"), "here")

        def elsewhere() -> None:
            asyncio.run(_append_to(store, "r", "there"))

        await asyncio.to_thread(elsewhere)
        await asyncio.to_thread(elsewhere)
        state = await append(store, await store.load_run("r"), "here again")
        assert await texts_of(store, "r") == ["here", "there", "there", "here again"]
        assert state.version == 4

    async def test_closing_twice_is_fine(self, tmp_path: Path) -> None:
        """A store closes twice, used or not."""
        for used in (False, True):
            store = await self.open_store(tmp_path)
            if used:
                await append(store, new_run(), "a")
            await store.aclose()
            await store.aclose()


async def contend(store: OrmAdapter, run_id: str, name: str, wins: int) -> list[tuple[int, str]]:
    """Commit until `wins` commits are acknowledged; return each with its version and text."""
    won: list[tuple[int, str]] = []
    while len(won) < wins:
        state = await store.load_run(run_id)
        text = f"{name}:{len(won)}"
        await asyncio.sleep(0)
        try:
            state = await append(store, state, text)
        except ConflictError:
            continue
        won.append((state.version, text))
    return won


async def count_up(store: OrmAdapter, key: str, times: int) -> None:
    """Add one to the number in a document, so many times, against others who do the same."""
    while times:
        found = await store.get_document("memory", key)
        assert found is not None
        await asyncio.sleep(0)
        try:
            await store.put_document("memory", key, b"%d" % (int(found.value) + 1), tag=found.tag)
        except ConflictError:
            continue
        times -= 1


async def _append_to(store: OrmAdapter, run_id: str, text: str) -> None:
    await append(store, await store.load_run(run_id), text)
