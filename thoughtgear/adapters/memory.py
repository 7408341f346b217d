"""A store in the memory of this process, for tests and for runs that need not outlive it."""

from __future__ import annotations

import bisect
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from thoughtgear.adapters.options import first
from thoughtgear.adapters.records import (
    ALL_RUNS,
    TOMBSTONE_SECONDS,
    check_commit,
    check_key,
    check_place,
    check_range,
    check_span,
    check_value,
    decode_listed,
    decode_message,
    decode_state,
    encode,
    page_of,
    read_cursor,
    wrong_count,
)
from thoughtgear.errors import ConfigurationError, ConflictError, RunNotFoundError
from thoughtgear.models import Message, RunState
from thoughtgear.protocols import Collection, Document, Reach, RunFilter, RunPage

_STORE = "memory"


@dataclass
class _Run:
    version: int = 0
    state: str = ""
    messages: list[str] = field(default_factory=list)
    deleted_until: float | None = None


class MemoryAdapter:
    """Keeps JSON, so that what goes in and what comes out are copies.

    No method awaits anything, and each one takes the lock for the moment in which it touches the tables:
    one commit at a time, from tasks, threads and event loops alike.
    """

    reach: Reach = "process"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[str, _Run] = {}
        self._tombstones: deque[str] = deque()  # oldest first
        self._documents: dict[Collection, dict[str, Document]] = {"cache": {}, "memory": {}, "files": {}}

    @classmethod
    def from_url(cls, url: str) -> MemoryAdapter:
        """Make an empty store from `memory://`."""
        if url != "memory://":
            raise ConfigurationError("A memory store's URL is memory:// and nothing else.")
        return cls()

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> MemoryAdapter:
        """Make an empty store. Raises `ConfigurationError`: it has no settings."""
        if settings:
            raise ConfigurationError(f"A memory store has no setting {first(settings)}.")
        return cls()

    async def load_run(self, run_id: str) -> RunState:
        with self._lock:
            run = self._runs.get(check_key(run_id))
        if run is None or run.deleted_until is not None:
            raise RunNotFoundError(f"There is no run {run_id} in this store.")
        return decode_state(run.state)

    async def save_run(
        self, state: RunState, messages: Sequence[Message], *, expected: int | None = None
    ) -> None:
        base, first = check_commit(state, messages, expected)
        body, bodies = encode(state), [encode(message) for message in messages]
        with self._lock:
            run = self._standing(state.run_id)
            if run.deleted_until is not None or run.version != base:
                raise ConflictError
            if len(run.messages) != first:
                raise wrong_count(len(run.messages), first)
            # A new record for each commit: a reader that holds the old one sees it whole.
            self._runs[state.run_id] = _Run(state.version, body, run.messages)
            run.messages.extend(bodies)

    def _standing(self, run_id: str) -> _Run:
        run = self._runs.get(run_id) or _Run()
        expired = run.deleted_until is not None and run.deleted_until <= time.time()
        return _Run() if expired else run

    async def list_runs(
        self, where: RunFilter = ALL_RUNS, *, after: str | None = None, limit: int = 100
    ) -> RunPage:
        start = read_cursor(_STORE, after, limit)
        with self._lock:
            runs = [(run_id, run.state) for run_id, run in self._runs.items() if run.deleted_until is None]
        damaged: dict[str, str] = {}
        states = (decode_listed(body, run_id, damaged) for run_id, body in runs)
        chosen = (state for state in states if state and where.matches(state))
        return page_of(chosen, start, limit, _STORE, damaged)

    async def delete_run(self, run_id: str) -> None:
        with self._lock:
            run = self._runs.get(check_key(run_id))
            if run is None:
                return
            if run.deleted_until is None:
                self._drop_expired()
                self._runs[run_id] = _Run(deleted_until=time.time() + TOMBSTONE_SECONDS)
                self._tombstones.append(run_id)
            files = self._documents["files"]
            for key in [key for key in files if key.startswith(f"{run_id}/")]:
                del files[key]

    def _drop_expired(self) -> None:
        """Forget tombstones from the oldest on. One whose run was created again is no tombstone any more."""
        while self._tombstones:
            run = self._runs.get(self._tombstones[0]) or _Run()
            if run.deleted_until is not None:
                if run.deleted_until > time.time():
                    return
                del self._runs[self._tombstones[0]]
            self._tombstones.popleft()

    async def get_history(self, run_id: str, after: int = -1, limit: int | None = None) -> list[Message]:
        after, count = check_span(run_id, after, limit)
        with self._lock:
            run = self._runs.get(run_id) or _Run()
            bodies = run.messages[after + 1 : after + 1 + count]
        return [decode_message(body) for body in bodies]

    async def get_document(self, collection: Collection, key: str) -> Document | None:
        check_place(collection, key)
        with self._lock:
            return self._documents[collection].get(key)

    async def put_document(
        self, collection: Collection, key: str, value: bytes | None, *, tag: str | None
    ) -> str | None:
        check_place(collection, key)
        data = check_value(value, tag)
        with self._lock:
            table = self._documents[collection]
            current = table.get(key)
            if (current.tag if current else None) != tag:
                raise ConflictError
            if data is None:
                table.pop(key, None)
                return None
            table[key] = Document(key, data, uuid4().hex)
            return table[key].tag

    async def list_documents(
        self, collection: Collection, prefix: str = "", *, after: str = "", limit: int = 1000
    ) -> list[str]:
        limit = check_range(collection, prefix, after, limit)
        with self._lock:
            keys = sorted(self._documents[collection])
        found = [key for key in keys[bisect.bisect_right(keys, after) :] if key.startswith(prefix)]
        return found[:limit]

    async def aclose(self) -> None:
        """Nothing to free: the store lives as long as this object."""
