"""A task queue of its own on the shared server, handlers over SQLite, and what a test looks at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from histories import chain, everything, of_type
from temporalio.client import Client, WorkflowHandle

from thoughtgear import PromptHandler, TemporalExecutor, build_worker
from thoughtgear.providers.scripted import ScriptedProvider

__all__ = ["BARE", "World", "chain", "everything", "of_type"]

BARE = "bare"
"""A namespace without our search attributes."""


class World:
    """What a test works with. `close` closes the handlers that were made."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.client, self.folder = client, folder
        self.queue = f"q-{uuid4().hex}"
        self.db = f"sqlite:///{folder}/runs.db"
        self.ledger = folder / "ledger.jsonl"
        self._handlers: list[PromptHandler] = []

    def handler(
        self, replies: Any, *, tools: Sequence[Any] = (), delay: float = 0.0, **options: Any
    ) -> PromptHandler:
        """A handler with the scripted model and this queue's executor (`executor=None`: the default)."""
        model = ScriptedProvider(replies=replies, delay=delay, ledger=self.ledger)
        if "executor" not in options:
            options["executor"] = TemporalExecutor(self.client, self.queue)
        made = PromptHandler(tools=tools, model=model, **{"db": self.db, **options})
        self._handlers.append(made)
        return made

    def worker(self, *handlers: PromptHandler, **options: Any) -> Any:
        """A worker of this queue."""
        return build_worker(self.client, handlers, self.queue, **options)

    def workflow(self, run_id: str) -> WorkflowHandle[Any, Any]:
        """The workflow of a run that a handler started."""
        return self.client.get_workflow_handle(f"thoughtgear-{run_id}")

    def replies_bought(self) -> int:
        """How many replies the model began, in any process."""
        return len(self.ledger.read_text().splitlines()) if self.ledger.exists() else 0

    async def close(self) -> None:
        for handler in self._handlers:
            await handler.aclose()
