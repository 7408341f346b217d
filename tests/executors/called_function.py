"""A function in this process: its events are kept, and delivered by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thoughtgear import LambdaExecutor, PromptHandler, make_lambda_handler
from thoughtgear.models import Message, RunState
from thoughtgear.protocols import ModelRequest
from thoughtgear.providers.scripted import ScriptedProvider
from thoughtgear.registry import open_store


@dataclass
class Context:
    """What AWS tells a function about its invocation."""

    aws_request_id: str
    seconds: float = 60.0

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds * 1000)


class Function:
    """A function whose model says `replies`, one per call: texts, calls, errors to raise, or functions."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder}/runs.db"
        self.fired: list[dict[str, Any]] = []
        self.asked: list[ModelRequest] = []
        self.broken = False
        self._deliveries = 0

    def make(self, *replies: Any, **options: Any) -> None:
        """Make the handler, and the function of it."""
        self._replies = list(replies)
        model = ScriptedProvider(replies=self._say, name="told")
        options = {"db": self.url, "executor": self.executor(), **options}
        self.handler = PromptHandler(model=model, **options)
        self._main = make_lambda_handler(self.handler)

    def __call__(self, event: Any, *, name: str | None = None, seconds: float = 60.0) -> dict[str, Any]:
        """Deliver an event; one with the same `name` is the same delivery come again."""
        self._deliveries += 1
        return self._main(event, Context(name or f"delivery-{self._deliveries}", seconds))

    def executor(self) -> LambdaExecutor:
        """Another executor that fires at this function."""
        return LambdaExecutor(self._fire)

    def start(self, text: str = "go", **fields: Any) -> str:
        """Have a prompt stored; return its run."""
        return self({"action": "start", "text": text, **fields})["runId"]

    def drain(self, most: int = 50) -> None:
        """Deliver the events, and those that follow, until none is left."""
        for _ in range(most):
            if not self.fired:
                return
            self(self.fired.pop(0))
        raise AssertionError("the events do not end")

    def run(self, run_id: str) -> RunState:
        return self.ask(lambda store: store.load_run(run_id))

    def history(self, run_id: str) -> list[Message]:
        return self.ask(lambda store: store.get_history(run_id))

    def ask(self, what: Callable[[Any], Any]) -> Any:
        """Look at the store from outside, or change it."""

        async def asked() -> Any:
            store = open_store(self.url)
            try:
                return await what(store)
            finally:
                await store.aclose()

        return asyncio.run(asked())

    def _fire(self, event: dict[str, Any]) -> None:
        if self.broken:
            raise ConnectionError("no network")
        self.fired.append(event)

    async def _say(self, request: ModelRequest) -> Any:
        self.asked.append(request)
        said = self._replies.pop(0)
        if isinstance(said, Exception):
            raise said
        return await said(request) if callable(said) else said
