"""Files that count, independent of the store: one line of JSON per event, appended by any process."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from thoughtgear.protocols import ModelProvider, ModelReply, ModelRequest, OnText


class Ledger:
    """An append-only file. A line is one write, so that lines of several processes don't mix."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, **event: Any) -> None:
        """Append an event with its time and this process's id."""
        line = json.dumps({"time": time.time(), "pid": os.getpid(), **event}) + "\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def read(self) -> list[dict[str, Any]]:
        """Return the events so far."""
        if not self._path.exists():
            return []
        return [json.loads(line) for line in self._path.read_text().splitlines()]


class CountedModel:
    """A model whose replies are noted as they arrive: what was bought, saved or not."""

    def __init__(self, inner: ModelProvider, ledger: Ledger) -> None:
        self.model = inner.model
        self._inner, self._ledger = inner, ledger

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        """Ask the model, and note that it answered."""
        reply = await self._inner.reply(request, on_text)
        self._ledger.note(request_id=reply.request_id)
        return reply

    async def aclose(self) -> None:
        """Close the model."""
        await self._inner.aclose()
