"""Sessions: the chain of parents. What a run sees of the conversation is frozen and complete turns.

The head document of a session names its last run. A new run is stored first, with the head's run as its
parent, and then made the head by compare-and-swap; when someone was faster, its parent is set anew.

A repeated request must find that its run is linked already, else the run would come behind its own
descendants. It is while the run is the head; and before the head goes on, whoever moves it marks a run that
has not begun as `linked` (one that has begun is never linked any more). A linker reads the run before the
head: what happens to either in between makes its compare-and-swap fail.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

from thoughtgear.errors import (
    ConfigurationError,
    ConflictError,
    RunNotFoundError,
    SessionBusyError,
    StoreError,
    StoreUnavailableError,
)
from thoughtgear.models import Message, Parent, RunState
from thoughtgear.protocols import Document, OrmAdapter
from thoughtgear.transcript import KEPT_BYTES, ByteCache, Transcripts, size_of

Conversation = list[tuple[str, Message]]
OnBusy = Literal["queue", "reject", "parallel"]

HEADS = "session-head/"
"""What the keys of the heads begin with, in `memory`."""

RUNS_SEEN = 100
"""How many earlier runs of a conversation a model sees at the most."""

LINK_TRIES = 1000
"""How often a run may find that someone was faster: more than there are prompts to one session at once."""

RECENT_KEPT = RUNS_SEEN
"""Run ids that a head remembers, oldest first: the way past runs that were deleted."""


class Sessions:
    """Links runs to their sessions and reads conversations."""

    def __init__(
        self,
        store: OrmAdapter,
        transcripts: Transcripts,
        on_busy: OnBusy,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        if on_busy not in ("queue", "reject", "parallel"):
            raise ConfigurationError('on_busy is "queue", "reject" or "parallel".')
        self._store = store
        self._transcripts = transcripts
        self._on_busy = on_busy
        self._earlier: ByteCache[Conversation] = ByteCache(kept_bytes)

    async def begin(self, state: RunState) -> None:
        """Give a run that is not stored yet its parent. Raises `SessionBusyError`."""
        _, recent = await self._head(state)
        state.parent = await self._parent(await self._newest(recent))

    async def link(self, state: RunState) -> RunState:
        """Make a new, stored run the last one of its session; once, however often this is called.

        Raises `SessionBusyError`, and `RunNotFoundError` when the run was deleted meanwhile.
        """
        for _ in range(LINK_TRIES):
            if state.linked or state.status != "pending":
                return state
            document, recent = await self._head(state)
            if state.run_id in recent:
                return await self._store.load_run(state.run_id)
            try:
                return await self._append(state, document, recent)
            except ConflictError:
                state = await self._store.load_run(state.run_id)
        raise StoreUnavailableError("The session changes faster than a run can be linked to it; try again.")

    async def _head(self, state: RunState) -> tuple[Document | None, list[str]]:
        document = await self._store.get_document("memory", head_key(state))
        return document, _recent(document) if document else []

    async def _append(self, state: RunState, document: Document | None, recent: list[str]) -> RunState:
        """Raises `ConflictError` when the run, the one before it or the head has changed meanwhile."""
        last = await self._newest(recent)
        parent = await self._parent(last)
        if last is not None and last.status == "pending" and not last.linked:
            await self._change(last, linked=True)
        # The same parent stays as it was frozen: another linker of this run may have gone on already.
        if (parent and parent.run_id) != (state.parent and state.parent.run_id):
            state = await self._change(state, parent=parent)
        value = json.dumps({"recent": [*recent, state.run_id][-RECENT_KEPT:]}).encode()
        tag = document.tag if document else None
        await self._store.put_document("memory", head_key(state), value, tag=tag)
        return state

    async def _change(self, state: RunState, **fields: Any) -> RunState:
        # The claim and the nonce stay: the holder must recognise its own last commit below this one.
        changed = state.model_copy(update={**fields, "version": state.version + 1})
        await self._store.save_run(changed, [])
        return changed

    async def _newest(self, run_ids: Sequence[str]) -> RunState | None:
        """Return the last of these runs that is not deleted."""
        for run_id in reversed(run_ids):
            with suppress(RunNotFoundError):
                return await self._store.load_run(run_id)
        return None

    async def _parent(self, last: RunState | None) -> Parent | None:
        if last is None:
            return None
        if not last.over and self._on_busy == "reject":
            raise SessionBusyError(f"The session's last run, {last.run_id}, is still {last.status}.")
        waits = not last.over and self._on_busy == "queue"
        return Parent(run_id=last.run_id, seq=None if waits else await self._last_complete(last))

    async def _last_complete(self, state: RunState) -> int:
        """The seq of the last message of a run that is over; else of that before its current iteration."""
        if state.over:
            return state.message_count - 1
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

    async def frozen(self, state: RunState) -> Parent | None:
        """Return the parent of a run that begins, with the seq up to which this run sees it: a parent that is
        retried afterwards says more, and what a run sees of the conversation does not change."""
        parent = state.parent
        if parent is None or parent.seq is not None:
            return parent
        try:
            run = await self._store.load_run(parent.run_id)
        except RunNotFoundError:
            return parent
        return Parent(run_id=parent.run_id, seq=await self._last_complete(run))

    async def earlier(self, state: RunState, parent: Parent | None) -> Conversation:
        """Return the conversation before this run, oldest first, with the run id of each message. `parent` is
        what `frozen` gave.

        It never changes once this run has begun, so it is read once per process.
        """
        key = f"{state.run_id} {state.created_at} {parent and parent.seq}"
        kept = self._earlier.get(key)
        if kept is None:
            kept = await self._read(state, parent)
            self._earlier.put(key, kept, sum(size_of(message) for _, message in kept))
        return kept

    async def _read(self, state: RunState, parent: Parent | None) -> Conversation:
        parts: list[Conversation] = []
        while parent is not None and len(parts) < RUNS_SEEN:
            run = await self._load(state, parent.run_id)
            if run is None:
                break
            frozen = parent.seq if run.run_id == parent.run_id else None
            seq = await self._last_complete(run) if frozen is None else frozen
            messages = await self._transcripts.messages(run)
            parts.append([(run.run_id, message) for message in messages[: seq + 1]])
            parent = await self._frozen_for_good(run)
        return [pair for part in reversed(parts) for pair in part]

    async def _frozen_for_good(self, run: RunState) -> Parent | None:
        """Freeze the parent of a run that ended before it began, too: later ones see it through this run."""
        parent = await self.frozen(run)
        if parent != run.parent and run.over:
            with suppress(ConflictError):
                await self._change(run, parent=parent)
        return parent

    async def _load(self, state: RunState, run_id: str) -> RunState | None:
        """Return the run, or, where it was deleted, the one before it in the session of `state`."""
        try:
            return await self._store.load_run(run_id)
        except RunNotFoundError:
            _, recent = await self._head(state)
        return await self._newest(recent[: recent.index(run_id)]) if run_id in recent else None


def recent_runs(head: Document | None) -> list[str] | None:
    """Return the ids of the last runs that were linked to the session of this head, oldest first; None where
    it is damaged."""
    try:
        return _recent(head) if head else []
    except StoreError:
        return None


def _recent(head: Document) -> list[str]:
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        recent = json.loads(head.value)["recent"]
        if isinstance(recent, list) and all(isinstance(each, str) for each in recent):
            return recent
    raise StoreError("The head of a session is damaged: it does not name the session's runs.")


def head_key(state: RunState) -> str:
    """Return the key of the head of a run's session. One user's session is never another's, whatever it is
    called."""
    name = json.dumps([state.user_id, state.session_id]).encode()
    return f"{HEADS}{hashlib.sha256(name).hexdigest()}"
