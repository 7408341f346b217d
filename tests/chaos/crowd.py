"""The runs: prompts and messages whose sender tries until they are acknowledged, and waits for the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from proofs.agent import prompt

from chaos.plan import Plan
from thoughtgear import PromptHandler
from thoughtgear.errors import ThoughtgearError

T = TypeVar("T")

PATIENCE = 300.0
"""Seconds within which something must be acknowledged, and a run must end once it was."""


@dataclass
class Asked:
    """A run: its prompt, the message that it was sent (one in three), and what became known of it."""

    text: str
    steps: int
    message: str | None
    run_id: str = ""
    begin: float = 0.0
    end: float = float("inf")


@dataclass
class Crowd:
    """`ended` is called after each run."""

    plan: Plan
    handler: PromptHandler
    runs: list[Asked] = field(default_factory=list)
    ended: Callable[[Asked], None] = lambda asked: None

    async def go(self, share: Callable[[], float]) -> None:
        """Start the runs, some at once, no faster than `share` (of 1) of the storm is over."""
        chance, room = random.Random(self.plan.seed + 2), asyncio.Semaphore(self.plan.most_at_once)
        async with asyncio.TaskGroup() as group:
            for number in range(self.plan.runs):
                while number > self.plan.runs * share():
                    await asyncio.sleep(0.05)
                await room.acquire()
                steps = chance.randint(2, 6)
                message = prompt(f"message {number}", 0) if number % 3 == 0 else None
                asked = Asked(prompt(f"run {number}", steps), steps, message)
                self.runs.append(asked)
                group.create_task(self._live(asked, number, room))

    async def _live(self, asked: Asked, number: int, room: asyncio.Semaphore) -> None:
        try:
            asked.begin = time.time()
            state = await acknowledged(
                lambda: self.handler.handle_prompt(asked.text, request_id=f"r{number}")
            )
            asked.run_id = state.run_id
            if asked.message is not None:
                await asyncio.sleep(number % 8 * self.plan.pace)  # some come after the end
                text = asked.message
                await acknowledged(lambda: self.handler.send(state.run_id, text, request_id=f"m{number}"))
            await acknowledged(lambda: self.handler.wait(state.run_id, PATIENCE))
            asked.end = time.time()
            self.ended(asked)
        finally:
            room.release()


async def acknowledged(attempt: Callable[[], Awaitable[T]]) -> T:
    """Try again whatever can be tried again, under the same request id."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await attempt()
            except ThoughtgearError as exc:
                if not exc.retryable:
                    raise
            await asyncio.sleep(0.2)
