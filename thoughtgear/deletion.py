"""Deleting a run, or all that is stored of a user, with whatever belongs to nothing else.

The store's own `delete_run` takes state, messages and files. Beside them lie the text of a reply under way,
what was remembered for the run alone, the summaries of its session, which may tell of it, and, when no run of
its session is left, the session's head and memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial

from thoughtgear import cache, live
from thoughtgear.batches import all_runs, each, find_run, key_pages
from thoughtgear.errors import ConflictError, RunNotFoundError, RunNotOverError, StoreError
from thoughtgear.memory import scope_of, scope_prefix, sessions_prefix
from thoughtgear.models import RunState
from thoughtgear.protocols import Collection, Document, OrmAdapter, RunFilter
from thoughtgear.sessions import head_key
from thoughtgear.summaries import SUMMARIES, home_of, users_prefix

FEW_SESSIONS = 10
"""For so many sessions the store is asked one by one whether they have runs."""

SESSIONS = 200
"""So many sessions are ended, with their last runs, before the next ones are: their heads and their memory
go first, and an interruption finds no more of them without. For each lot all runs are looked at twice."""


@dataclass
class Deleted:
    """What was deleted: runs with their messages and files, sessions of which nothing is left, values that
    were remembered, and cached results."""

    runs: int = 0
    messages: int = 0
    files: int = 0
    sessions: int = 0
    remembered: int = 0
    cached: int = 0

    def __add__(self, other: Deleted) -> Deleted:
        names = [each.name for each in fields(self)]
        return Deleted(**{name: getattr(self, name) + getattr(other, name) for name in names})


MayGo = Callable[[RunState], Awaitable[bool]]
"""Whether a run may be deleted as it stands now. It may raise."""


class Deletion:
    """Deletes runs, then the sessions that are empty by that. `deleted` counts.

    What is found goes last, so that a deletion which died half way is completed by another one: a run after
    all that belongs to it, and the first of each session that comes here is kept until `sessions` has looked
    whether the session goes with it. `may_go` is asked right before a run goes, `step` is called when a run
    that was given is dealt with.
    """

    def __init__(
        self, store: OrmAdapter, may_go: MayGo | None = None, step: Callable[[], None] = lambda: None
    ) -> None:
        self.deleted = Deleted()
        self._store = store
        self._may_go = may_go
        self._step = step
        self._last: dict[str, RunState] = {}

    async def run(self, state: RunState) -> None:
        """Delete a run, whoever works on it: that one stops at its next commit. Or keep it for `sessions`."""
        if state.session_id is not None and head_key(state) not in self._last:
            self._last[head_key(state)] = state
            return
        if (current := await self._going(state)) is not None:
            await self._delete(current)
        self._step()

    async def _going(self, state: RunState) -> RunState | None:
        """Return a run as it stands now, if it may go."""
        current = await find_run(self._store, state.run_id)
        if current is None:
            await self._finish(state.run_id)
        elif self._may_go is None or await self._may_go(current):
            return current
        return None

    async def _delete(self, state: RunState) -> None:
        await self._beside(state.run_id, state.stream)
        await self._clear("files", f"{state.run_id}/")
        await self._summaries(home_of(state))
        await self._store.delete_run(state.run_id)
        await self._summaries(home_of(state))  # who wrote one meanwhile may have found the run there
        if not state.over:
            await self._beside(state.run_id, state.stream)  # whoever worked on it may have written meanwhile
        self.deleted.runs += 1
        self.deleted.messages += state.message_count

    async def _finish(self, run_id: str) -> None:
        """Complete the deletion of a run of which only that is known."""
        await self._store.delete_run(run_id)
        await self._beside(run_id, streamed=True)

    async def find(self, run_id: str) -> RunState:
        """Return a run to delete. Where it is gone its deletion is completed, then `RunNotFoundError`."""
        try:
            return await self._store.load_run(run_id)
        except RunNotFoundError:
            await self._finish(run_id)
            raise

    async def unreadable(self, run_id: str) -> None:
        """Delete a run whose state is damaged: what its id names. Nobody knows of its session, so that the
        summaries of all sessions go."""
        await self._clear("files", f"{run_id}/")
        await self._summaries(SUMMARIES)
        await self._finish(run_id)
        await self._summaries(SUMMARIES)
        self.deleted.runs += 1

    async def _summaries(self, prefix: str) -> None:
        """Delete summaries, those too that are written while they are listed."""
        while await self._store.list_documents("files", prefix, limit=1):
            await self._clear("files", prefix)

    async def _beside(self, run_id: str, streamed: bool) -> None:
        if streamed:
            await live.forget(self._store, run_id)
        await self._forget(f"run:{run_id}")

    async def sessions(self) -> None:
        """Delete the runs that were kept; before it the head and memory of a session that has no other."""
        kept, self._last = list(self._last.values()), {}
        for first in range(0, len(kept), SESSIONS):
            await self._end_lot(kept[first : first + SESSIONS])

    async def _end_lot(self, lot: Sequence[RunState]) -> None:
        last: dict[str, RunState] = {}
        heads: dict[str, Document | None] = {}

        async def look(state: RunState) -> None:
            key, current = head_key(state), await self._going(state)
            if current is None:
                self._step()
            else:
                last[key] = current
                heads[key] = await self._store.get_document("memory", key)

        await each(lot, look)
        # A run that comes from here on moves the head: then its session stays.
        others = await self._others(last)
        ending: dict[str, RunState] = {}

        async def go_first(state: RunState) -> None:
            if head_key(state) not in others and await self._going(state):
                ending[head_key(state)] = state

        await each(last.values(), go_first)
        await self._end(ending, heads)

        async def delete(state: RunState) -> None:
            current = await self._going(state)  # it may have been retried meanwhile
            if current is not None:
                await self._delete(current)
                other = others.get(head_key(state))
                if other is not None and await find_run(self._store, other) is None:
                    await self._end_since({head_key(state): state})  # someone deleted it at the same time
            self._step()

        await each(last.values(), delete)

    async def _end_since(self, sessions: dict[str, RunState]) -> None:
        heads = {key: await self._store.get_document("memory", key) for key in sessions}
        if not await self._others(sessions):
            await self._end(sessions, heads)

    async def _end(self, sessions: dict[str, RunState], heads: dict[str, Document | None]) -> None:
        """Delete heads, then the memory of those sessions to which no run has come meanwhile: a new run is
        stored before it moves the head."""
        ended: dict[str, RunState] = {}

        async def remove(key: str) -> None:
            if await self._removed(heads[key]):
                ended[key] = sessions[key]

        await each(sessions, remove)
        others = await self._others(ended)

        async def forget(key: str) -> None:
            self.deleted.sessions += heads[key] is not None
            await self._forget(scope_of(ended[key], "session"))

        await each([key for key in ended if key not in others], forget)

    async def user(self, user_id: str) -> None:
        """Delete what is remembered for a user, the user's cached results, and summaries that are left."""
        for prefix in (scope_prefix(f"user:{user_id}"), sessions_prefix(user_id)):
            await self._clear("memory", prefix)
        await self._clear("cache", cache.prefix_of(user_id))
        await self._summaries(users_prefix(user_id))

    async def _others(self, sessions: dict[str, RunState]) -> dict[str, str]:
        """Return of each of these sessions that has another run than this one the id of such a run. A few
        sessions are asked for, else all runs are looked at."""
        few = len(sessions) <= FEW_SESSIONS
        filters = [RunFilter(session_id=run.session_id, user_id=run.user_id) for run in sessions.values()]
        found: dict[str, str] = {}
        for where in filters if few else [RunFilter()]:
            async for state in all_runs(self._store, where):
                own = sessions.get(head_key(state)) if state.session_id is not None else None
                if own is not None and own.run_id != state.run_id:
                    found[head_key(state)] = state.run_id
        return found

    async def _removed(self, document: Document | None) -> bool:
        try:
            if document is not None:
                await self._store.put_document("memory", document.key, None, tag=document.tag)
        except ConflictError:
            return False
        return True

    async def _forget(self, scope: str | None) -> None:
        if scope is not None:
            await self._clear("memory", scope_prefix(scope))

    async def _clear(self, collection: Collection, prefix: str) -> None:
        async for page in key_pages(self._store, collection, prefix):
            for key in page:
                gone = await self._gone(collection, key)  # counted afterwards: others count meanwhile
                name = {"memory": "remembered", "cache": "cached", "files": "files"}[collection]
                setattr(self.deleted, name, getattr(self.deleted, name) + gone)

    async def _gone(self, collection: Collection, key: str) -> bool:
        """Delete a document, whoever writes it meanwhile. Returns whether it was there."""
        there = False
        while (document := await self._store.get_document(collection, key)) is not None:
            there = True
            try:
                await self._store.put_document(collection, key, None, tag=document.tag)
            except ConflictError:
                continue
        return there


