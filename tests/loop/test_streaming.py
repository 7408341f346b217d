"""What a reader of a run is told: in order, from wherever it begins, and nothing that is not so."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

import pytest
from hooked_store import HookedStore
from hypothesis import given
from hypothesis import strategies as st

from thoughtgear import PromptHandler, StreamEvent, live, streaming, tool
from thoughtgear.adapters.memory import MemoryAdapter
from thoughtgear.cursor import Cursor, Said
from thoughtgear.errors import (
    InvalidInputError,
    ModelRejectedError,
    ModelUnavailableError,
    RunNotFoundError,
    StoreError,
    StoreUnavailableError,
)
from thoughtgear.models import RunState
from thoughtgear.protocols import Attempt, ModelReply, ModelRequest, OnText, OrmAdapter
from thoughtgear.providers.scripted import ScriptedProvider, call
from thoughtgear.testing import FaultyStore
from thoughtgear.transfer import runs
from thoughtgear.transfer.report import Count
from thoughtgear.transfer.runs import RunCopier

SECONDS = 20.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to wait: all is written and read at once."""
    monkeypatch.setattr(live, "INTERVAL", 0.01)
    monkeypatch.setattr(streaming, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(streaming, "MOST_PAUSE", 0.05)


@tool
async def shout(word: str) -> str:
    """Say it louder."""
    return word.upper()


SCRIPT = [
    {"text": "First two.", "calls": [{"name": "shout", "arguments": {"word": w}} for w in ("a", "b")]},
    [call("shout", word="c")],
    "All said.",
]


class Gated:
    """Says a reply piece by piece, each when it is let; an error in place of a piece is raised."""

    model = "gated"

    def __init__(self, *replies: Sequence[str | Exception]) -> None:
        self._replies = list(replies)
        self._let = asyncio.Semaphore(0)
        self.said = 0

    def let(self, pieces: int = 1) -> None:
        for _ in range(pieces):
            self._let.release()

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        pieces = self._replies.pop(0)
        for piece in pieces:
            await self._let.acquire()
            if isinstance(piece, Exception):
                raise piece
            await on_text(piece)
            self.said += 1
        return ModelReply(text="".join(map(str, pieces)))

    async def aclose(self) -> None:
        pass


class Listener:
    """Reads a run beside the test."""

    def __init__(self, events: AsyncIterator[StreamEvent]) -> None:
        self.events: list[StreamEvent] = []
        self._source = events
        self._news = asyncio.Condition()
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for event in self._source:
            async with self._news:
                self.events.append(event)
                self._news.notify_all()

    async def until_text(self, text: str) -> None:
        """Return when the last reply says this."""
        async with asyncio.timeout(SECONDS), self._news:
            await self._news.wait_for(lambda: said(self.events)[-1:] == [text])

    async def all(self) -> list[StreamEvent]:
        async with asyncio.timeout(SECONDS):
            await self._task
        return self.events


def said(events: Iterable[StreamEvent]) -> list[str]:
    """What a reader has on its screen: the text of each iteration's reply."""
    texts: dict[int, str] = {}
    for event in events:
        if event.kind == "superseded":
            texts[event.iteration] = ""
        if event.kind == "text":
            texts[event.iteration] = texts.get(event.iteration, "") + event.text
    return list(texts.values())


def story(events: Iterable[StreamEvent]) -> tuple[list[str], list[str]]:
    """The texts, and everything else in order."""
    events = list(events)
    return said(events), [event.kind for event in events if event.kind not in ("text", "superseded")]


async def read(handler: PromptHandler, run_id: str, after: str | None = None) -> list[StreamEvent]:
    async with asyncio.timeout(SECONDS):
        return [event async for event in handler.stream(run_id, after)]


async def test_a_run_is_told_in_order(store: FaultyStore) -> None:
    """Texts, calls, results, iterations and the end come in the order of the transcript."""
    handler = PromptHandler(orm=store, model=ScriptedProvider(replies=SCRIPT), tools=[shout])
    run = await handler.handle_prompt("Go")
    events = await read(handler, run.run_id)
    assert [(event.kind, event.iteration) for event in events] == [
        ("message", 0),
        ("text", 1),
        ("reply", 1),
        ("tool_start", 1),
        ("tool_start", 1),
        ("tool_end", 1),
        ("tool_end", 1),
        ("iteration", 1),
        ("reply", 2),
        ("tool_start", 2),
        ("tool_end", 2),
        ("iteration", 2),
        ("text", 3),
        ("reply", 3),
        ("iteration", 3),
        ("end", 3),
    ]
    assert (events[0].text, events[1].text) == ("Go", "First two.")
    assert events[2].usage is not None
    assert [event.call.id for event in events if event.call] == ["1.0", "1.1", "2.0"]
    assert sorted(event.result.content for event in events if event.result) == ["A", "B", "C"]
    assert (events[-1].status, events[-1].output) == ("done", "All said.")
    moments = [event.at for event in events if event.at is not None]
    assert len(moments) == len(events)
    assert moments == sorted(moments)


async def test_each_cursor_gives_the_same_rest(store: FaultyStore) -> None:
    """Whoever goes on from the cursor of any event gets exactly those that came after it."""
    handler = PromptHandler(orm=store, model=ScriptedProvider(replies=SCRIPT), tools=[shout])
    run = await handler.handle_prompt("Go")
    events = await read(handler, run.run_id)
    for position, event in enumerate(events, 1):
        assert await read(handler, run.run_id, event.cursor) == events[position:]


async def test_pages_leave_nothing_out(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transcript that is read page by page is told as one that is read at once."""
    handler = PromptHandler(orm=store, model=ScriptedProvider(replies=SCRIPT), tools=[shout])
    run = await handler.handle_prompt("Go")
    events = await read(handler, run.run_id)
    for size in (1, 2, 3):
        monkeypatch.setattr(streaming, "PAGE", size)
        assert await read(handler, run.run_id) == events


async def test_text_comes_while_it_is_said(store: FaultyStore) -> None:
    """A reader of a run that was not started for readers gets the reply while it is made, and from the cursor
    of each event, those in the middle of the reply too, another one gets the rest of it."""
    model = Gated(["One, ", "two, ", "three ", "äöü 汉字."], ["Four."])
    handler = PromptHandler(orm=store, model=model)
    run = await handler.create_run("Count")
    listener = Listener(handler.stream(run.run_id))
    async with asyncio.timeout(SECONDS):
        while not (await handler.get_run(run.run_id)).stream:
            await asyncio.sleep(0.01)
    driving = asyncio.create_task(handler.continue_run(run.run_id))
    text = ""
    for piece in ("One, ", "two, ", "three "):
        model.let()
        text += piece
        await listener.until_text(text)
    middle = [event.cursor for event in listener.events if event.kind == "text"]
    others = [Listener(handler.stream(run.run_id, cursor)) for cursor in middle]
    await handler.send(run.run_id, "And?")
    model.let(2)
    await driving
    events = await listener.all()
    assert story(events) == (
        ["One, two, three äöü 汉字.", "Four."],
        ["message", "reply", "iteration", "message", "reply", "iteration", "end"],
    )
    assert not [event for event in events if event.kind == "superseded"]
    for cursor, other in zip(middle, others, strict=True):
        before = events[: [event.cursor for event in events].index(cursor) + 1]
        assert story([*before, *await other.all()]) == story(events)
    for position, event in enumerate(events, 1):
        again = [*events[:position], *await read(handler, run.run_id, event.cursor)]
        assert story(again) == story(events)
        assert not [event for event in again if event.kind == "superseded"]


async def test_a_reader_may_come_in_the_middle_of_a_reply(store: FaultyStore) -> None:
    """Whoever works on a long reply sees that somebody reads now, and tells it from its beginning."""
    model = Gated(["One, ", *["more, "] * 50, "done."])
    handler = PromptHandler(orm=store, model=model)
    run = await handler.create_run("?")
    working = asyncio.create_task(handler.run_iteration(run.run_id, 1, Attempt(watch=0.05)))
    model.let()
    async with asyncio.timeout(SECONDS):
        while not model.said:
            await asyncio.sleep(0.01)
        reader = handler.stream(run.run_id)
        assert (await anext(reader)).kind == "message"
        coming = asyncio.ensure_future(anext(reader))
        while not coming.done() and model.said <= 50:
            model.let()
            await asyncio.wait((coming,), timeout=0.1)
        event = await coming
    assert event.kind == "text"
    assert event.text.startswith("One, ")
    assert not working.done()
    model.let(60)
    await working
    await reader.aclose()


async def test_a_reader_may_come_while_the_model_is_silent(store: FaultyStore) -> None:
    """A reader who comes in the middle of a reply is told what was said so far, and not only when the model
    goes on."""
    model = Gated(["One, ", "two."])
    handler = PromptHandler(orm=store, model=model)
    run = await handler.create_run("?")
    working = asyncio.create_task(handler.run_iteration(run.run_id, 1, Attempt(watch=0.05)))
    model.let()
    async with asyncio.timeout(SECONDS):
        while not model.said:
            await asyncio.sleep(0.01)
    listener = Listener(handler.stream(run.run_id))
    await listener.until_text("One, ")
    model.let()
    await working
    assert said(await listener.all()) == ["One, two."]


async def test_another_attempt_supersedes(store: FaultyStore) -> None:
    """A reply that broke off is marked as superseded when another attempt says something else, once; what a
    reader has then is the saved text alone, also one who was away meanwhile."""
    broken = ModelUnavailableError("It broke off.", begun=True, retry_after=0)
    model = Gated(["The answer ", "is 41", broken], ["No: ", "42."])
    handler = PromptHandler(orm=store, model=model)
    run = await handler.create_run("?", stream=True)
    listener = Listener(handler.stream(run.run_id))
    driving = asyncio.create_task(handler.continue_run(run.run_id))
    model.let(2)
    await listener.until_text("The answer is 41")
    away = listener.events[-1].cursor
    model.let(2)
    await listener.until_text("No: ")
    model.let()
    await driving
    events = await listener.all()
    assert [event.kind for event in events].count("superseded") == 1
    assert story(events) == (["No: 42."], ["message", "reply", "iteration", "end"])
    late = await read(handler, run.run_id, away)
    assert [event.kind for event in late] == ["superseded", "text", "reply", "iteration", "end"]
    assert late[1].text == "No: 42."
    assert not [event for event in await read(handler, run.run_id) if event.kind == "superseded"]


@pytest.mark.parametrize("status", ["cancelled", "failed"])
async def test_the_end_of_a_run_ends_the_stream(store: FaultyStore, status: Any) -> None:
    """A run that is cancelled or fails in the middle of a reply ends its readers; the text that was never
    saved is void."""
    model = Gated(["Half of ", ModelRejectedError("Refused.")])
    handler = PromptHandler(orm=store, model=model)
    run = await handler.create_run("?", stream=True)
    listener = Listener(handler.stream(run.run_id))
    driving = asyncio.create_task(handler.continue_run(run.run_id))
    model.let()
    await listener.until_text("Half of ")
    if status == "cancelled":
        await handler.cancel(run.run_id)
    else:
        model.let()
    await driving
    events = await listener.all()
    assert [event.kind for event in events] == ["message", "text", "superseded", "end"]
    assert events[-1].status == status
    assert (events[-1].error is not None) == (status == "failed")
    assert await read(handler, run.run_id, events[-1].cursor) == []


async def test_a_retried_run_goes_on_after_its_end(store: FaultyStore) -> None:
    """From the cursor of an end a reader gets what a retry brought, and the new end."""
    model = Gated([ModelRejectedError("Refused.")], ["Now."])
    handler = PromptHandler(orm=store, model=model)
    run = await handler.create_run("?")
    model.let(2)
    await handler.continue_run(run.run_id)
    first = await read(handler, run.run_id)
    await handler.retry(run.run_id)
    more = await read(handler, run.run_id, first[-1].cursor)
    assert [event.kind for event in first] == ["message", "end"]
    assert [event.kind for event in more] == ["text", "reply", "iteration", "end"]
    assert (first[-1].status, more[-1].status) == ("failed", "done")


async def test_nobody_reads_and_it_costs_nothing(store: FaultyStore) -> None:
    """A run that nobody reads writes none of its text beside the transcript."""
    hooked = HookedStore(store)

    async def refuse(real: Any, *args: Any, **options: Any) -> Any:
        raise AssertionError(args)

    hooked.hooks = {"put_document": refuse, "get_document": refuse}
    handler = PromptHandler(orm=hooked, model=ScriptedProvider(replies=SCRIPT, chunk=2), tools=[shout])
    run = await handler.handle_prompt("Go")
    assert run.status == "done"


async def test_a_reader_that_stands_still_stops_nobody(store: FaultyStore) -> None:
    """A reader that takes no more events, and one that leaves, are nothing to the run; its text is gone when
    it is over."""
    model = Gated(["One, ", "two, ", "three."])
    handler = PromptHandler(orm=store, model=model)
    run = await handler.create_run("?", stream=True)
    slow, leaves = handler.stream(run.run_id), handler.stream(run.run_id)
    driving = asyncio.create_task(handler.continue_run(run.run_id))
    model.let()
    async with asyncio.timeout(SECONDS):
        for reader in (slow, leaves):
            while (event := await anext(reader)).kind != "text":
                pass
        await leaves.aclose()
        model.let(2)
        state = await driving
        assert (state.status, await live.read(store, run.run_id)) == ("done", None)
        assert said([event, *[event async for event in slow]]) == ["One, two, three."]


async def test_a_long_reply_holds_nobody_up(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text so long that it is read once a minute is read no more often, and its reader is told all the
    same what is saved, and that another attempt begins, as soon as ever."""
    lost = ModelUnavailableError("It broke off.", begun=True, retry_after=0)
    model = Gated(["a" * 60, lost], ["No."])
    handler = PromptHandler(orm=store, model=model)
    run = await handler.create_run("?", stream=True)
    hooked, reads = HookedStore(store), 0

    async def counted(real: Any, *args: Any) -> Any:
        nonlocal reads
        reads += 1
        return await real(*args)

    listener = Listener(streaming.stream(hooked, run.run_id))
    driving = asyncio.create_task(handler.continue_run(run.run_id))
    model.let()
    await listener.until_text("a" * 60)
    hooked.hooks = {"get_document": counted}
    monkeypatch.setattr(live, "RATE", 1)
    model.let(2)
    await driving
    events = await listener.all()
    assert story(events) == (["No."], ["message", "reply", "iteration", "end"])
    assert reads < 5


async def test_a_store_that_is_away_costs_a_reader_time_and_no_event(
    store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faults of the store in any call leave out nothing and double nothing; one that stays away for longer
    than a minute is an error."""
    handler = PromptHandler(orm=store, model=ScriptedProvider(replies=SCRIPT), tools=[shout])
    run = await handler.handle_prompt("Go")
    events = await read(handler, run.run_id)
    hooked, asked = HookedStore(store), 0

    async def away(real: Any, *args: Any, **options: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked % 5 in (1, 3):  # a look is two calls: neither alone is told
            raise StoreUnavailableError("It is away.")
        return await real(*args, **options)

    monkeypatch.setattr(streaming, "PAGE", 2)
    hooked.hooks = {"load_run": away, "get_history": away}
    assert [event async for event in streaming.stream(hooked, run.run_id)] == events
    assert asked > 9
    monkeypatch.setattr(streaming, "PATIENCE", 0.0)
    hooked.hooks = {"load_run": _raise_away}
    with pytest.raises(StoreUnavailableError):
        await anext(streaming.stream(hooked, run.run_id))


async def _raise_away(*_: Any, **__: Any) -> Any:
    raise StoreUnavailableError("It is away.")


async def test_what_is_not_there_is_a_typed_error(store: FaultyStore) -> None:
    """An unknown run, what is no id, what is no cursor, a cursor of another run, and a damaged run are told
    apart."""
    handler = PromptHandler(orm=store, model="scripted:echo")
    run = await handler.handle_prompt("Go")
    with pytest.raises(RunNotFoundError):
        await read(handler, "nothing")
    with pytest.raises(InvalidInputError):
        handler.stream("no id")
    own = str(Cursor.first(run.run_id)).removesuffix("-1.0")
    for cursor in (
        "x",
        "1.2",
        *(own + odd for odd in ("1", "1.2\n", "1.2~3", "-1.0", "9" * 40, "1.2!", "1.٢")),
    ):
        with pytest.raises(InvalidInputError, match="no cursor"):
            handler.stream(run.run_id, cursor)
    with pytest.raises(InvalidInputError, match="was set back"):
        await read(handler, run.run_id, f"{own}7.1")
    twin = await handler.handle_prompt("Go")
    for event in await read(handler, twin.run_id):
        with pytest.raises(InvalidInputError, match="another run"):
            handler.stream(run.run_id, event.cursor)
    hooked = HookedStore(store)

    async def damaged(*_: Any, **__: Any) -> Any:
        raise StoreError("It is damaged.")

    hooked.hooks = {"get_history": damaged}
    with pytest.raises(StoreError, match="damaged"):
        await anext(streaming.stream(hooked, run.run_id))


async def test_a_reply_that_is_saved_between_two_reads_is_told_once(store: FaultyStore) -> None:
    """A reply that is saved after a reader has read the state and before it reads the messages is not told a
    second time from the text that was written while it was made."""
    handler = PromptHandler(orm=store, model=ScriptedProvider(replies=SCRIPT), tools=[shout])
    run = await handler.create_run("Go", stream=True)
    hooked = HookedStore(store)

    async def save_first(real: Any, *args: Any, **options: Any) -> Any:
        hooked.hooks = {}
        await handler.run_iteration(run.run_id, 1)
        writer = live.LiveWriter(store, run.run_id, 1, 1)
        writer.add("First two.", wanted=False)
        await writer.flush()
        return await real(*args, **options)

    hooked.hooks = {"get_history": save_first}
    reader = streaming.Reader(hooked, run.run_id, Cursor.first(run.run_id))
    events = [*await reader.look(), *await reader.look()]
    await handler.continue_run(run.run_id)
    while not reader.over:
        events += await reader.look()
    assert [event.text for event in events if event.kind == "text"] == ["First two.", "All said."]
    assert story(events) == story(await read(handler, run.run_id))


async def test_a_deleted_run_ends_its_readers(store: FaultyStore) -> None:
    """A reader of a run that is deleted meanwhile is told that it is not there any more."""
    handler = PromptHandler(orm=store, model="scripted:echo")
    run = await handler.create_run("Go")
    reader = handler.stream(run.run_id)
    assert (await anext(reader)).kind == "message"
    await store.delete_run(run.run_id)
    with pytest.raises(RunNotFoundError):
        async with asyncio.timeout(SECONDS):
            await anext(reader)


async def test_an_unfinished_copy_is_not_told(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of a run that is being copied into its store waits for the last commit of the copy, and is
    told the whole run then; of a copy that nobody ends it is told that, and no end."""
    handler = PromptHandler(orm=store, model=ScriptedProvider(replies=SCRIPT), tools=[shout])
    run = await handler.handle_prompt("Go")
    target = FaultyStore(MemoryAdapter())
    hooked, copier = HookedStore(target), RunCopier(store, target, Count())

    async def before_the_last(real: Any, draft: RunState, *args: Any, **options: Any) -> Any:
        if draft.version == run.version:
            raise StoreUnavailableError("The copy dies.")
        return await real(draft, *args, **options)

    monkeypatch.setattr(runs, "PAGE", 4)
    hooked.hooks = {"save_run": before_the_last}
    with pytest.raises(StoreUnavailableError):
        await RunCopier(store, hooked, Count()).bring(run)
    reader = streaming.Reader(target, run.run_id, Cursor.first(run.run_id))
    with pytest.raises(StoreUnavailableError, match="copied"):
        await reader.look()
    listener = Listener(streaming.stream(target, run.run_id))
    await copier.bring(run)
    assert await listener.all() == await read(handler, run.run_id)


async def test_a_reader_that_may_not_write_reads(store: FaultyStore) -> None:
    """In a store that takes nothing from it a reader is told each reply when it is saved."""
    handler = PromptHandler(orm=store, model=ScriptedProvider(replies=SCRIPT, chunk=3), tools=[shout])
    run = await handler.create_run("Go")
    hooked = HookedStore(store)

    async def refuse(*_: Any, **__: Any) -> Any:
        raise StoreError("It is read only.")

    hooked.hooks = {"save_run": refuse, "put_document": refuse}
    listener = Listener(streaming.stream(hooked, run.run_id))
    async with asyncio.timeout(SECONDS):
        while not listener.events:
            await asyncio.sleep(0.01)
    await handler.continue_run(run.run_id)
    assert story(await listener.all()) == story(await read(handler, run.run_id))


async def test_a_reader_asks_for_the_text_until_the_store_is_back(store: FaultyStore) -> None:
    """A store that is away when a reader asks for the text is asked again, however often it was away."""
    handler = PromptHandler(orm=store, model=ScriptedProvider(replies=SCRIPT, chunk=3), tools=[shout])
    run = await handler.create_run("Go")
    hooked, asked = HookedStore(store), 0

    async def away_at_first(real: Any, *args: Any, **options: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked < 3 * streaming.MOST_REFUSED:
            raise StoreUnavailableError("It is away.")
        return await real(*args, **options)

    hooked.hooks = {"save_run": away_at_first}
    reader = streaming.Reader(hooked, run.run_id, Cursor.first(run.run_id))
    async with asyncio.timeout(SECONDS):
        while reader.state is None or not reader.state.stream:
            await reader.look()
            await asyncio.sleep(reader.pause)
    assert (await store.load_run(run.run_id)).stream


@given(st.text(max_size=30))
def test_a_cursor_is_one_or_a_typed_error(text: str) -> None:
    """Whatever comes in place of a cursor is one, or an `InvalidInputError`."""
    with suppress(InvalidInputError):
        assert str(Cursor.read(text, "run")) or not text


async def test_a_commit_between_two_requests_is_told_once(store: FaultyStore) -> None:
    """A reply that is saved between a reader's requests for the state and for the messages is told
    once, and the text that is still there of it is not."""
    model = Gated(["One, ", "two."], ["Three."])
    handler = PromptHandler(orm=store, model=model)
    run = await handler.create_run("Count", stream=True)
    hooked = HookedStore(store)
    reader = streaming.Reader(hooked, run.run_id, Cursor.first(run.run_id))
    events = await reader.look()
    driving = asyncio.create_task(handler.continue_run(run.run_id))
    model.let()
    async with asyncio.timeout(SECONDS):
        while said(events)[-1:] != ["One, "]:
            events += await reader.look()
            await asyncio.sleep(0.01)
        await handler.send(run.run_id, "And?")

        async def late(real: Any, *args: Any) -> Any:
            del hooked.hooks["get_history"]
            model.let()
            while not (await handler.get_run(run.run_id)).iteration:
                await asyncio.sleep(0.01)
            return await real(*args)

        hooked.hooks["get_history"] = late
        while "get_history" in hooked.hooks:
            events += await reader.look()
        events += await reader.look()
        model.let()
        await driving
        while not reader.over:
            events += await reader.look()
    assert story(events) == story(await read(handler, run.run_id))
    assert not [event for event in events if event.kind == "superseded"]


async def test_damaged_text_is_none(store: FaultyStore) -> None:
    """A document of growing text that nobody can read is passed over, and replaced by the next piece."""
    model = Gated(["One, ", "two."])
    handler = PromptHandler(orm=store, model=model)
    run = await handler.create_run("?", stream=True)
    tag = None
    for value in (
        b"\xff",
        b"[]",
        b'{"iteration": 1}',
        json.dumps({"iteration": 1, "text": "\ud800"}).encode(),
    ):
        tag = await store.put_document("cache", f"{live.LIVE}{run.run_id}", value, tag=tag)
        assert await live.read(store, run.run_id) is None
    listener = Listener(handler.stream(run.run_id))
    driving = asyncio.create_task(handler.continue_run(run.run_id))
    model.let()
    await listener.until_text("One, ")
    model.let()
    await driving
    assert said(await listener.all()) == ["One, two."]


async def test_without_text_nothing_is_written(store: FaultyStore) -> None:
    """A reader that wants no text leaves the run as it is, and is told each reply when it is saved."""
    model = Gated(["One, ", "two."])
    handler = PromptHandler(orm=store, model=model)
    run = await handler.create_run("?")
    listener = Listener(handler.stream(run.run_id, text=False))
    model.let(2)
    await handler.continue_run(run.run_id)
    events = await listener.all()
    assert [event.text for event in events if event.kind == "text"] == ["One, two."]
    assert not (await handler.get_run(run.run_id)).stream


def test_an_event_is_one_frame_of_server_sent_events() -> None:
    """The frame has the cursor as its id, and the event as one line of JSON whatever the text holds."""
    event = StreamEvent(kind="text", run_id="r", cursor="1.0~1.2.3.0a1b2c3d", text="a\n\ndata: b\r\x85 ä")
    head, kind, data, *end = event.sse().split("\n")
    assert (head, kind, end) == (f"id: {event.cursor}", "event: text", ["", ""])
    assert "\r" not in data
    assert StreamEvent.model_validate_json(data.removeprefix("data: ")) == event
    assert StreamEvent(**event.data()) == event


numbers = st.integers(0, 999_999_999)


@given(st.text(), numbers, numbers, st.none() | st.tuples(numbers, numbers, st.text(max_size=20)), numbers)
def test_a_cursor_is_read_as_it_was_written(run_id: str, seq: int, part: int, text: Any, end: int) -> None:
    """A cursor survives being written down, in letters that a URL takes as they are."""
    said = Said.of(*text) if text else None
    cursor = replace(Cursor.first(run_id), seq=seq, part=part, said=said, end=end)
    assert Cursor.read(str(cursor), run_id) == cursor
    assert set(str(cursor)) <= set("0123456789abcdef-.~!")


class Hesitant(ScriptedProvider):
    """A script whose pieces take a moment."""

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        async def slowly(piece: str) -> None:
            await on_text(piece)
            await asyncio.sleep(random.random() * 0.002)

        return await super().reply(request, slowly)


def slow(store: OrmAdapter) -> HookedStore:
    """The store behind a line on which every call and every answer takes a while."""
    line = HookedStore(store)

    async def lag(real: Any, *args: Any, **options: Any) -> Any:
        await asyncio.sleep(random.random() * 0.003)
        answer = await real(*args, **options)
        await asyncio.sleep(random.random() * 0.003)
        return answer

    names = ("load_run", "get_history", "get_document", "put_document", "save_run")
    line.hooks = dict.fromkeys(names, lag)
    return line


async def restless(store: OrmAdapter, run_id: str) -> list[StreamEvent]:
    """What a reader is told that leaves again and again, and comes back from where it was."""
    got: list[StreamEvent] = []
    while not got or got[-1].kind != "end":
        async with aclosing(streaming.stream(slow(store), run_id, got[-1].cursor if got else None)) as events:
            for _ in range(random.randint(1, 6)):
                got += [event] if (event := await anext(events, None)) else []
    return got


@pytest.mark.parametrize("seed", range(12))
async def test_readers_that_come_and_go_are_told_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the calls of readers and of the run fall between one another, each reader is told the texts and
    events of the transcript, once and in order, and nothing is superseded where there was one attempt."""
    for module, name in ((live, "INTERVAL"), (streaming, "FIRST_PAUSE"), (streaming, "MOST_PAUSE")):
        monkeypatch.setattr(module, name, 0.001)
    random.seed(seed)
    store = MemoryAdapter()
    model = Hesitant(replies=SCRIPT, chunk=2)
    handler = PromptHandler(orm=slow(store), model=model, tools=[shout])
    run = await handler.create_run("Go", stream=seed % 2 == 0)
    patient = Listener(streaming.stream(slow(store), run.run_id))
    other = asyncio.create_task(restless(store, run.run_id))
    await handler.continue_run(run.run_id)
    late = [event async for event in streaming.stream(store, run.run_id)]
    for events in (await patient.all(), await other):
        assert story(events) == story(late)
        assert not [event for event in events if event.kind == "superseded"]
