"""What a store does with commits that leave versions out: what a copy of a run is made of."""

from __future__ import annotations

import asyncio

import pytest

from thoughtgear.errors import ConflictError, StoreError
from thoughtgear.models import RunState
from thoughtgear.protocols import OrmAdapter
from thoughtgear.testing.case import StoreCase, append, assert_absent, assert_standing, follow_up, new_run


class CopyClauses(StoreCase):
    """`save_run` with `expected`."""

    async def test_a_run_is_created_at_any_version(self, store: OrmAdapter) -> None:
        """A creation may make any version, and the next commit makes the one after it."""
        state = await leap(store, new_run("r"), 41, "a", "b")
        await assert_standing(store, state, "a", "b")
        state = await append(store, state, "c")
        assert state.version == 42
        await assert_standing(store, state, "a", "b", "c")

    async def test_a_commit_may_leave_versions_out(self, store: OrmAdapter) -> None:
        """A commit on top of the expected version makes any higher one."""
        state = await append(store, new_run("r"), "a")
        state = await leap(store, state, 9, "b")
        state = await leap(store, state, 10_000_000_000)
        await assert_standing(store, await append(store, state, "c"), "a", "b", "c")

    async def test_only_the_expected_version_is_replaced(self, store: OrmAdapter) -> None:
        """A store that stands at another version than the expected one, or at none, is a conflict."""
        first = await append(store, new_run("r"), "a")
        state = await leap(store, first, 5, "b")
        stale = [first.model_copy(update={"version": base}) for base in (1, 2, 3, 4, 6)]
        for base in (*stale, new_run("r"), new_run("absent", version=2)):
            with pytest.raises(ConflictError):
                await leap(store, base, 7, "x")
        await assert_standing(store, state, "a", "b")
        await assert_absent(store, "absent")

    async def test_versions_that_were_left_out_are_no_versions(self, store: OrmAdapter) -> None:
        """After a leap only the very next version is free: neither one that was left out, nor the number of
        commits that were made."""
        state = await leap(store, await leap(store, new_run("r"), 3, "a"), 7, "b")
        for version in (1, 2, 3, 4, 6, 8):
            with pytest.raises(ConflictError):
                await append(store, state.model_copy(update={"version": version}), "x")
        await assert_standing(store, state, "a", "b")

    @pytest.mark.parametrize("expected", [-1, 5, 6])
    async def test_a_commit_goes_forward(self, store: OrmAdapter, expected: int) -> None:
        """An expected version that is not below the new one is a StoreError that is no conflict."""
        state = await leap(store, new_run("r"), 5, "a")
        with pytest.raises(StoreError) as caught:
            await store.save_run(state, [], expected=expected)
        assert not isinstance(caught.value, ConflictError)
        await assert_standing(store, state, "a")

    async def test_a_leap_keeps_the_transcript_without_gaps(self, store: OrmAdapter) -> None:
        """Messages that do not continue the transcript are refused at any version."""
        state = await leap(store, new_run("r"), 5, "a")
        for count in (0, 2):
            with pytest.raises(StoreError) as caught:
                await leap(store, state.model_copy(update={"message_count": count}), 9, "x")
            assert not isinstance(caught.value, ConflictError)
        await assert_standing(store, state, "a")

    async def test_a_long_run_with_gaps_stays_in_order(self, store: OrmAdapter) -> None:
        """After 150 leaps and as many steps every message is there once, wherever a page begins."""
        state, expected = new_run("r"), list[str]()
        for number in range(150):
            state = await leap(store, state, state.version + 1 + number % 5, f"{number}")
            state = await append(store, state, f"{number}+")
            expected += [f"{number}", f"{number}+"]
        await assert_standing(store, state, *expected)
        for after in (-1, 62, 63, 127, 190, 298):
            page = await store.get_history("r", after, 7)
            assert [message.text for message in page] == expected[after + 1 : after + 8]

    async def test_a_leap_brings_no_deleted_run_back(self, store: OrmAdapter) -> None:
        """A tombstone keeps out who would create the run at another version, and who would go on with it."""
        state = await leap(store, new_run("gone"), 5, "a")
        await store.delete_run("gone")
        for late in (new_run("gone"), state):
            with pytest.raises(ConflictError):
                await leap(store, late, 9, "b")
        await assert_absent(store, "gone")

    async def test_one_of_many_creators_at_many_versions_wins(self, store: OrmAdapter) -> None:
        """Of ten creators of one run, each at another version, exactly one succeeds."""
        racers = [leap(store, new_run("race"), 1 + 7 * number, f"{number}") for number in range(10)]
        ended = await asyncio.gather(*racers, return_exceptions=True)
        (winner,) = [each for each in ended if isinstance(each, RunState)]
        assert sum(isinstance(each, ConflictError) for each in ended) == 9
        await assert_standing(store, winner, f"{winner.version // 7}")


async def leap(store: OrmAdapter, state: RunState, version: int, *texts: str) -> RunState:
    """Commit these texts on top of `state` as that version, and return the new state."""
    after, messages = follow_up(state, *texts)
    after.version = version
    await store.save_run(after, messages, expected=state.version)
    return after
