"""What a writer is told of its commits when answers get lost and callers are cancelled."""

from __future__ import annotations

import asyncio

import pytest

from thoughtgear.errors import StoreUnavailableError, SupersededError
from thoughtgear.models import RunState
from thoughtgear.protocols import OrmAdapter
from thoughtgear.testing.attempts import (
    PROMPT,
    RUN,
    adds,
    answers,
    asks,
    latest_writer,
    prompted,
    send,
    writer_for,
)
from thoughtgear.testing.case import StoreCase, assert_standing, texts_of
from thoughtgear.testing.faulty import FaultyStore

LOST = 0.3
"""The share of acknowledgements that gets lost."""


class AcknowledgementClauses(StoreCase):
    """One attempt, and answers that don't arrive. `lossy_commits` are made with 30 % of the answers lost."""

    lossy_commits = 60

    @pytest.mark.parametrize("landed", [True, False], ids=["landed", "not landed"])
    async def test_a_lost_acknowledgement_is_made_up_for(self, store: OrmAdapter, landed: bool) -> None:
        """A commit whose acknowledgement is lost is recognised when it landed, and made when it did not."""
        faulty = FaultyStore(store)
        writer = writer_for(faulty, await prompted(store))
        faulty.lose(landed=landed, times=2)
        state = await writer.commit(answers())
        assert faulty.fired == (1 if landed else 2)
        assert state.status == "done"
        await assert_standing(store, state, PROMPT, "hi")

    async def test_lost_acknowledgements_lose_and_double_nothing(self, store: OrmAdapter) -> None:
        """Of commits that are done, and 30 % of which answer with an error, each is acknowledged and there
        once, in order, and none costs a version more."""
        await commit_lossily(store, self.lossy_commits)

    async def test_an_inbox_grows_under_a_lost_acknowledgement(self, store: OrmAdapter) -> None:
        """The holder recognises its own commit below a sender's, because a sender keeps the nonce."""
        faulty = FaultyStore(store)
        writer = writer_for(faulty, await prompted(store))
        faulty.interrupt(lambda: send(store, "more"), landed=True)
        state = await writer.commit(asks())
        assert faulty.fired == 1
        assert [item.text for item in state.mail] == ["more"]
        await assert_standing(store, state, PROMPT, "")

    async def test_a_run_is_taken_under_a_lost_acknowledgement(self, store: OrmAdapter) -> None:
        """A commit that landed and was built upon by a newer attempt, before its writer could look, stands
        once; the writer is superseded."""
        faulty = FaultyStore(store)
        writer = writer_for(faulty, await prompted(store))

        async def take_over() -> None:
            await (await latest_writer(store)).commit(adds("newer"))

        faulty.interrupt(take_over, landed=True)
        with pytest.raises(SupersededError):
            await writer.commit(adds("mine"))
        assert faulty.fired == 1
        assert await texts_of(store, RUN) == [PROMPT, "mine", "newer"]

    async def test_a_lost_claim_is_still_mine(
        self, store: OrmAdapter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A claim that landed although its commit gave up does not make its own writer a stranger."""
        monkeypatch.setattr("thoughtgear.commit.READ_BACK_DELAYS", (0.0, 0.0))
        faulty = FaultyStore(store)
        writer = writer_for(faulty, await prompted(store), serialised=True)

        async def away(run_id: str) -> RunState:
            raise StoreUnavailableError("The store is away.")

        faulty.lose(landed=True)
        with monkeypatch.context() as patch:
            patch.setattr(faulty, "load_run", away)
            with pytest.raises(StoreUnavailableError):
                await writer.claim()
        assert faulty.fired == 1
        assert (await store.load_run(RUN)).claim.epoch == 1
        state = await writer.commit(answers())
        assert (state.status, state.claim.epoch) == ("done", 1)
        await assert_standing(store, state, PROMPT, "hi")

    async def test_a_cancelled_attempts_commit_is_over(self, store: OrmAdapter) -> None:
        """An attempt that is cancelled within a commit gets its cancellation after the write."""
        faulty = FaultyStore(store)
        writer = writer_for(faulty, await prompted(store))
        entered, go_on = asyncio.Event(), asyncio.Event()

        async def stop_here() -> None:
            entered.set()
            await go_on.wait()

        faulty.interrupt(stop_here)
        committing = asyncio.create_task(writer.commit(answers()))
        await entered.wait()
        for _ in range(2):
            committing.cancel()
            await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await committing
        await assert_standing(store, writer.state, PROMPT, "hi")
        assert writer.state.status == "done"


async def commit_lossily(store: OrmAdapter, commits: int) -> None:
    """Commit so many messages, lose 30 % of the acknowledgements, and check the transcript."""
    faulty, before = FaultyStore(store), await prompted(store)
    writer = writer_for(faulty, before)
    faulty.lose_some(LOST)
    for number in range(commits):
        await writer.commit(adds(f"{number}"))
    assert LOST / 2 < faulty.fired / commits < LOST * 1.5
    assert writer.state.version == before.version + commits
    await assert_standing(store, writer.state, PROMPT, *(f"{number}" for number in range(commits)))
