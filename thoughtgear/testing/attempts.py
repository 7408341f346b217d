"""Attempts at a run, as the clauses of ownership make them: the real `RunWriter`, small changes."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast

from thoughtgear import inbox
from thoughtgear.commit import Change, RunWriter
from thoughtgear.errors import SupersededError
from thoughtgear.handler import PromptHandler
from thoughtgear.loop import Limits
from thoughtgear.models import CallRecord, InboxItem, Message, RunState, ToolCall, ToolPolicy, ToolResult
from thoughtgear.protocols import Attempt, ModelReply, ModelRequest, OnText, OrmAdapter
from thoughtgear.providers.scripted import Cue, Line, ScriptedProvider
from thoughtgear.testing.case import append, new_run
from thoughtgear.testing.faulty import FaultyStore
from thoughtgear.transitions import complete_turn, save_reply, save_results, unnumbered

Store = OrmAdapter | FaultyStore

RUN = "owned"
PROMPT = "hello"


async def prompted(store: OrmAdapter) -> RunState:
    """Create a run whose transcript is one prompt."""
    return await append(store, new_run(RUN, nonce="created"), PROMPT)


def writer_for(store: Store, state: RunState, **attempt: Any) -> RunWriter:
    """Return the writer of an attempt that has loaded this state."""
    return RunWriter(cast(OrmAdapter, store), state, Attempt(**{"driver": "test", **attempt}))


async def latest_writer(store: Store, **attempt: Any) -> RunWriter:
    """Return the writer of an attempt that loads the state now."""
    return writer_for(store, await store.load_run(RUN), **attempt)


def handler_for(store: Store, model: CountingModel) -> PromptHandler:
    """Return a handler over the store; the store stays open when it is dropped."""
    return PromptHandler(model=model, orm=cast(OrmAdapter, store))


class CountingModel(ScriptedProvider):
    """Says its lines, and counts how often it was asked."""

    def __init__(self, *lines: Line | Cue) -> None:
        super().__init__(replies=list(lines))
        self.asked = 0

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        self.asked += 1
        return await super().reply(request, on_text)


def adds(text: str) -> Change:
    """A change that appends a message and nothing else."""

    def change(state: RunState) -> list[Message]:
        state.status = "running"
        return [unnumbered(role="user", text=text)]

    return change


def answers(text: str = "hi") -> Change:
    """The commit of a reply without calls: the run is done, unless its inbox is not empty."""
    reply = unnumbered(role="assistant", text=text)
    return partial(save_reply, reply=reply, rows=[], seen=[], limits=Limits())


def asks(number: int = 1, policy: ToolPolicy = "idempotent") -> Change:
    """The commit of a reply that asks for one call of iteration `number`."""
    call = ToolCall(id=f"{number}.0", name="pay")
    reply = unnumbered(role="assistant", tool_calls=[call], iteration=number)
    rows = [CallRecord(call=call, policy=policy)]
    return partial(save_reply, reply=reply, rows=rows, seen=[], limits=Limits())


def settles(number: int = 1) -> Change:
    """The commit of that call's result, which ends the iteration."""
    result = ToolResult(call_id=f"{number}.0", name="pay", content="paid")

    def change(state: RunState) -> list[Message]:
        return save_results(state, [result]) + complete_turn(state, Limits(iterations=10**6))

    return change


async def send(store: OrmAdapter, text: str) -> RunState:
    """Put a message into the run's inbox, as anyone may."""
    return await inbox.put(store, RUN, InboxItem(request_id=text, text=text), Limits())


async def take_and_add(store: OrmAdapter, name: str, count: int) -> list[str]:
    """Claim the run again whenever someone else has taken it, until `count` messages are acknowledged."""
    said: list[str] = []
    writer = await latest_writer(store)
    while len(said) < count:
        text = f"{name}:{len(said)}"
        try:
            await writer.commit(adds(text))
        except SupersededError:
            writer = await latest_writer(store)
        else:
            said.append(text)
        await asyncio.sleep(0)
    return said
