"""Summaries in place of what is left out of a long conversation."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from test_context_policy import TURNS, flat, said

from thoughtgear import Limits, Price, PromptHandler, Summarise, Trim, tool
from thoughtgear.adapters.memory import MemoryAdapter
from thoughtgear.context import LEFT_OUT, tokens_of
from thoughtgear.deletion import delete_run, delete_user
from thoughtgear.errors import ModelRejectedError, ModelUnavailableError, RunNotFoundError
from thoughtgear.models import Message, Usage
from thoughtgear.protocols import ModelReply, ModelRequest, OnText, RequestedCall
from thoughtgear.registry import open_store
from thoughtgear.summaries import INSTRUCTION, SUMMARY, Fitted, Summaries, Summary, Terms, _key
from thoughtgear.testing import new_run
from thoughtgear.transfer import StoreCopy

BUDGET = 2000
COUNTED = Usage(input_tokens=100, output_tokens=10)
PRICES = {"m": Price(input=10.0, output=0.0)}
Write = Callable[[ModelRequest, int], ModelReply]


@tool
def look(path: str) -> str:
    """Look at a file."""
    return path * 100


def summary(request: ModelRequest, number: int) -> ModelReply:
    return ModelReply(f"Summary {number}.", usage=COUNTED)


class Model:
    """Calls a tool a number of times, and then answers; what it writes as a summary is `write`'s."""

    model = "m"

    def __init__(self, calls: int, write: Write = summary) -> None:
        self.calls, self.write = calls, write
        self.requests: list[ModelRequest] = []
        self.summaries: list[ModelRequest] = []
        self.fails_with: Exception | None = None
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        if request.context.startswith(INSTRUCTION[:40]):
            self.summaries.append(request)
            if self.meanwhile is not None:
                await self.meanwhile()
            return self.write(request, len(self.summaries))
        if self.fails_with is not None and SUMMARY in text_of(request):
            raised, self.fails_with = self.fails_with, None
            raise raised
        self.requests.append(request)
        if len(self.requests) % (self.calls + 1):
            call = RequestedCall("look", f'{{"path": "p{len(self.requests):03}"}}')
            return ModelReply(calls=[call], usage=COUNTED, model="m")
        return ModelReply("Done.", usage=COUNTED, model="m")

    async def aclose(self) -> None:
        pass


def text_of(request: ModelRequest) -> str:
    return "\n".join(message.text for message in request.messages)


def handler_of(model: Model, db: str, **more: object) -> PromptHandler:
    given = {"context_policy": Summarise(tokens=BUDGET), "prices": PRICES, **more}
    return PromptHandler(model=model, db=db, tools=[look], **given)  # type: ignore[arg-type]


