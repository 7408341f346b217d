"""The commit protocol, each interleaving staged on every store."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest
from faulty_store import FaultyStore

from thoughtgear import inbox
from thoughtgear.commit import RunWriter
from thoughtgear.errors import (
    RunCancelledError,
    StateRegressionError,
    StoreUnavailableError,
    SupersededError,
)
from thoughtgear.loop import Limits
from thoughtgear.models import CallRecord, Claim, InboxItem, Message, RunState, ToolCall
from thoughtgear.protocols import Attempt
from thoughtgear.transitions import end_run, mark_started, save_reply, unnumbered


async def new_run(store: FaultyStore) -> RunState:
    state = RunState(run_id="r", version=1, message_count=1, nonce="created")
    await store.save_run(state, [Message(seq=0, role="user", text="hello")])
    return state


def writer_for(store: FaultyStore, state: RunState, **attempt: object) -> RunWriter:
    return RunWriter(store, state, Attempt(driver="test", **attempt))  # type: ignore[arg-type] # test shorthand


def answer(text: str = "hi") -> partial[list[Message]]:
    reply = unnumbered(role="assistant", text=text)
    return partial(save_reply, reply=reply, rows=[], seen=[], limits=Limits())


def asks(policy: str = "idempotent") -> partial[list[Message]]:
    call = ToolCall(id="1.0", name="pay")
    reply = unnumbered(role="assistant", tool_calls=[call])
    row = CallRecord.model_validate({"call": call, "policy": policy})
    return partial(save_reply, reply=reply, rows=[row], seen=[], limits=Limits())


async def texts(store: FaultyStore) -> list[str]:
    history = await store.get_history("r")
    assert [message.seq for message in history] == list(range(len(history)))
    return [message.text for message in history]


async def test_zombie_is_superseded(store: FaultyStore) -> None:
    """An older attempt that commits after a newer one has claimed gets SupersededError and writes nothing."""
    state = await new_run(store)
    zombie = writer_for(store, state, serialised=True)
    await writer_for(store, state, scope="newer").claim()
    before = await store.load_run("r")
    with pytest.raises(SupersededError):
        await zombie.commit(answer())
    assert await store.load_run("r") == before
    assert await texts(store) == ["hello"]


async def test_holder_is_superseded_by_takeover(store: FaultyStore) -> None:
    """A claim's holder learns at its next commit, and at its next check, that a newer epoch holds the run."""
    holder = writer_for(store, await new_run(store))
    await holder.claim()
    await writer_for(store, await store.load_run("r")).claim()
    with pytest.raises(SupersededError):
        await holder.commit(asks())
    holder._contact = time.monotonic() - 60  # as after a freeze
    with pytest.raises(SupersededError):
        await holder.check()


async def test_a_finished_run_is_not_taken_over(store: FaultyStore) -> None:
    """Who loaded the run before its holder ended it is superseded: what is done stays done."""
    holder = writer_for(store, await new_run(store))
    await holder.claim()
    late = writer_for(store, await store.load_run("r"))
    outside = writer_for(store, await store.load_run("r"))
    await holder.commit(answer())
    ended = await store.load_run("r")
    for other, change in ((late, answer("again")), (outside, partial(end_run, status="failed"))):
        with pytest.raises(SupersededError):
            await other.commit(change)
    assert await store.load_run("r") == ended
    assert ended.status == "done"


async def test_attempts_of_one_number_are_two_owners(store: FaultyStore) -> None:
    """An attempt whose number a driver gives again (a reset activity) fences the older one all the same."""
    state = await new_run(store)
    frozen = writer_for(store, state, scope="activity", number=1)
    await frozen.commit(asks("at_most_once"))
    again = writer_for(store, await store.load_run("r"), scope="activity", number=1)
    assert again.must_claim_first
    await again.claim()
    with pytest.raises(SupersededError):
        await frozen.commit(partial(mark_started, call_id="1.0"))


@pytest.mark.parametrize("landed", [True, False])
async def test_lost_acknowledgement(store: FaultyStore, landed: bool) -> None:
    """A commit whose acknowledgement is lost is recognised when it landed and made when it did not: once."""
    writer = writer_for(store, await new_run(store))
    store.lose(landed=landed, times=2)
    state = await writer.commit(answer())
    assert store.fired == (1 if landed else 2)
    assert state.status == "done"
    assert await texts(store) == ["hello", "hi"]


async def test_lost_acknowledgement_under_a_senders_commit(store: FaultyStore) -> None:
    """The holder recognises its own commit below a sender's, because a sender keeps the nonce."""
    writer = writer_for(store, await new_run(store))

    async def send_then_lose(state: RunState) -> None:
        if not store.fired:
            store.fired += 1
            await inbox.put(store._inner, "r", InboxItem(request_id="m", text="more"), Limits())
            raise StoreUnavailableError("The connection was lost.")

    store.after_save = send_then_lose
    state = await writer.commit(asks())
    assert store.fired == 1
    assert [item.text for item in state.mail] == ["more"]
    assert len(await texts(store)) == 2


