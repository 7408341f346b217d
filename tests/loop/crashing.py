"""One process of the crash tests: drives a run and, at the window that it is told, dies at once.

    python crashing.py STORE_URL FOLDER WINDOW      (WINDOW "none": drive the run to its end)

Model and tools append to ledgers in FOLDER: the truth about what was bought and what took effect.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thoughtgear.executors.local import LocalExecutor
from thoughtgear.handler import PromptHandler
from thoughtgear.models import Message, RunState
from thoughtgear.protocols import ModelReply, ModelRequest, OnText
from thoughtgear.providers.scripted import ScriptedProvider, call
from thoughtgear.registry import open_store
from thoughtgear.tools import ToolContext, tool

EXIT_CODE = 77
FOLDER = Path(sys.argv[2])
WINDOW = sys.argv[3]


def crash(window: str) -> None:
    """Die here, without any clean-up, if this is the window."""
    if window == WINDOW:
        os._exit(EXIT_CODE)


def note(ledger: str, line: str) -> None:
    with (FOLDER / ledger).open("a") as file:
        file.write(line + "\n")


class Model(ScriptedProvider):
    """Asks for both tools, then answers."""

    def __init__(self) -> None:
        super().__init__(replies=[[call("pay", amount=7), call("look")], "all done"])

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        crash("before the model")
        reply = await super().reply(request, on_text)
        note("bought", "reply")
        crash("after the reply, before its commit")
        return reply


@tool(policy="at_most_once", parallel=False)
def pay(amount: int, ctx: ToolContext) -> str:
    """Pay."""
    note("paid", ctx.idempotency_key)
    crash("during the at_most_once tool")
    return f"paid {amount}"


@tool
def look(ctx: ToolContext) -> str:
    """Look."""
    note("looked", ctx.idempotency_key)
    crash("during the idempotent tool")
    return "looked"


class Store:
    """The real store, with a window on either side of each kind of commit."""

    def __init__(self, url: str) -> None:
        self._inner = open_store(url)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def save_run(self, state: RunState, messages: Sequence[Message]) -> None:
        has_results = any(message.role == "tool" for message in messages)
        if has_results:
            crash("after the effect, before its commit")
        await self._inner.save_run(state, messages)
        if state.ledger and all(row.status == "pending" for row in state.ledger):
            crash("after the commit, before the tools")
        if any(row.status == "started" for row in state.ledger) and not has_results:
            crash("started committed, before the effect")
        if has_results:
            crash("after the results were committed")
        if state.over:
            crash("after the last commit")


async def main() -> None:
    executor = LocalExecutor(claim_seconds=0.1)
    handler = PromptHandler(model=Model(), orm=Store(sys.argv[1]), tools=[pay, look], executor=executor)
    state = await handler.handle_prompt("pay and look", request_id="the-one")
    print(state.run_id)
    await handler.aclose()


asyncio.run(main())