async def delete_run(store: OrmAdapter, run_id: str, *, force: bool = False) -> Deleted:
    """Delete a run and all that belongs to it alone.

    Raises `RunNotFoundError`, and `RunNotOverError` for a run that is not over, unless `force`: whoever works
    on that one stops at the next commit, and nothing brings it back.
    """
    deletion = Deletion(store, partial(_unless_going_on, force))
    state = await find(store, run_id, force=force)
    if state is None:
        await deletion.unreadable(run_id)
    else:
        await deletion.run(state)
        await deletion.sessions()
    return deletion.deleted


async def find(store: OrmAdapter, run_id: str, *, force: bool = False) -> RunState | None:
    """Return a run to delete; None, by `force`, where its state is damaged.

    Raises `RunNotOverError` for one that is not over, unless `force`, and `RunNotFoundError` where there is
    none: what a deletion that died has left of it is gone then.
    """
    try:
        state = await Deletion(store).find(run_id)
    except StoreError as exc:
        if exc.retryable:
            raise
        if not force:
            raise StoreError(f"Run {run_id} can't be read. {exc} Delete it all the same by force.") from exc
        return None
    await _unless_going_on(force, state)
    return state


async def delete_user(store: OrmAdapter, user_id: str, *, force: bool = False) -> Deleted:
    """Delete all that is stored of a user: runs, files, sessions, memory and cached results.

    Raises `RunNotOverError` before anything is deleted where a run of the user is not over, unless `force`;
    and, having deleted some, where one has begun meanwhile. A tool that is running then may remember
    something once more: call again when it has ended. Raises `StoreError`, having deleted all else, where
    there are runs that can't be read: they may be the user's.
    """
    damaged: dict[str, str] = {}
    where, may_go = RunFilter(user_id=user_id), partial(_unless_going_on, force)
    if not force:
        async for state in all_runs(store, where):
            await may_go(state)
    deletion = Deletion(store, may_go)
    await each(all_runs(store, where, damaged), deletion.run)
    await deletion.sessions()
    await deletion.user(user_id)
    if damaged:
        raise StoreError(_unread(sorted(damaged)))
    return deletion.deleted


