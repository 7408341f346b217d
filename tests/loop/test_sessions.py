"""Sessions: one chain, whatever dies, comes twice or is deleted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hooked_store import HookedStore

from thoughtgear import sessions
from thoughtgear.errors import ConflictError, StoreUnavailableError
from thoughtgear.handler import PromptHandler
from thoughtgear.models import Message, RunState
from thoughtgear.protocols import ModelReply, ModelRequest, OnText
from thoughtgear.providers.scripted import ScriptedProvider
from thoughtgear.sessions import Sessions
from thoughtgear.testing import FaultyStore
from thoughtgear.transcript import Transcripts


class Idle:
    """An executor that drives nothing."""

    name = "idle"

    async def schedule_next_iteration(self, run_id: str) -> None:
        pass


class Echo(ScriptedProvider):
    """Answers with the prompt and remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__(replies="echo")
        self.shown: list[list[str]] = []

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        self.shown.append([message.text for message in request.messages if message.role == "user"])
        return await super().reply(request, on_text)


class DiedError(Exception):
    """The process ends here."""


def queue(store: Any, **options: Any) -> PromptHandler:
    return PromptHandler(model=Echo(), orm=store, executor=Idle(), **options)


async def send(handler: PromptHandler, text: str, request_id: str | None = None) -> RunState:
    return await handler.create_run(text, session_id="s", request_id=request_id)


async def chain(store: Any) -> list[str]:
    """The prompts of the store's runs from the session's last one back; fails unless it is one chain."""
    runs = {run.run_id: run for run in (await store.list_runs()).runs}
    parents = [run.parent.run_id for run in runs.values() if run.parent]
    (last,) = runs.keys() - set(parents)
    texts: list[str] = []
    run: RunState | None = runs[last]
    while run is not None and len(texts) <= len(runs):
        texts.append((await store.get_history(run.run_id, limit=1))[0].text)
        run = runs[run.parent.run_id] if run.parent else None
    assert len(texts) == len(runs)
    return texts


@pytest.fixture
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads remember two runs, so that a third one is enough to be forgotten."""
    monkeypatch.setattr(sessions, "RECENT_KEPT", 2)


@pytest.mark.usefixtures("short_memory")
@pytest.mark.parametrize("landed", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", [1, 2, 3], ids=["the run", "the mark of the run before", "the head"])
async def test_a_crash_while_linking_breaks_no_chain(store: FaultyStore, write: int, landed: bool) -> None:
    """Whichever write of a prompt its process dies at, the session stays one chain, also when the request
    comes again, twice at once, after the head has forgotten its run."""
    await send(queue(store), "zero")
    dying = HookedStore(store)
    writes = 0

    async def die(real: Any, *args: Any, **options: Any) -> Any:
        nonlocal writes
        writes += 1
        if writes == write and not landed:
            raise DiedError
        await real(*args, **options)
        if writes == write:
            raise DiedError

    dying.hooks = {"save_run": die, "put_document": die}
    with pytest.raises(DiedError):
        await send(queue(dying), "mine", "the-one")
    for text in ("a", "b", "c"):
        await send(queue(store), text)
    again = [send(queue(store), "mine", "the-one") for _ in range(2)]
    await asyncio.gather(*again)
    assert sorted(await chain(store)) == ["a", "b", "c", "mine", "zero"]


@pytest.mark.usefixtures("short_memory")
async def test_a_repeated_request_stays_where_it_is(store: FaultyStore) -> None:
    """A queued run whose request comes again after the head has forgotten it keeps its parent."""
    handler = queue(store)
    await send(handler, "zero")
    first = await send(handler, "mine", "the-one")
    for text in ("a", "b", "c"):
        await send(handler, text)
    assert (await send(handler, "mine", "the-one")).parent == first.parent
    assert await chain(store) == ["c", "b", "a", "mine", "zero"]


async def test_a_request_that_comes_twice_while_the_head_moves(store: FaultyStore) -> None:
    """The same request twice while a third prompt moves the head: both get the run, and none an error."""
    await send(queue(store), "zero")
    mine = HookedStore(store)
    conflicts = 0

    async def third_first(real: Any, *args: Any, **options: Any) -> None:
        """Before the head is moved, a third prompt moves it."""
        mine.hooks = {"save_run": other_first}
        await send(queue(store), "third")
        await real(*args, **options)

    async def other_first(real: Any, state: RunState, messages: list[Message]) -> None:
        """Before the new parent is written, the other delivery of the request is through."""
        nonlocal conflicts
        if not state.linked:
            mine.hooks = {}
            await send(queue(store), "mine", "the-one")
        try:
            await real(state, messages)
        except ConflictError:
            conflicts += 1
            raise

    mine.hooks = {"put_document": third_first}
    state = await send(queue(mine), "mine", "the-one")
    assert conflicts == 1
    assert state.run_id == (await send(queue(store), "mine", "the-one")).run_id
    assert await chain(store) == ["mine", "third", "zero"]


async def test_an_unconfirmed_link_is_found(store: FaultyStore) -> None:
    """A head whose write landed without an answer is found: the prompt is accepted and linked once."""
    lossy = HookedStore(store)

    async def lose(real: Any, *args: Any, **options: Any) -> None:
        lossy.hooks = {}
        await real(*args, **options)
        raise StoreUnavailableError

    lossy.hooks = {"put_document": lose}
    first = await send(queue(lossy), "one")
    assert not lossy.hooks
    assert (await send(queue(store), "two")).parent is not None
    assert await chain(store) == ["two", "one"]
    assert first.parent is None


@pytest.mark.parametrize("deleted", [0, 1, 2])
async def test_a_deleted_run_takes_no_other_along(store: FaultyStore, deleted: int) -> None:
    """Deleting any run of a session, its last one too, takes only that run out of the conversation."""
    model = Echo()
    handler = PromptHandler(model=model, orm=store)
    texts = ["a", "b", "c"]
    ids = [(await handler.handle_prompt(text, session_id="s")).run_id for text in texts]
    await store.delete_run(ids[deleted])
    texts.pop(deleted)
    fresh = PromptHandler(model=model, orm=store)
    assert (await fresh.handle_prompt("d", session_id="s")).status == "done"
    assert model.shown[-1] == [*texts, "d"]


async def test_conversations_are_kept_by_size(store: FaultyStore) -> None:
    """Conversations over the bytes that a process keeps are read again, the least recently used first."""
    handler = PromptHandler(model=Echo(), orm=store)
    runs = [await handler.handle_prompt("x" * 3000, session_id="s") for _ in range(3)]
    for kept_bytes, reads in ((1_000_000, 0), (10_000, 1)):
        kept = Sessions(store, Transcripts(store), "queue", kept_bytes)
        await kept.earlier(runs[1], runs[1].parent)
        await kept.earlier(runs[2], runs[2].parent)
        before = store.loads
        await kept.earlier(runs[1], runs[1].parent)
        assert store.loads - before == reads
