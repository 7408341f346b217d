"""Who may write: claims with epoch and deadline, the inbox, and what readers see meanwhile.

These clauses drive the library's own commit protocol (`RunWriter`) and `PromptHandler` over the store.
"""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from thoughtgear.errors import ConflictError, SupersededError
from thoughtgear.models import Message, RunState
from thoughtgear.protocols import Attempt, ModelRequest, OrmAdapter, RunFilter
from thoughtgear.testing.attempts import (
    PROMPT,
    RUN,
    CountingModel,
    adds,
    answers,
    asks,
    handler_for,
    latest_writer,
    prompted,
    send,
    settles,
    take_and_add,
    writer_for,
)
from thoughtgear.testing.case import StoreCase, append, assert_standing, new_run, texts_of
from thoughtgear.testing.faulty import FaultyStore
from thoughtgear.transitions import end_run, mark_started

FOLDED = 140
"""So many commits of one message that every store has folded the first ones into something larger."""


class OwnershipClauses(StoreCase):
    """One run, several attempts at it."""

    async def test_a_stale_attempt_takes_nothing_over(self, store: OrmAdapter) -> None:
        """Who loaded the run before its holder ended it is superseded, whatever it wants to commit."""
        holder = writer_for(store, await prompted(store))
        await holder.claim()
        stale, outside = await latest_writer(store), await latest_writer(store)
        ended = await holder.commit(answers())
        for other, change in ((stale, answers("again")), (outside, partial(end_run, status="failed"))):
            with pytest.raises(SupersededError):
                await other.commit(change)
        await assert_standing(store, ended, PROMPT, "hi")

    async def test_a_higher_epoch_fences_the_holder(self, store: OrmAdapter) -> None:
        """A holder learns at its next commit that a newer attempt has claimed the run; nothing is written."""
        holder = writer_for(store, await prompted(store))
        await holder.claim()
        newer = await latest_writer(store)
        await newer.claim()
        assert newer.state.claim.epoch == holder.state.claim.epoch + 1
        for change in (asks(), adds("late"), partial(end_run, status="cancelled")):
            with pytest.raises(SupersededError):
                await holder.commit(change)
        await assert_standing(store, newer.state, PROMPT)

    async def test_a_zombie_that_never_claimed_is_fenced(self, store: OrmAdapter) -> None:
        """The first attempt of a driver that serialises claims with its first commit; one that comes after a
        newer attempt's claim is refused."""
        zombie = writer_for(store, await prompted(store), serialised=True)
        assert not zombie.must_claim_first
        newer = await latest_writer(store, serialised=True, number=2)
        await newer.claim()
        with pytest.raises(SupersededError):
            await zombie.commit(answers())
        await assert_standing(store, newer.state, PROMPT)

    async def test_attempts_of_one_number_are_two_owners(self, store: OrmAdapter) -> None:
        """An attempt whose number a driver gives again (a reset activity) fences the older one, too."""
        frozen = writer_for(store, await prompted(store), scope="activity")
        await frozen.commit(asks(policy="at_most_once"))
        again = await latest_writer(store, scope="activity")
        assert again.must_claim_first
        await again.claim()
        with pytest.raises(SupersededError):
            await frozen.commit(partial(mark_started, call_id="1.0"))
        await assert_standing(store, again.state, PROMPT, "")

    async def test_a_live_deadline_keeps_others_off(self, store: OrmAdapter) -> None:
        """While a claim lives, an attempt of another driver reports in_progress: it buys no reply and writes
        nothing."""
        holder = writer_for(store, await prompted(store), hold=60)
        await holder.claim()
        model = CountingModel("never")
        result = await handler_for(store, model).run_iteration(RUN, 1, Attempt(driver="other"))
        assert (result.status, result.version) == ("in_progress", holder.state.version)
        assert 0 < result.wait <= 60
        assert model.asked == 0
        await assert_standing(store, holder.state, PROMPT)

    async def test_an_expired_deadline_lets_others_on(self, store: OrmAdapter) -> None:
        """When a claim's deadline has passed, the next attempt goes on from the last commit and fences the
        holder."""
        holder = writer_for(store, await prompted(store), hold=0)
        await holder.commit(adds("said by the dead"))
        model = CountingModel("hi")
        result = await handler_for(store, model).run_iteration(RUN, 1, Attempt(driver="other"))
        assert (result.status, model.asked) == ("done", 1)
        with pytest.raises(SupersededError):
            await holder.commit(asks())
        assert await texts_of(store, RUN) == [PROMPT, "said by the dead", "hi"]

    async def test_a_later_attempt_of_the_scope_takes_over_early(self, store: OrmAdapter) -> None:
        """A retry of what the driver serialises need not wait for the deadline."""
        holder = writer_for(store, await prompted(store), scope="activity", hold=60)
        await holder.claim()
        model = CountingModel("hi")
        retry = Attempt(driver="test", scope="activity", number=2)
        assert (await handler_for(store, model).run_iteration(RUN, 1, retry)).status == "done"
        with pytest.raises(SupersededError):
            await holder.commit(answers("late"))
        assert await texts_of(store, RUN) == [PROMPT, "hi"]

    async def test_an_iteration_is_done_once(self, store: OrmAdapter) -> None:
        """Of many deliveries of one iteration one buys the reply and saves it; the others say so."""
        await prompted(store)

        async def slowly(_: ModelRequest) -> str:
            await asyncio.sleep(0.05)
            return "hi"

        model = CountingModel(slowly)
        handler = handler_for(store, model)
        attempts = (handler.run_iteration(RUN, 1, Attempt(driver=f"d{number}")) for number in range(6))
        ended = await asyncio.gather(*attempts, return_exceptions=True)
        superseded = [each for each in ended if isinstance(each, SupersededError)]
        told = [each.status for each in ended if not isinstance(each, BaseException)]
        assert len(superseded) + len(told) == 6
        assert told.count("done") == 1
        assert set(told) <= {"done", "in_progress"}
        assert model.asked == 1
        assert await texts_of(store, RUN) == [PROMPT, "hi"]

    async def test_a_grown_inbox_is_carried_over(self, store: OrmAdapter) -> None:
        """A message that is sent between a holder's load and its commit stays, and the commit is made."""
        faulty = FaultyStore(store)
        holder = writer_for(faulty, await prompted(store))
        faulty.interrupt(lambda: send(store, "wait!"))
        state = await holder.commit(asks())
        assert faulty.fired == 1
        assert ([item.text for item in state.mail], len(state.ledger)) == (["wait!"], 1)
        await assert_standing(store, state, PROMPT, "")

    async def test_done_gives_way_to_a_message_that_just_came(self, store: OrmAdapter) -> None:
        """A message that lands while the answer is being saved keeps the run from being done; it is read
        before the next reply, once."""
        faulty, run = FaultyStore(store), await prompted(store)
        seen: list[list[str]] = []

        def say(request: ModelRequest) -> str:
            seen.append([message.text for message in request.messages])
            return f"answer {len(seen)}"

        handler = handler_for(faulty, CountingModel(say, say))
        faulty.interrupt(lambda: send(store, "wait!"))
        attempt = Attempt(driver="test", serialised=True)
        assert (await handler.run_iteration(run.run_id, 1, attempt)).status == "running"
        assert faulty.fired == 1
        assert (await handler.run_iteration(run.run_id, 2, attempt)).status == "done"
        assert seen == [[PROMPT], [PROMPT, "answer 1", "wait!"]]
        assert await texts_of(store, RUN) == [PROMPT, "answer 1", "wait!", "answer 2"]
        assert (await store.load_run(RUN)).mail == []

    async def test_mail_to_a_run_that_ends_stays(self, store: OrmAdapter) -> None:
        """A message that was acknowledged and never answered is in the transcript of the run that failed."""
        await prompted(store)
        await send(store, "too late")
        state = await (await latest_writer(store)).commit(partial(end_run, status="failed"))
        await assert_standing(store, state, PROMPT, "too late")

    async def test_senders_and_a_holder_lose_nothing(self, store: OrmAdapter) -> None:
        """Ten concurrent senders, each sending twice, and a committing holder lose and double nothing."""
        holder = writer_for(store, await prompted(store))
        sending = [send(store, f"m{number}") for number in [*range(10), *range(10)]]
        await asyncio.gather(holder.claim(), *sending)
        state = await store.load_run(RUN)
        assert sorted(item.text for item in state.mail) == sorted(f"m{number}" for number in range(10))
        assert state.claim == holder.state.claim

    async def test_a_terminal_step_settles_every_open_call(self, store: OrmAdapter) -> None:
        """A terminal step from outside fences the holder, gives its call a result and ends the run, in one
        commit; a call that was started is `unknown`."""
        holder = writer_for(store, await prompted(store))
        await holder.commit(asks(policy="at_most_once"))
        started = await holder.commit(partial(mark_started, call_id="1.0"))
        ended = await (await latest_writer(store)).commit(partial(end_run, status="cancelled"))
        with pytest.raises(SupersededError):
            await holder.commit(settles())
        assert ended.version == started.version + 1
        assert (ended.status, ended.ledger, ended.claim.live()) == ("cancelled", [], False)
        assert await store.load_run(RUN) == ended
        result = (await store.get_history(RUN))[-1].tool_result
        assert result is not None
        assert (result.call_id, result.status) == ("1.0", "unknown")

    async def test_a_late_write_below_what_was_folded_loses(self, store: OrmAdapter) -> None:
        """A commit that was on its way while others made that version, and so many more that it is folded
        away, is refused, and changes nothing; also a creation, and one that was read long ago."""
        old = await prompted(store)
        faulty, created = FaultyStore(store), new_run(RUN)
        late = writer_for(faulty, old)
        faulty.interrupt(lambda: _commit_many(store, FOLDED))
        with pytest.raises(SupersededError):
            await late.commit(asks())
        assert faulty.fired == 1
        state, texts = await store.load_run(RUN), [PROMPT, *(f"{number}" for number in range(FOLDED))]
        await assert_standing(store, state, *texts)
        for stale in (created, old):
            with pytest.raises(ConflictError):
                await append(store, stale, "late")
        await assert_standing(store, await append(store, state, "on"), *texts, "on")

    async def test_a_writer_reads_what_it_wrote(self, store: OrmAdapter) -> None:
        """After each acknowledgement the state, its messages and its place in the lists are there."""
        writer = writer_for(store, await prompted(store))
        for number in range(1, 11):
            for change in (asks(number), settles(number)):
                state = await writer.commit(change)
                assert await store.load_run(RUN) == state
                last = await store.get_history(RUN, after=state.message_count - 2)
                assert [message.seq for message in last] == [state.message_count - 1]
            assert (await store.list_runs(RunFilter(status="running"))).runs == [state]
        done = await writer.commit(answers())
        assert (await store.list_runs(RunFilter(status="running"))).runs == []
        assert (await store.list_runs(RunFilter(status="done"))).runs == [done]

    async def test_a_transcript_has_no_gap_whoever_writes(self, store: OrmAdapter) -> None:
        """Attempts that take the run from one another, and senders beside them, leave seqs without a gap and
        each acknowledged message exactly once."""
        await prompted(store)
        attempts = [asyncio.create_task(take_and_add(store, f"a{number}", 5)) for number in range(4)]
        await asyncio.gather(*(send(store, f"m{number}") for number in range(4)))
        said = await asyncio.gather(*attempts)
        assert len((await store.load_run(RUN)).mail) == 4
        texts = await texts_of(store, RUN)
        acknowledged = [text for each in said for text in each]
        assert sorted(texts) == sorted([PROMPT, *acknowledged])
        for each in said:
            assert [text for text in texts if text in each] == each

    async def test_a_reader_during_a_commit_sees_whole_turns(self, store: OrmAdapter) -> None:
        """Whatever a reader loads while iterations are committed, the ledger is that of the last reply, and
        every message of the state can be read."""
        writer, seen = writer_for(store, await prompted(store)), 0

        async def iterate() -> None:
            for number in range(1, 26):
                for change in (asks(number), settles(number)):
                    await writer.commit(change)
                    await asyncio.sleep(0)

        writing = asyncio.create_task(iterate())
        while not writing.done():
            _assert_whole(*await _look(store))
            seen += 1
            await asyncio.sleep(0)
        await writing
        assert seen > 3


async def _look(store: OrmAdapter) -> tuple[RunState, list[Message]]:
    state = await store.load_run(RUN)
    return state, await store.get_history(RUN, limit=state.message_count)


def _assert_whole(state: RunState, history: list[Message]) -> None:
    assert [message.seq for message in history] == list(range(state.message_count))
    open_call = [f"{state.iteration + 1}.0"] if history[-1].role == "assistant" else []
    assert [row.call.id for row in state.ledger] == open_call
    assert len(history) == 1 + 2 * state.iteration + len(open_call)


async def _commit_many(store: OrmAdapter, count: int) -> None:
    """Commit as another holder, one message after the other."""
    other = await latest_writer(store)
    for number in range(count):
        await other.commit(adds(f"{number}"))
