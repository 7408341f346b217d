"""Transcripts and attachments as a warm worker keeps them: append-only, so what was read stays right."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime

from thoughtgear.errors import StoreError, StoreUnavailableError
from thoughtgear.models import Message, RunState
from thoughtgear.protocols import OrmAdapter

KEPT_BYTES = 64_000_000
"""What a process keeps in memory, roughly; the least recently used runs go first."""


class _Kept:
    """One run's messages, and the moment of its creation (a deleted id may come back as another run)."""

    def __init__(self, created_at: datetime) -> None:
        self.created_at = created_at
        self.messages: list[Message] = []
        self.attached: list[Message] = []
        self.bytes = 0


class Transcripts:
    """Reads transcripts, only what is new since the last time."""

    def __init__(self, store: OrmAdapter, kept_bytes: int = KEPT_BYTES) -> None:
        self._store = store
        self._kept_bytes = kept_bytes
        self._runs: OrderedDict[str, _Kept] = OrderedDict()
        self._files: OrderedDict[str, bytes] = OrderedDict()

    async def messages(self, state: RunState) -> Sequence[Message]:
        """Return the messages of the run up to `state.message_count`."""
        kept = self._open(state)
        missing = state.message_count - len(kept.messages)
        if missing > 0:
            after = len(kept.messages) - 1
            self._extend(kept, await self._store.get_history(state.run_id, after, missing))
        if len(kept.messages) < state.message_count:
            raise StoreUnavailableError("The store has not all messages of this run yet.")
        return kept.messages[: state.message_count]

    async def attached(self, state: RunState) -> Sequence[Message]:
        """Return those of the run's messages that have attachments, without looking at all of them."""
        await self.messages(state)
        kept = self._open(state).attached
        return [message for message in kept if message.seq < state.message_count]

    def appended(self, state: RunState, messages: Sequence[Message]) -> None:
        """Take over messages that were just committed, so that nobody reads them again."""
        self._extend(self._open(state), messages)

    async def file(self, run_id: str, sha256: str) -> bytes:
        """Return the bytes of an attachment. Raises `StoreError` when it was deleted."""
        key = f"{run_id}/{sha256}"
        if key not in self._files:
            document = await self._store.get_document("files", key)
            if document is None:
                raise StoreError(f"The attachment {key} is not in the store any more.")
            self._files[key] = document.value
        self._files.move_to_end(key)
        self._trim()
        return self._files[key]

    def _open(self, state: RunState) -> _Kept:
        kept = self._runs.get(state.run_id)
        if kept is None or kept.created_at != state.created_at:
            kept = self._runs[state.run_id] = _Kept(state.created_at)
        self._runs.move_to_end(state.run_id)
        self._trim()
        return kept

    def _extend(self, kept: _Kept, messages: Sequence[Message]) -> None:
        """Add what is new; a gap (this process missed commits) is left to the next read."""
        known = len(kept.messages) - messages[0].seq if messages else -1
        if known >= 0:
            added = messages[known:]
            kept.messages.extend(added)
            kept.attached.extend(message for message in added if message.attachments)
            kept.bytes += sum(_size(message) for message in added)

    def _trim(self) -> None:
        """Drop the least recently used; the entry in use always stays."""
        while len(self._runs) > 1 and sum(run.bytes for run in self._runs.values()) > self._kept_bytes:
            self._runs.popitem(last=False)
        while len(self._files) > 1 and sum(map(len, self._files.values())) > self._kept_bytes:
            self._files.popitem(last=False)


def _size(message: Message) -> int:
    content = message.tool_result.content if message.tool_result else ""
    return 500 + len(message.text) + len(content)