async def test_lost_renewal_is_still_mine(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that landed although its commit gave up does not make its own writer a stranger."""
    monkeypatch.setattr("thoughtgear.commit.READ_BACK_DELAYS", (0.0, 0.0))
    writer = writer_for(store, await new_run(store), serialised=True)

    async def lose_everything(state: RunState) -> None:
        raise StoreUnavailableError("The connection was lost.")

    store.after_save = lose_everything
    real_load, store.load_run = store.load_run, partial(_away, store)  # type: ignore[method-assign] # a fault
    with pytest.raises(StoreUnavailableError):
        await writer.claim()
    store.after_save, store.load_run = None, real_load  # type: ignore[method-assign]
    assert (await store.load_run("r")).claim.epoch == 1
    state = await writer.commit(answer())
    assert state.status == "done"
    assert state.claim.epoch == 1


async def _away(store: FaultyStore, run_id: str) -> RunState:
    store.fired += 1
    raise StoreUnavailableError("The store is away.")


async def test_a_store_that_only_reads_gives_up(store: FaultyStore) -> None:
    """Where reads work and writes never do, a commit ends with StoreUnavailableError instead of going on."""
    writer = writer_for(store, await new_run(store))
    store.lose(landed=False, times=1000)
    with pytest.raises(StoreUnavailableError):
        await writer.commit(answer())
    assert store.fired > 1
    assert await texts(store) == ["hello"]


async def test_done_needs_an_empty_inbox(store: FaultyStore) -> None:
    """A message that is committed while the answer is being saved keeps the run from being done."""
    writer = writer_for(store, await new_run(store))

    async def send_first(state: RunState) -> None:
        if not store.fired:
            store.fired += 1
            await inbox.put(store._inner, "r", InboxItem(request_id="m", text="wait!"), Limits())

    store.before_save = send_first
    state = await writer.commit(answer())
    assert store.fired == 1
    assert state.status == "running"
    assert state.iteration == 1
    assert [item.text for item in state.mail] == ["wait!"]


async def test_cancelled_commit_is_over_before_the_caller_goes_on(store: FaultyStore) -> None:
    """A caller that is cancelled in the middle of a commit gets its cancellation after the write."""
    writer = writer_for(store, await new_run(store))
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def stop_here(state: RunState) -> None:
        entered.set()
        await go_on.wait()

    store.before_save = stop_here
    task = asyncio.create_task(writer.commit(answer()))
    await entered.wait()
    task.cancel()
    task.cancel()
    await asyncio.wait({task}, timeout=0.05)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await texts(store) == ["hello", "hi"]
    assert writer.state.status == "done"


async def test_terminal_step_settles_every_open_call(store: FaultyStore) -> None:
    """A terminal step from outside fences the holder and turns `started` into `unknown`."""
    holder = writer_for(store, await new_run(store))
    await holder.commit(asks("at_most_once"))
    await holder.commit(partial(mark_started, call_id="1.0"))
    outside = writer_for(store, await store.load_run("r"))
    await outside.commit(partial(end_run, status="cancelled"))
    with pytest.raises(SupersededError):
        await holder.commit(answer())
    last = (await store.get_history("r"))[-1]
    assert last.tool_result is not None
    assert (last.tool_result.call_id, last.tool_result.status) == ("1.0", "unknown")
    state = await store.load_run("r")
    assert (state.status, state.ledger, state.claim.live()) == ("cancelled", [], False)


async def test_mail_to_a_run_that_ends_stays_in_its_transcript(store: FaultyStore) -> None:
    """A message that was acknowledged and never answered is in the transcript of the run that failed."""
    await new_run(store)
    await inbox.put(store, "r", InboxItem(request_id="m", text="too late"), Limits())
    writer = writer_for(store, await store.load_run("r"))
    await writer.commit(partial(end_run, status="failed"))
    assert await texts(store) == ["hello", "too late"]


async def test_store_that_went_back_is_refused(store: FaultyStore) -> None:
    """A store that stands behind the last acknowledged version raises StateRegressionError."""
    state = await new_run(store)
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
    writer = writer_for(store, await new_run(store))
    await writer.claim()
    await inbox.put(store, "r", InboxItem(request_id="c", kind="cancel"), Limits())
    writer._contact = time.monotonic() - 60
    with pytest.raises(RunCancelledError):
        await writer.check()


async def test_fresh_contact_costs_no_read(store: FaultyStore) -> None:
    """The check before an effect reads nothing while the last contact with the store is young."""
    writer = writer_for(store, await new_run(store))
    await writer.claim()
    loads = store.loads
    await writer.check()
    assert store.loads == loads


async def test_watch_renews_the_claim(store: FaultyStore) -> None:
    """A long step keeps its claim alive, so that no duplicate takes it over."""
    writer = writer_for(store, await new_run(store), watch=0.01, hold=0.2)
    await writer.claim()
    first = writer.state.claim.deadline
    watching = asyncio.create_task(writer.watch())
    while (await store.load_run("r")).claim.deadline <= first + 0.2:
        await asyncio.sleep(0.01)
    watching.cancel()
    assert (await store.load_run("r")).claim.epoch == 1


async def test_sends_from_many_tasks_are_all_kept(store: FaultyStore) -> None:
    """Twenty concurrent senders and a committing holder lose nothing and double nothing."""
    writer = writer_for(store, await new_run(store))
    items = [InboxItem(request_id=f"m{n}", text=str(n)) for n in range(20)]
    twice = [inbox.put(store, "r", item, Limits()) for item in items + items]
    await asyncio.gather(writer.claim(), *twice)
    state = await store.load_run("r")
    assert sorted(item.request_id for item in state.mail) == sorted(item.request_id for item in items)


def test_a_claim_without_an_owner_is_not_live() -> None:
    """A released claim holds nobody off, whatever its deadline."""
    assert not Claim(epoch=3, deadline=time.time() + 60).live()
