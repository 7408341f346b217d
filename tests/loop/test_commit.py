"""The commit protocol beyond what the conformance suite says of it (`thoughtgear.testing.ownership`)."""

from __future__ import annotations

import asyncio
import time

import pytest

from thoughtgear import inbox
from thoughtgear.errors import (
    RunCancelledError,
    StateRegressionError,
    StoreUnavailableError,
    SupersededError,
)
from thoughtgear.loop import Limits
from thoughtgear.models import Claim, InboxItem, RunState
from thoughtgear.testing import FaultyStore
from thoughtgear.testing.attempts import RUN, answers, latest_writer, prompted, writer_for
from thoughtgear.testing.case import texts_of


async def test_holder_is_superseded_before_an_effect(store: FaultyStore) -> None:
    """A holder that was frozen learns at its next check that a newer epoch holds the run."""
    holder = writer_for(store, await prompted(store._inner))
    await holder.claim()
    await (await latest_writer(store)).claim()
    holder._contact = time.monotonic() - 60  # as after a freeze
    with pytest.raises(SupersededError):
        await holder.check()


async def test_a_store_that_only_reads_gives_up(store: FaultyStore) -> None:
    """Where reads work and writes never do, a commit ends with StoreUnavailableError instead of going on."""
    writer = writer_for(store, await prompted(store._inner))
    store.lose(landed=False, times=1000)
    with pytest.raises(StoreUnavailableError):
        await writer.commit(answers())
    assert store.fired > 1
    assert await texts_of(store._inner, RUN) == ["hello"]


async def test_store_that_went_back_is_refused(store: FaultyStore) -> None:
    """A store that stands behind the last acknowledged version raises StateRegressionError."""
    state = await prompted(store._inner)
    writer = writer_for(store, state)
    await writer.claim()

    async def older(run_id: str) -> RunState:
        store.fired += 1
        return state

    store.load_run = older  # type: ignore[method-assign] # the fault
    writer._contact = time.monotonic() - 60
    with pytest.raises(StateRegressionError):
        await writer.check()
    assert store.fired == 1


async def test_cancel_in_the_inbox_stops_the_next_effect(store: FaultyStore) -> None:
    """A cancel that a sender left in the inbox is seen at the check before the next effect."""
    writer = writer_for(store, await prompted(store._inner))
    await writer.claim()
    await inbox.put(store, RUN, InboxItem(request_id="c", kind="cancel"), Limits())
    writer._contact = time.monotonic() - 60
    with pytest.raises(RunCancelledError):
        await writer.check()


async def test_fresh_contact_costs_no_read(store: FaultyStore) -> None:
    """The check before an effect reads nothing while the last contact with the store is young."""
    writer = writer_for(store, await prompted(store._inner))
    await writer.claim()
    loads = store.loads
    await writer.check()
    assert store.loads == loads


async def test_watch_renews_the_claim(store: FaultyStore) -> None:
    """A long step keeps its claim alive, so that no duplicate takes it over."""
    writer = writer_for(store, await prompted(store._inner), watch=0.01, hold=0.2)
    await writer.claim()
    first = writer.state.claim.deadline
    watching = asyncio.create_task(writer.watch())
    while (await store.load_run(RUN)).claim.deadline <= first + 0.2:
        await asyncio.sleep(0.01)
    watching.cancel()
    assert (await store.load_run(RUN)).claim.epoch == 1


def test_a_claim_without_an_owner_is_not_live() -> None:
    """A released claim holds nobody off, whatever its deadline."""
    assert not Claim(epoch=3, deadline=time.time() + 60).live()
