"""Deleting a run, or all that is stored of a user, with whatever belongs to nothing else.

The store's own `delete_run` takes state, messages and files. Beside them lie the text of a reply under way,
what was remembered for the run alone, and, when no run of its session is left, the session's head and memory.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from thoughtgear import cache, live
from thoughtgear.batches import all_runs, each, key_pages
from thoughtgear.errors import ConflictError, RunNotOverError
from thoughtgear.memory import scope_of, scope_prefix, sessions_prefix
from thoughtgear.models import RunState
from thoughtgear.protocols import Collection, Document, OrmAdapter, RunFilter
from thoughtgear.sessions import head_key

FEW_SESSIONS = 10
"""For so many sessions the store is asked one by one whether they have runs."""


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


class Deletion:
    """Deletes runs, then the sessions that are empty by that. `deleted` counts."""

    def __init__(self, store: OrmAdapter) -> None:
        self.deleted = Deleted()
        self._store = store
        self._touched: dict[str, RunState] = {}

    async def run(self, state: RunState) -> None:
        """Delete a run, whoever works on it. That one stops at its next commit."""
        files = [len(page) async for page in key_pages(self._store, "files", f"{state.run_id}/")]
        await self._beside(state)
        await self._store.delete_run(state.run_id)
        if not state.over:
            await self._beside(state)  # whoever worked on it may have written meanwhile
        self.deleted.runs += 1
        self.deleted.messages += state.message_count
        self.deleted.files += sum(files)
        if state.session_id is not None:
            self._touched[head_key(state)] = state

    async def _beside(self, state: RunState) -> None:
        if state.stream:
            await live.forget(self._store, state.run_id)
        await self._forget(scope_of(state, "run"))

    async def sessions(self) -> None:
        """Delete the head and the memory of every session that has lost its last run."""
        heads = {key: await self._store.get_document("memory", key) for key in self._touched}
        # A run that comes from here on moves the head: then its session stays.
        left = await self._left()
        for key, state in self._touched.items():
            if key not in left and await self._removed(heads[key]):
                self.deleted.sessions += heads[key] is not None
                await self._forget(scope_of(state, "session"))

    async def user(self, user_id: str) -> None:
        """Delete what is remembered for a user, and the user's cached results."""
        for prefix in (scope_prefix(f"user:{user_id}"), sessions_prefix(user_id)):
            await self._clear("memory", prefix)
        await self._clear("cache", cache.prefix_of(user_id))

    async def _left(self) -> set[str]:
        """Return the sessions that have runs: those of a few are asked for, else all runs are looked at."""
        states = list(self._touched.values())
        few = len(states) <= FEW_SESSIONS
        filters = [RunFilter(session_id=state.session_id, user_id=state.user_id) for state in states]
        found: set[str] = set()
        for where in filters if few else [RunFilter()]:
            async for state in all_runs(self._store, where):
                if state.session_id is not None:
                    found.add(head_key(state))
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
                if collection == "memory":
                    self.deleted.remembered += gone
                else:
                    self.deleted.cached += gone

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
    state = await store.load_run(run_id)
    if not (state.over or force):
        raise RunNotOverError(refusal(state))
    deletion = Deletion(store)
    await deletion.run(state)
    await deletion.sessions()
    return deletion.deleted


async def delete_user(store: OrmAdapter, user_id: str, *, force: bool = False) -> Deleted:
    """Delete all that is stored of a user: runs, files, sessions, memory and cached results.

    Raises `RunNotOverError` before anything is deleted where a run of the user is not over, unless `force`. A
    tool that is running then may remember something once more: call again when it has ended.
    """
    where = RunFilter(user_id=user_id)
    if not force:
        async for state in all_runs(store, where):
            if not state.over:
                raise RunNotOverError(refusal(state))
    deletion = Deletion(store)
    await each(all_runs(store, where), deletion.run)
    await deletion.sessions()
    await deletion.user(user_id)
    return deletion.deleted


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
