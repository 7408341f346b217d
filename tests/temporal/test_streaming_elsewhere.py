"""Readers of runs that go on in other processes, and under Temporal."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from hooked_store import HookedStore
from server_process import free_ports
from streamed_worker import ANSWER, BROKEN, make_handler
from temporalio.client import Client
from world import World, chain, everything

from thoughtgear import PromptHandler, RunClient, StreamEvent, TemporalExecutor, streaming, tool
from thoughtgear.client import FIRST_EVENTS
from thoughtgear.errors import (
    ConfigurationError,
    ExecutorUnavailableError,
    RunNotFoundError,
    StoreUnavailableError,
)
from thoughtgear.protocols import ModelReply, ModelRequest, OnText, OrmAdapter
from thoughtgear.providers.scripted import call

WORKER = Path(__file__).parent / "streamed_worker.py"
SECONDS = 150.0
WORDS = [f"word{number} " for number in range(50)]


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker of its own, which is killed at the end."""
    made = await asyncio.create_subprocess_exec(sys.executable, str(WORKER), *arguments)
    try:
        yield made
    finally:
        if made.returncode is None:
            made.kill()
        await made.wait()


async def until_text(events: AsyncIterator[StreamEvent], text: str) -> list[StreamEvent]:
    """Read until the pieces say this."""
    got: list[StreamEvent] = []
    while "".join(event.text for event in got if event.kind == "text") != text:
        got.append(await anext(events))
    return got


async def killed_in_its_reply(handler: PromptHandler, run_id: str, *worker: str) -> list[StreamEvent]:
    """Have one process killed in the middle of its reply and another one answer; return what a reader in this
    process was told. It leaves and comes back from where it was."""
    async with asyncio.timeout(SECONDS):
        async with process(*worker):
            first = await until_text(handler.stream(run_id), BROKEN)
        events = handler.stream(run_id, first[-1].cursor)
        async with process(*worker):
            return [*first, *[event async for event in events]]


def check(events: list[StreamEvent]) -> None:
    """The first process's text is void, and only the second one's is left."""
    kinds = [event.kind for event in events if event.kind != "text"]
    assert kinds == ["message", "superseded", "reply", "iteration", "end"]
    void = [event.kind for event in events].index("superseded")
    assert "".join(event.text for event in events[1:void]) == BROKEN
    assert "".join(event.text for event in events[void:]) == ANSWER == events[-1].output


async def test_a_killed_process_and_its_successor(tmp_path: Path) -> None:
    """A reader in a third process sees the reply of a killed one, that it is superseded, and that of the next
    alone; from each of its cursors the rest is the same."""
    handler = make_handler(tmp_path)
    run = await handler.create_run("?", stream=True)
    events = await killed_in_its_reply(handler, run.run_id, str(tmp_path), run.run_id)
    check(events)
    begun = [event.kind for event in events].index("text")
    for position, event in enumerate(events, 1):
        rest = [later async for later in handler.stream(run.run_id, event.cursor)]
        if position > begun:
            check([*events[:position], *rest])
        else:  # who has seen nothing of the first reply is told nothing of it
            assert [later.kind for later in rest] == ["text", "reply", "iteration", "end"]
    await handler.aclose()


# Every day the same is claimed of a driver that misses its dead sooner.
@pytest.mark.long
async def test_a_killed_worker_and_its_successor(world: World, server: str, tmp_path: Path) -> None:
    """The same under Temporal, whose next attempt another worker makes."""
    sender = world.handler(["not asked"])
    run = await sender.handle_prompt("?", stream=True)
    check(await killed_in_its_reply(sender, run.run_id, str(tmp_path), "", server, world.queue))


class Slow:
    """Says its words one by one, each when it is let."""

    model = "slow"

    def __init__(self) -> None:
        self._let = asyncio.Semaphore(0)

    def more(self, words: int) -> None:
        for _ in range(words):
            self._let.release()

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        for word in WORDS:
            await self._let.acquire()
            await on_text(word)
        return ModelReply(text="".join(WORDS))

    async def aclose(self) -> None:
        pass


