"""Sessions: the chain of parents. What a run sees of the conversation is frozen and complete turns.

The head document of a session names its last run. A new run is stored first, with the head's run as its
parent, and then made the head by compare-and-swap; when someone was faster, its parent is set anew.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from typing import Literal

from thoughtgear.errors import ConflictError, RunNotFoundError, SessionBusyError
from thoughtgear.models import Message, Parent, RunState
from thoughtgear.protocols import Document, OrmAdapter
from thoughtgear.transcript import Transcripts

Conversation = list[tuple[str, Message]]
OnBusy = Literal["queue", "reject", "parallel"]

RECENT_KEPT = 64
"""Run ids that a head remembers, so that a repeated request finds that it is linked already."""

CONVERSATIONS_KEPT = 64
"""Conversations that a process keeps in memory."""

RUNS_SEEN = 100
"""How many earlier runs of a conversation a model sees at the most."""


class Sessions:
    """Links runs to their sessions and reads conversations."""

    def __init__(self, store: OrmAdapter, transcripts: Transcripts, on_busy: OnBusy) -> None:
        self._store = store
        self._transcripts = transcripts
        self._on_busy = on_busy
        self._earlier: OrderedDict[str, Conversation] = OrderedDict()

    async def begin(self, state: RunState) -> None:
        """Give a run that is not stored yet its parent. Raises `SessionBusyError`."""
        _, recent = await self._head(state)
        state.parent = await self._parent(recent[-1]) if recent else None

    async def link(self, state: RunState) -> RunState:
        """Make a new, stored run the last one of its session. Raises `SessionBusyError`."""
        while True:
            document, recent = await self._head(state)
            if state.run_id in recent:
                return await self._store.load_run(state.run_id)
            state = await self._adopt_parent(state, recent[-1] if recent else None)
            if await self._move_head(state, document, recent):
                return state

    async def _head(self, state: RunState) -> tuple[Document | None, list[str]]:
        document = await self._store.get_document("memory", _head_key(state))
        return document, json.loads(document.value)["recent"] if document else []

    async def _move_head(self, state: RunState, document: Document | None, recent: list[str]) -> bool:
        value = json.dumps({"recent": [*recent, state.run_id][-RECENT_KEPT:]}).encode()
        tag = document.tag if document else None
        try:
            await self._store.put_document("memory", _head_key(state), value, tag=tag)
        except ConflictError:
            return False
        return True

    async def _adopt_parent(self, state: RunState, run_id: str | None) -> RunState:
        parent = await self._parent(run_id) if run_id else None
        if parent == state.parent:
            return state
        linked = state.model_copy(update={"parent": parent, "version": state.version + 1})
        await self._store.save_run(linked, [])
        return linked

    async def _parent(self, run_id: str) -> Parent | None:
        try:
            last = await self._store.load_run(run_id)
        except RunNotFoundError:
            return None
        if last.over:
            return Parent(run_id=run_id, seq=last.message_count - 1)
        if self._on_busy == "reject":
            raise SessionBusyError(f"The session's last run, {run_id}, is still {last.status}.")
        seq = await self._last_complete(last) if self._on_busy == "parallel" else None
        return Parent(run_id=run_id, seq=seq)

    async def _last_complete(self, state: RunState) -> int:
        """The seq of the last message before the current iteration of a run that is going on."""
        if not state.iteration:
            return -1
        messages = await self._transcripts.messages(state)
        return max(m.seq for m in messages if m.iteration <= state.iteration and m.role != "user")

    async def busy_parent(self, state: RunState) -> Parent | None:
        """Return the parent that a run which has not begun waits for, or None."""
        parent = state.parent
        if parent is None or parent.seq is not None or state.model_replies:
            return None
        try:
            last = await self._store.load_run(parent.run_id)
        except RunNotFoundError:
            return None
        return None if last.over else parent

    async def earlier(self, state: RunState) -> Conversation:
        """Return the conversation before this run, oldest first, with the run id of each message.

        It never changes once this run has begun, so it is read once per process.
        """
        key = f"{state.run_id} {state.created_at}"
        if key not in self._earlier:
            self._earlier[key] = await self._read(state.parent)
        self._earlier.move_to_end(key)
        if len(self._earlier) > CONVERSATIONS_KEPT:
            self._earlier.popitem(last=False)
        return self._earlier[key]

    async def _read(self, parent: Parent | None) -> Conversation:
        parts: list[Conversation] = []
        while parent is not None and len(parts) < RUNS_SEEN:
            try:
                run = await self._store.load_run(parent.run_id)
            except RunNotFoundError:
                break
            seq = run.message_count - 1 if parent.seq is None else parent.seq
            messages = await self._transcripts.messages(run)
            parts.append([(run.run_id, message) for message in messages[: seq + 1]])
            parent = run.parent
        return [pair for part in reversed(parts) for pair in part]


def _head_key(state: RunState) -> str:
    """One user's session is never another's, whatever the session is called."""
    name = json.dumps([state.user_id, state.session_id]).encode()
    return f"session-head/{hashlib.sha256(name).hexdigest()}"