def _unread(run_ids: Sequence[str]) -> str:
    more = f" and {len(run_ids) - 5} more" if len(run_ids) > 5 else ""
    return (
        f"What could be read of the user is deleted. These runs can't be, and may be the user's: "
        f"{', '.join(run_ids[:5])}{more}. Delete them by force: thoughtgear runs delete --force RUN"
    )


async def _unless_going_on(force: bool, state: RunState) -> bool:
    if not (state.over or force):
        raise RunNotOverError(refusal(state))
    return True


async def find_user(store: OrmAdapter, user_id: str) -> Deleted:
    """Return what `delete_user` would delete now, less what only the deletion of the runs would find."""
    found = Deleted()
    async for state in all_runs(store, RunFilter(user_id=user_id)):
        found.runs += 1
        found.messages += state.message_count
    for prefix in (scope_prefix(f"user:{user_id}"), sessions_prefix(user_id)):
        found.remembered += sum([len(page) async for page in key_pages(store, "memory", prefix)])
    keys = key_pages(store, "cache", cache.prefix_of(user_id))
    found.cached = sum([len(page) async for page in keys])
    return found


def refusal(state: RunState) -> str:
    """Say why a run is not deleted, and what to do."""
    return (
        f"Run {state.run_id} is {state.status}: cancel it first (thoughtgear cancel {state.run_id}), or "
        "delete it all the same by force; whatever works on it then stops at its next commit."
    )
