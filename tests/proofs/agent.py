"""The run that the proofs drive: its model, its tools and its store call `at` wherever a fault may strike.

A prompt says how many steps its run takes: "… in 3 steps". Each odd step asks for a payment, which may start
once only, and then for a look, which may be repeated; each even step for two looks at once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from proofs.ledger import Ledger
from thoughtgear import Limits, PromptHandler, tool
from thoughtgear.errors import ConflictError, StoreUnavailableError
from thoughtgear.models import Message, RunState
from thoughtgear.protocols import Executor, ModelRequest, OrmAdapter
from thoughtgear.providers.scripted import ScriptedProvider, call
from thoughtgear.tools import ToolContext

BEFORE_MODEL = "before the model"
AFTER_REPLY = "after the reply, before its commit"
BEFORE_TOOLS = "after the commit, before the tools"
STARTED = "started committed"
BEFORE_EFFECT = "started committed, before the effect"
DURING_TOOL = "during the tool"
DURING_LOOK = "during the repeatable tool"
AFTER_EFFECT = "after the effect, before its commit"
AFTER_COMMIT = "after the last commit, before the completion is reported"

CANARY = "canary-7f3a"
"""What must be in no history and no log: it is in prompts, arguments and results."""

ANSWER = "all done"

At = Callable[[str, int], Awaitable[None]]
"""Called with a point and the number of the iteration."""


async def nothing(point: str, iteration: int) -> None:
    """No fault."""


def prompt(name: str, steps: int) -> str:
    """The prompt of a run that takes so many steps and then answers."""
    return f"{name} {CANARY} in {steps} steps"


def asked(prompt_text: str, number: int) -> list[Any] | str:
    """What the model says to this prompt as its reply `number`, from 1."""
    steps = int(re.findall(r"in (\d+) steps", prompt_text)[0])
    if number > steps:
        return ANSWER
    if number % 2 == 0:
        return [call("look", path=f"{CANARY}/{number}/{side}") for side in ("left", "right")]
    return [call("pay", amount=number), call("look", path=f"{CANARY}/{number}")]


class Agent:
    """Model, tools and store of one worker, over the ledger of its proof."""

    def __init__(self, ledger: Ledger, at: At = nothing) -> None:
        self.ledger, self._at = ledger, at

    def handler(self, store: OrmAdapter, executor: Executor | None = None) -> PromptHandler:
        """The handler that every process of a proof builds."""
        return PromptHandler(
            tools=self._tools(),
            model=ScriptedProvider(replies=self._say, name="proof"),
            orm=NotingStore(store, self.ledger, self._at),
            executor=executor,
            limits=Limits(iterations=10_000, tokens=10**12, inbox=1_000),
        )

    async def _say(self, request: ModelRequest) -> Any:
        begun = time.time()
        begin = max(index for index, message in enumerate(request.messages) if message.seq == 0)
        own = request.messages[begin:]
        number = 1 + sum(message.role == "assistant" for message in own)
        await self._at(BEFORE_MODEL, number)
        said = asked(own[0].text, number)
        self.ledger.note("reply", prompt=own[0].text, number=number, asked=begun)
        await self._at(AFTER_REPLY, number)
        return said

    def _tools(self) -> list[Any]:
        ledger, at = self.ledger, self._at

        @tool(policy="at_most_once", parallel=False)
        async def pay(amount: int, ctx: ToolContext) -> str:
            """Pay."""
            await at(BEFORE_EFFECT, ctx.iteration)
            ledger.note("effect", tool="pay", key=ctx.idempotency_key)
            await at(DURING_TOOL, ctx.iteration)
            return f"{CANARY}: paid {amount}"

        @tool
        async def look(path: str, ctx: ToolContext) -> str:
            """Look."""
            ledger.note("effect", tool="look", key=ctx.idempotency_key)
            await at(DURING_LOOK, ctx.iteration)
            return f"saw {path}"

        return [pay, look]


class NotingStore:
    """The real store. Notes what it acknowledged and what it refused, with a point around each commit."""

    def __init__(self, inner: OrmAdapter, ledger: Ledger, at: At) -> None:
        self._inner, self._ledger, self._at = inner, ledger, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def save_run(self, state: RunState, messages: Sequence[Message], **options: Any) -> None:
        """Commit. A point may raise what a store raises: its acknowledgement is then lost."""
        results = any(message.role == "tool" for message in messages)
        number = messages[-1].iteration if messages else 0
        facts = {"run": state.run_id, "version": state.version, "epoch": state.claim.epoch}
        if results:
            await self._at(AFTER_EFFECT, number)
        try:
            await self._inner.save_run(state, messages, **options)
        except (ConflictError, StoreUnavailableError) as exc:
            self._ledger.note("refused" if isinstance(exc, ConflictError) else "unavailable", **facts)
            raise
        self._ledger.note("commit", **facts, iteration=number, replies=state.model_replies)
        if state.ledger and all(row.status == "pending" for row in state.ledger):
            await self._at(BEFORE_TOOLS, number)
        if not results and any(row.status == "started" for row in state.ledger):
            await self._at(STARTED, state.iteration + 1)
        if number and state.iteration == number:
            await self._at(AFTER_COMMIT, number)


def ledger_of(folder: Path) -> Ledger:
    """The ledger of the proof in this folder."""
    return Ledger(folder / "ledger.jsonl")
