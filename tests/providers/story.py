"""A run of the real handler against a server that answers what a test gives it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from replay_server import Answer, replay

from thoughtgear.handler import PromptHandler
from thoughtgear.loop import Limits
from thoughtgear.models import Message, RunState
from thoughtgear.protocols import ModelProvider
from thoughtgear.tools import tool


class Story:
    """A server that gives one answer after the other, the last one for ever, and a handler that asks it."""

    def __init__(self, folder: Path, make: Callable[[str], ModelProvider]) -> None:
        self.make = make
        self.db = f"sqlite:///{folder}/runs.db"
        self.looked: list[str] = []
        self.asked = 0

    async def run(self, *answers: Answer, **limits: Any) -> tuple[RunState, list[Message]]:
        @tool
        def look(path: str = "nothing") -> str:
            """Look at a file."""
            self.looked.append(path)
            return "seen"

        async def answer(reader: Any, writer: Any) -> None:
            self.asked += 1
            await answers[min(self.asked, len(answers)) - 1](reader, writer)

        async with replay(answer) as server:
            model = self.make(server.base_url)
            settings = Limits(**{"lost_replies": 2, **limits})
            async with PromptHandler(tools=[look], model=model, db=self.db, limits=settings) as handler:
                state = await handler.handle_prompt("Hello")
                history = await handler.history(state.run_id)
        assert [message.seq for message in history] == list(range(state.message_count))
        asked = [call.id for message in history for call in message.tool_calls]
        given = [message.tool_result.call_id for message in history if message.tool_result]
        assert sorted(asked) == sorted(given)
        assert len(state.model_dump_json()) < 100_000
        return state, history