async def test_history_holds_nothing_of_a_stream(world: World) -> None:
    """A run has the same events in Temporal's history whether somebody reads its reply piece by piece or
    nobody does, and none of its text."""
    lengths, texts = [], []
    for read in (False, True):
        model = Slow()
        executor = TemporalExecutor(world.client, world.queue)
        handler = PromptHandler(model=model, db=world.db, executor=executor)
        async with (
            world.worker(handler),
            RunClient(world.client, db=world.db) as client,
            asyncio.timeout(SECONDS),
        ):
            run = await handler.handle_prompt("Count.")
            model.more(1 if read else len(WORDS))
            async for event in client.stream(run.run_id) if read else handler.stream(run.run_id, text=False):
                if read and event.kind == "text":
                    texts.append(event.text)
                    model.more(10)
            await handler.wait(run.run_id)
            await world.workflow(run.run_id).result()
            [history] = await chain(world.workflow(run.run_id))
            lengths.append(len(history))
            assert "word7" not in everything(history)
        await handler.aclose()
    assert lengths[0] == lengths[1]
    assert len(texts) > 4
    assert "".join(texts) == "".join(WORDS)


async def test_a_client_finds_the_run_of_a_workflow(world: World) -> None:
    """`RunClient.stream` takes a run's id and the id of a workflow that came by value, before its run is
    stored and after its end; an unknown one, and a client without a store, are typed errors."""

    @tool
    async def look() -> str:
        """Look."""
        return "seen"

    handler = world.handler([call("look"), "Done."], tools=[look])
    client = RunClient(world.client, world.queue, orm=handler.store)
    name = await client.start("Look.")
    reading = asyncio.create_task(_kinds(client, name))
    async with world.worker(handler), asyncio.timeout(SECONDS):
        kinds = await reading
        result = await client.wait(name)
        assert kinds[-1] == "end"
        assert kinds.count("tool_start") == kinds.count("tool_end") == 1
        assert await _kinds(client, name) == await _kinds(client, result.run_id) == kinds
        with pytest.raises(RunNotFoundError):
            await _kinds(client, "nothing")
        with pytest.raises(ConfigurationError, match="db="):
            await _kinds(RunClient(world.client), name)

    assert await _kinds(client, name) == kinds  # and no worker is there that could tell


async def test_a_client_finds_the_run_behind_many_signals(world: World) -> None:
    """`RunClient.stream` finds the run of a workflow that was sent more before its run was stored than one
    page of its history has."""
    handler = world.handler(["Done."])
    client = RunClient(world.client, world.queue, orm=handler.store)
    name = await client.start("Go.")
    for _ in range(FIRST_EVENTS):
        await world.client.get_workflow_handle(name).signal("wake")
    async with world.worker(handler), asyncio.timeout(SECONDS):
        await client.wait(name)
        assert (await _kinds(client, name))[-1] == "end"


async def test_a_client_has_patience(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """`RunClient.stream` waits for a store that is away at its first look, and for Temporal, where it has to
    ask that; for a minute, and then a typed error says which of the two is away."""
    monkeypatch.setattr(streaming, "MOST_PAUSE", 0.01)
    handler = world.handler(["Done."], executor=None)
    run = await handler.handle_prompt("Go")
    store, asked = HookedStore(handler.store), 0

    async def away_at_first(real: Any, *args: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise StoreUnavailableError("It is away.")
        return await real(*args)

    store.hooks = {"load_run": away_at_first}
    (port,) = free_ports(1)
    nowhere = await Client.connect(f"127.0.0.1:{port}", lazy=True)
    client = RunClient(nowhere, orm=cast(OrmAdapter, store))
    assert (await _kinds(client, run.run_id))[-1] == "end"
    monkeypatch.setattr(streaming, "PATIENCE", 0.0)
    asked = 0
    with pytest.raises(StoreUnavailableError):
        await _kinds(client, run.run_id)
    asked = 3
    with pytest.raises(ExecutorUnavailableError, match="Temporal"):
        await _kinds(client, "a-workflow")


async def _kinds(client: RunClient, name: str) -> list[str]:
    return [event.kind async for event in client.stream(name)]
