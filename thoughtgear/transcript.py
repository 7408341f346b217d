"""Transcripts and attachments as a warm worker keeps them: append-only, so what was read stays right."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from typing import Generic, TypeVar

from thoughtgear.errors import StoreError, StoreUnavailableError
from thoughtgear.models import Message, RunState
from thoughtgear.protocols import OrmAdapter

V = TypeVar("V")

KEPT_BYTES = 64_000_000
"""What a process keeps in memory, roughly; the least recently used runs go first."""

KEPT_ENTRIES = 4096
"""How many entries a cache keeps at the most, however small they are."""

MESSAGE_BYTES = 500
"""What a message takes up besides its content, roughly."""


class ByteCache(Generic[V]):
    """The most recently used values, up to a number of bytes and of entries. The newest always stays."""

    def __init__(self, most_bytes: int = KEPT_BYTES, most_entries: int = KEPT_ENTRIES) -> None:
        self._most_bytes, self._most_entries = most_bytes, most_entries
        self._entries: OrderedDict[str, tuple[V, int]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> V | None:
        """Return the value, which is then the most recently used one, or None."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def put(self, key: str, value: V, size: int) -> V:
        """Keep the value, which now has `size` bytes, and drop what is over the bounds; return it."""
        _, before = self._entries.pop(key, (value, 0))
        self._entries[key] = (value, size)
        self.bytes += size - before
        while len(self._entries) > 1 and self._over():
            self.bytes -= self._entries.popitem(last=False)[1][1]
        return value

    def _over(self) -> bool:
        return self.bytes > self._most_bytes or len(self._entries) > self._most_entries


class _Kept:
    """One run's messages, and the moment of its creation (a deleted id may come back as another run)."""

    def __init__(self, created_at: datetime) -> None:
        self.created_at = created_at
        self.acknowledged: tuple[RunState, float] | None = None
        self.messages: list[Message] = []
        self.attached: list[Message] = []
        self.bytes = 0


class Transcripts:
    """Reads transcripts, only what is new since the last time."""

    def __init__(self, store: OrmAdapter, kept_bytes: int = KEPT_BYTES) -> None:
        self._store = store
        self._runs: ByteCache[_Kept] = ByteCache(kept_bytes)
        self._files: ByteCache[bytes] = ByteCache(kept_bytes)

    async def messages(self, state: RunState) -> Sequence[Message]:
        """Return the messages of the run up to `state.message_count`."""
        kept = self._open(state)
        missing = state.message_count - len(kept.messages)
        if missing > 0:
            after = len(kept.messages) - 1
            self._extend(state, kept, await self._store.get_history(state.run_id, after, missing))
        if len(kept.messages) < state.message_count:
            raise StoreUnavailableError("The store has not all messages of this run yet.")
        return kept.messages[: state.message_count]

    async def attached(self, state: RunState) -> Sequence[Message]:
        """Return those of the run's messages that have attachments, without looking at all of them."""
        await self.messages(state)
        kept = self._open(state).attached
        return [message for message in kept if message.seq < state.message_count]

    def appended(self, state: RunState, messages: Sequence[Message], contact: float) -> None:
        """Take over a state and messages that were just committed, so that nobody reads them again. `contact`
        is when the store was asked to, on the monotonic clock."""
        kept = self._open(state)
        kept.acknowledged = state, contact
        self._extend(state, kept, messages)

    def acknowledged(self, run_id: str) -> tuple[RunState, float] | None:
        """Return the state of this process's last commit to the run, and when it was sent (on the monotonic
        clock)."""
        kept = self._runs.get(run_id)
        return kept.acknowledged if kept else None

    async def file(self, run_id: str, sha256: str) -> bytes:
        """Return the bytes of an attachment. Raises `StoreError` when it was deleted."""
        key = f"{run_id}/{sha256}"
        data = self._files.get(key)
        if data is not None:
            return data
        document = await self._store.get_document("files", key)
        if document is None:
            raise StoreError(f"The attachment {key} is not in the store any more.")
        return self._files.put(key, document.value, len(document.value))

    def _open(self, state: RunState) -> _Kept:
        kept = self._runs.get(state.run_id)
        if kept is None or kept.created_at != state.created_at:
            kept = self._runs.put(state.run_id, _Kept(state.created_at), 0)
        return kept

    def _extend(self, state: RunState, kept: _Kept, messages: Sequence[Message]) -> None:
        """Add what is new; a gap (this process missed commits) is left to the next read."""
        known = len(kept.messages) - messages[0].seq if messages else -1
        if known >= 0:
            added = messages[known:]
            kept.messages.extend(added)
            kept.attached.extend(message for message in added if message.attachments)
            kept.bytes += sum(map(size_of, added))
            self._runs.put(state.run_id, kept, kept.bytes)


def size_of(message: Message) -> int:
    """Return what a message takes up in memory, roughly, in bytes."""
    content = message.tool_result.content if message.tool_result else ""
    calls = sum(len(call.model_dump_json()) for call in message.tool_calls)
    native = message.native.size if message.native else 0
    return MESSAGE_BYTES + len(message.text) + len(content) + calls + native