@pytest.fixture
def db(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db"


async def test_a_long_run_goes_on_from_its_summaries(db: str) -> None:
    """What is left out stands in one summary, made of the one before it and the turns since; each is bought
    once and is on the run's bill; the prompt is always sent, and the transcript stays whole."""
    model = Model(40)
    async with handler_of(model, db) as handler:
        state = await handler.handle_prompt("Look at all.")
        history = await handler.history(state.run_id)
    assert (state.status, len(history)) == ("done", 82)
    sent = [sum(map(tokens_of, request.messages)) for request in model.requests]
    assert max(sent) <= BUDGET
    bought = len(model.summaries)
    assert 2 < bought < 20
    for before, request in enumerate(model.summaries):
        [asked] = request.messages
        assert (f"Summary {before}." in asked.text) == (before > 0)
        room = len(request.context) // 4 + Summarise(BUDGET).note_tokens
        assert tokens_of(asked) + room <= BUDGET + 15
        assert not request.tools
    last = model.requests[-1]
    assert [message.text for message in last.messages[:2]] == [
        "Look at all.",
        f"{SUMMARY}\n\nSummary {bought}.",
    ]
    covered = "".join(request.messages[0].text for request in model.summaries)
    kept = "".join(str(message.tool_calls) for message in last.messages)
    assert all((f"p{n:03}" in covered) != (f"p{n:03}" in kept) for n in range(1, 41))
    assert state.usage == Usage(input_tokens=100 * (41 + bought), output_tokens=10 * (41 + bought))
    assert state.cost == pytest.approx((41 + bought) * 0.001)


async def test_a_summary_is_not_bought_again_after_a_crash(db: str) -> None:
    """An attempt that dies between a summary and its own commit leaves the summary in the store: the next
    one, of another process, sends it, and counts it once."""
    model = Model(20, lambda request, n: ModelReply(f"Summary {n}.", usage=COUNTED, model="m"))
    model.fails_with = RuntimeError("dies")
    async with handler_of(model, db) as handler:
        state = await handler.handle_prompt("Look.")
    counted = len(model.requests)
    assert (state.status, len(model.summaries)) == ("failed", 1)
    assert state.usage.input_tokens == 100 * counted
    async with handler_of(model, db) as handler:
        state = await handler.retry(state.run_id)
    bought = len(model.summaries)
    assert state.status == "done"
    assert "Summary 1." in text_of(model.requests[counted])
    assert state.usage.input_tokens == 100 * (21 + bought)
    assert state.cost == pytest.approx((21 + bought) * 0.001)


@pytest.mark.parametrize("limit", ["cost", "tokens"])
async def test_summaries_end_a_run_at_its_limit(db: str, limit: str) -> None:
    """A run that reaches its limit of dollars or tokens by summaries buys no more of them, and no reply; what
    it has bought is on its bill."""
    model = Model(60)
    async with handler_of(model, db, context_policy=None) as handler:
        await handler.handle_prompt("Look.", session_id="s")
    asked = len(model.requests)
    limits = Limits(cost=0.002) if limit == "cost" else Limits(tokens=220)
    async with handler_of(model, db, limits=limits) as handler:
        state = await handler.handle_prompt("Again.", session_id="s")
    assert state.error is not None
    assert (state.status, state.error.type) == ("failed", "LimitExceededError")
    assert f"Limits({limit}=…)" in state.error.message
    assert (len(model.summaries), len(model.requests)) == (2, asked)
    assert state.usage == Usage(input_tokens=200, output_tokens=20)
    assert state.bill.spent == pytest.approx(0.002)


async def test_the_runs_of_a_session_share_their_summaries(db: str) -> None:
    """What one run of a session had summarised of the earlier ones, the next one finds; deleting a run of the
    session deletes its summaries, those too that tell of later runs."""
    model = Model(30)
    async with handler_of(model, db) as handler:
        first = await handler.handle_prompt("Look.", session_id="s")
        await handler.handle_prompt("Again.", session_id="s")
        shown = [text for text in map(text_of, model.requests) if text.endswith("Again.")]
        before = len(model.summaries)
        model.calls = 0
        model.requests.clear()
        state = await handler.handle_prompt("And again.", session_id="s")
        mine = len(model.summaries)
        assert mine == before
        state = await handler.handle_prompt("Once more.", session_id="s")
        assert (state.status, len(model.summaries)) == ("done", mine)
        assert SUMMARY in text_of(model.requests[-1])
        assert await handler.store.list_documents("files")
        await delete_run(handler.store, first.run_id)
        assert await handler.store.list_documents("files") == []
    assert shown


@pytest.mark.parametrize("session", ["s", None])
async def test_a_summary_that_comes_after_the_deletion_of_its_user_does_not_stay(
    db: str, session: str | None
) -> None:
    """A user who is deleted while a summary is written leaves nothing: it is stored after the runs are gone,
    and removed again."""
    model = Model(20)
    async with handler_of(model, db) as handler:

        async def delete() -> None:
            model.meanwhile = None
            await delete_user(handler.store, "ann", force=True)

        model.meanwhile = delete
        with pytest.raises(RunNotFoundError):
            await handler.handle_prompt("Look.", session_id=session, user_id="ann")
        assert model.summaries
        assert await handler.store.list_documents("files") == []


async def test_the_summary_of_a_run_that_is_deleted_meanwhile_does_not_stay(db: str) -> None:
    """A run that has an earlier one of its session summarised while that is deleted stores no summary of it,
    and goes on with what it has bought: none is bought twice."""
    model = Model(20)
    async with handler_of(model, db, context_policy=None) as handler:
        first = await handler.handle_prompt("Look.", session_id="s")
    async with handler_of(model, db) as handler:

        async def delete() -> None:
            model.meanwhile = None
            await delete_run(handler.store, first.run_id)

        model.meanwhile = delete
        state = await handler.handle_prompt("Again.", session_id="s")
        assert state.status == "done"
        assert await handler.store.list_documents("files") == []
    asked = [request.messages[0].text for request in model.summaries]
    assert len(asked) == len(set(asked)) < 10


async def test_deleting_a_damaged_run_deletes_all_summaries(tmp_path: Path) -> None:
    """Of a run that can't be read nobody knows the session: its deletion by force deletes the summaries of
    all sessions."""
    model = Model(20)
    async with handler_of(model, f"sqlite:///{tmp_path}/runs.db") as handler:
        state = await handler.handle_prompt("Look.", session_id="s")
        assert await handler.store.list_documents("files")
        with closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
            connection.execute("UPDATE run_states SET body = '{'")
            connection.commit()
        await delete_run(handler.store, state.run_id, force=True)
        assert await handler.store.list_documents("files") == []


async def test_a_copy_leaves_summaries_behind(db: str, tmp_path: Path) -> None:
    """Summaries are not copied, and two stores that both have one are copied without a conflict."""
    async with handler_of(Model(20), db) as handler:
        target = open_store(f"sqlite:///{tmp_path}/other.db")
        await handler.handle_prompt("Look.", session_id="s")
        await StoreCopy(handler.store, target).run()
        assert await target.list_documents("files") == []
        [key, *_] = await handler.store.list_documents("files")
        await target.put_document("files", key, b"its own", tag=None)
        assert (await StoreCopy(handler.store, target).run()).complete
        assert await target.list_documents("files") == [key]
        await target.aclose()


@pytest.mark.parametrize("how", ["rejected", "unavailable", "empty", "blank"])
async def test_without_a_summary_it_is_trimmed(db: str, how: str) -> None:
    """A summary that can't be had costs the run nothing but what was counted: a note stands in its place, and
    the same one isn't asked for at once again."""

    def write(request: ModelRequest, number: int) -> ModelReply:
        if how == "rejected":
            raise ModelRejectedError("no")
        if how == "unavailable":
            raise ModelUnavailableError("later", begun=True)
        return ModelReply("" if how == "empty" else " \n", usage=COUNTED)

    model = Model(24, write)
    async with handler_of(model, db) as handler:
        state = await handler.handle_prompt("Look.")
    assert (state.status, state.lost_replies) == ("done", 0)
    assert LEFT_OUT in text_of(model.requests[-1])
    assert SUMMARY not in text_of(model.requests[-1])
    paid = len(model.summaries) if how in ("empty", "blank") else 0
    assert state.usage.input_tokens == 100 * (25 + paid)
    assert len(model.summaries) <= 3


async def test_of_two_that_are_bought_at_once_one_stays() -> None:
    """Two workers that buy the same summary at once send the same one, and each has its own on the bill."""
    store, both = MemoryAdapter(), asyncio.Barrier(2)
    await store.save_run(new_run("r", version=1), [])
    policy = Summarise(tokens=BUDGET)
    own = flat([said("user", 5), *[said("assistant", 3000) for _ in range(3)]])
    numbered = [message.model_copy(update={"seq": seq}) for seq, message in enumerate(own)]
    plan = policy.plan([], "r", numbered, "", [])
    assert len(plan.cuts) == 1

    async def worker(name: str) -> tuple[str, list[tuple[Usage, float | None]]]:
        async def buy(request: ModelRequest) -> ModelReply:
            await both.wait()
            return ModelReply(f"By {name}.", usage=COUNTED)

        terms, fitted = Terms("r", 0, "r/summary-", lambda paid: True, buy, lambda reply: 0.5), Fitted()
        await Summaries(store).fit(policy, plan, terms, fitted)
        return "".join(message.text for message in fitted.messages), fitted.paid

    async with asyncio.timeout(10):
        (one, paid), (other, paid_too) = await asyncio.gather(worker("one"), worker("other"))
    assert one == other
    assert paid == paid_too == [(COUNTED, 0.5)]


async def test_a_longer_context_buys_no_summaries_anew(db: str) -> None:
    """Where the context has another length, the next run of a session goes on from the summaries that are
    there: it buys one more at the most, and back at the old length none."""
    model = Model(40)
    async with handler_of(model, db) as handler:
        await handler.handle_prompt("Look.", session_id="s")
    before, model.calls = len(model.summaries), 0
    assert before > 2
    async with handler_of(model, db, context="x" * 2000) as handler:
        await handler.handle_prompt("Again.", session_id="s")
    longer = len(model.summaries)
    assert longer <= before + 1
    async with handler_of(model, db) as handler:
        await handler.handle_prompt("Once more.", session_id="s")
    assert len(model.summaries) == longer
    assert SUMMARY in text_of(model.requests[-1])


async def test_a_prompt_beyond_the_budget_has_no_summary_bought_for_each_turn(db: str) -> None:
    """Where the prompt alone is over the budget, a summary is bought for no less than an eighth of it, and no
    more than that is sent on top of what has to be."""
    model, prompt = Model(40), "x" * 4 * BUDGET
    async with handler_of(model, db) as handler:
        state = await handler.handle_prompt(prompt)
        history = await handler.history(state.run_id)
    assert state.status == "done"
    said = sum(map(tokens_of, history[1:]))
    assert 1 < len(model.summaries) <= said // (BUDGET // 8)
    turn = max(tokens_of(one) + tokens_of(two) for one, two in pairwise(history[1:]))
    most = tokens_of(history[0]) + BUDGET // 8 + turn + Summarise(BUDGET).note_tokens
    assert max(sum(map(tokens_of, request.messages)) for request in model.requests) <= most


async def test_a_summary_that_a_dead_writer_left_of_a_deleted_run_is_not_sent(db: str) -> None:
    """A summary that tells of a deleted run, whose writer ended before it could remove it, is sent to nobody,
    and is removed; what is bought in its place stays for the next run."""
    model = Model(20)
    async with handler_of(model, db) as handler:
        await handler.handle_prompt("Look.", session_id="s")
        for key in await handler.store.list_documents("files"):
            document = await handler.store.get_document("files", key)
            assert document is not None
            told = Summary.model_validate_json(document.value)
            told = told.model_copy(update={"text": "Of the gone.", "runs": [*told.runs, "gone"]})
            await handler.store.put_document("files", key, told.model_dump_json().encode(), tag=document.tag)
        before, model.calls = len(model.requests), 0
        bought = len(model.summaries)
        await handler.handle_prompt("Again.", session_id="s")
        anew = len(model.summaries) - bought
        await handler.handle_prompt("Once more.", session_id="s")
        keys = await handler.store.list_documents("files")
        left = [await handler.store.get_document("files", key) for key in keys]
    assert 0 < anew == len(model.summaries) - bought
    asked = [*model.requests[before:], *model.summaries[bought:]]
    assert not any("Of the gone." in text_of(request) for request in asked)
    assert len(left) >= anew
    assert not any(document is None or b"gone" in document.value for document in left)


async def test_a_summary_made_of_one_that_tells_of_a_deleted_run_does_not_stay() -> None:
    """What was made of a summary that tells of a run that is gone by then is not stored either."""
    store, policy = MemoryAdapter(), Summarise(tokens=BUDGET)
    for run_id in ("r", "gone"):
        await store.save_run(new_run(run_id, version=1), [])
    own = flat([said("user", 5), *[said("assistant", 3000) for _ in range(6)]])
    numbered = [message.model_copy(update={"seq": seq}) for seq, message in enumerate(own)]

    async def buy(request: ModelRequest) -> ModelReply:
        if "Summary of what came before" in text_of(request):
            await store.delete_run("gone")
        return ModelReply("text")

    terms = Terms("r", 0, "r/summary-", lambda paid: True, buy, lambda reply: None)
    await Summaries(store).fit(policy, policy.plan([], "r", numbered[:4], "", []), terms, Fitted())
    [key] = await store.list_documents("files")
    document = await store.get_document("files", key)
    assert document is not None
    told = Summary.model_validate_json(document.value).model_copy(update={"runs": ["r", "gone"]})
    await store.put_document("files", key, told.model_dump_json().encode(), tag=document.tag)
    await Summaries(store).fit(policy, policy.plan([], "r", numbered, "", []), terms, fitted := Fitted())
    assert SUMMARY in "".join(message.text for message in fitted.messages)
    assert await store.list_documents("files") == [key]


def numbered(*parts: list[Message]) -> list[Message]:
    return [message.model_copy(update={"seq": seq}) for seq, message in enumerate(flat(list(parts)))]


async def test_what_is_made_of_another_workers_summary_names_the_runs_of_that_one() -> None:
    """A summary made of one that another worker has stored first does not stay where a run that the other
    one tells of is deleted meanwhile, though this worker does not see that run."""
    store, policy = MemoryAdapter(), Summarise(tokens=BUDGET)
    for run_id in ("r", "x"):
        await store.save_run(new_run(run_id, version=1), [])
    own = numbered(said("user", 5), *[said("assistant", 3000) for _ in range(6)])
    plan, asked = policy.plan([], "r", own, "", []), list[str]()
    assert len(plan.cuts) > 1

    async def buy(request: ModelRequest) -> ModelReply:
        asked.append(request.messages[0].text)
        if len(asked) == 1:
            other = Summary(text="Of x.", bought_by="x", runs=["r", "x"])
            await store.put_document("files", first, other.model_dump_json().encode(), tag=None)
        elif len(asked) == 2:
            await store.delete_run("x")
            await Summaries(store)._remove(first)
        return ModelReply("text")

    terms = Terms("r", 0, "r/summary-", lambda paid: True, buy, lambda reply: None)
    first = _key(plan, plan.cuts[0], terms)
    await Summaries(store).fit(policy, plan, terms, Fitted())
    assert "Of x." in asked[1]
    assert await store.list_documents("files") == []


async def test_a_damaged_summary_is_written_anew_and_a_long_one_is_cut() -> None:
    """What can't be read counts as absent; what is longer than its room is cut to it."""
    store, policy = MemoryAdapter(), Summarise(tokens=BUDGET)
    await store.save_run(new_run("r", version=1), [])
    own = flat([said("user", 5), *[said("assistant", 3000) for _ in range(3)]])
    numbered = [message.model_copy(update={"seq": seq}) for seq, message in enumerate(own)]
    plan = policy.plan([], "r", numbered, "", [])

    async def buy(request: ModelRequest) -> ModelReply:
        return ModelReply("x" * 100_000)

    terms = Terms("r", 0, "r/summary-", lambda paid: True, buy, lambda reply: None)
    await Summaries(store).fit(policy, plan, terms, Fitted())
    [key] = await store.list_documents("files", "r/")
    document = await store.get_document("files", key)
    assert document is not None
    await store.put_document("files", key, b"{", tag=document.tag)
    await Summaries(store).fit(policy, plan, terms, fitted := Fitted())
    assert [len(each.text) for each in fitted.messages if SUMMARY in each.text] == [len(SUMMARY) + 2 + 1000]


@settings(max_examples=200, deadline=None)
@given(TURNS, TURNS)
def test_what_a_cut_leaves_out_is_what_may_be(
    before: Sequence[list[Message]], after: Sequence[list[Message]]
) -> None:
    """Sent is all but those turns before the last cut that may be left out; each cut is further than the one
    before it, and what is sent by it fits or is hardly more than what has to be sent."""
    earlier, own = flat([said("user", 5), *before]), flat([said("user", 9), *after])
    for policy in (Summarise(1000), Trim(1000)):
        plan = policy.plan([("a", message) for message in earlier], "b", own, "context", [])
        assert list(plan.cuts) == sorted(set(plan.cuts))
        cut = plan.cuts[-1] if plan.cuts else 0
        gone = {id(message) for part in plan.parts[:cut] if part.optional for message in part.turn}
        kept = [message for message in plan.joined("note") if message.text != "note"]
        assert [id(m) for m in [*earlier, *own] if id(m) not in gone] == [id(m) for m in kept]
        assert not plan.cuts or plan.fits(cut)


@pytest.mark.parametrize("how", ["refused", "too large", "unavailable"])
async def test_summaries_are_on_the_bill_of_a_run_whose_reply_is_lost(db: str, how: str) -> None:
    """Whether the model refuses what is asked with a summary, answers beyond the limits, or is out for a
    while: what the summaries cost is on the bill, once each; a reply beyond the limits is, too."""
    model = Model(20)
    answer, lost = model.reply, []

    async def reply(request: ModelRequest, on_text: OnText) -> ModelReply:
        if SUMMARY not in text_of(request) or request.context.startswith(INSTRUCTION[:40]) or len(lost) > 1:
            return await answer(request, on_text)
        lost.append(request)
        if how == "refused":
            raise ModelRejectedError("no")
        if how == "unavailable":
            raise ModelUnavailableError("later", retry_after=0.01)
        return ModelReply("x" * 5000, usage=COUNTED, model="m")

    model.reply = reply  # type: ignore[method-assign]
    async with handler_of(model, db, limits=Limits(reply_bytes=4000)) as handler:
        state = await handler.handle_prompt("Look.")
    assert (state.status, len(lost)) == (("done", 2) if how == "unavailable" else ("failed", 1))
    assert model.summaries
    paid = len(model.requests) + len(model.summaries) + (how == "too large")
    assert state.usage.input_tokens == 100 * paid
    assert state.bill.spent == pytest.approx(paid * 0.001)


async def test_an_empty_summary_is_on_the_bill_of_a_lost_reply(db: str) -> None:
    """What an empty summary cost is on the bill, though the reply after it is lost."""
    model = Model(20, lambda request, n: ModelReply(" ", usage=COUNTED, model="m"))
    answer = model.reply

    async def reply(request: ModelRequest, on_text: OnText) -> ModelReply:
        if LEFT_OUT in text_of(request):
            raise ModelRejectedError("no")
        return await answer(request, on_text)

    model.reply = reply  # type: ignore[method-assign]
    async with handler_of(model, db) as handler:
        state = await handler.handle_prompt("Look.")
    assert (state.status, len(model.summaries)) == ("failed", 1)
    assert state.usage.input_tokens == 100 * (len(model.requests) + 1)


async def test_summaries_are_on_the_bill_of_a_run_that_is_cancelled(db: str) -> None:
    """A run that is cancelled while it waits for its reply has the summaries before it on its bill."""
    model = Model(20)
    answer, asked = model.reply, asyncio.Event()

    async def reply(request: ModelRequest, on_text: OnText) -> ModelReply:
        if SUMMARY in text_of(request) and not request.context.startswith(INSTRUCTION[:40]):
            asked.set()
            await asyncio.Event().wait()
        return await answer(request, on_text)

    model.reply = reply  # type: ignore[method-assign]
    async with asyncio.timeout(30), handler_of(model, db) as handler:
        run = await handler.handle_prompt("Look.", wait=False)
        await asked.wait()
        await handler.cancel(run.run_id)
        state = await handler.wait(run.run_id)
    assert state.status == "cancelled"
    assert state.usage.input_tokens == 100 * (len(model.requests) + len(model.summaries))


@pytest.mark.parametrize("dies", [False, True])
async def test_a_summary_is_billed_once_by_a_run_that_is_cancelled_and_retried(db: str, dies: bool) -> None:
    """A run that is cancelled while it has its second summary written has the first one on its bill, be it of
    this attempt or of one that died, and does not count it again when it is retried."""
    model, asked = Model(60), asyncio.Event()
    model.write = lambda request, n: ModelReply(f"Summary {n}.", usage=COUNTED, model="m")
    async with asyncio.timeout(30), handler_of(model, db, context_policy=None) as handler:
        await handler.handle_prompt("Look.", session_id="s")

    async def stop_at_the_second() -> None:
        if len(model.summaries) == 2 and dies:
            raise RuntimeError("dies")
        if len(model.summaries) == 2 + dies:
            asked.set()
            await asyncio.Event().wait()

    before, model.calls, model.meanwhile = len(model.requests), 0, stop_at_the_second
    async with asyncio.timeout(30), handler_of(model, db) as handler:
        run = await handler.handle_prompt("Again.", session_id="s", wait=False)
        if dies:
            assert (await handler.wait(run.run_id)).usage.input_tokens == 0
            await handler.retry(run.run_id, wait=False)
        await asked.wait()
        await handler.cancel(run.run_id)
        cancelled = await handler.wait(run.run_id)
        model.meanwhile = None
        state = await handler.retry(run.run_id)
    assert (cancelled.status, cancelled.usage.input_tokens) == ("cancelled", 100)
    assert (state.status, len(model.requests) - before) == ("done", 1)
    bought = len(model.summaries) - 1 - dies + 1  # those that came, and the reply
    assert state.usage.input_tokens == 100 * bought
    assert state.bill.spent == pytest.approx(0.001 * bought)
