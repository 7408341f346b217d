"""Which runs are old enough to go, and their deletion."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain
from typing import get_args

from thoughtgear import cache, live
from thoughtgear.batches import Unwatched, Watcher, all_runs, each, find_run
from thoughtgear.deletion import Deleted, Deletion
from thoughtgear.models import OVER, RunState, Status
from thoughtgear.protocols import Document, OrmAdapter, RunFilter
from thoughtgear.sessions import head_key, recent_runs

LOOK_SECONDS = 1.0
"""For how long the runs of a session are as they were seen, while many of them are deleted."""

UNFINISHED: frozenset[Status] = frozenset(get_args(Status)) - OVER


@dataclass(frozen=True)
class Rule:
    """Which runs go: those that have not changed since `before`, have one of the `statuses`, and pass the
    filter (whose own status is not looked at).

    A run of a session that goes on stays: its conversation is shown to the model.
    """

    before: datetime
    where: RunFilter = field(default_factory=RunFilter)
    statuses: frozenset[Status] = OVER

    def meets(self, state: RunState) -> bool:
        """Whether the rule is about this run, wherever it stands in its session; not if a copy has brought
        it in part: the copy goes on with it."""
        met = state.status in self.statuses and state.updated_at < self.before
        return met and not state.unfinished_copy

    def leaves(self, state: RunState) -> bool:
        """Whether this run is not over and stays; then so do the others of its session."""
        return not (state.over or (self.meets(state) and replace(self.where, status=None).matches(state)))


@dataclass(frozen=True)
class Selection:
    """What a rule selects, newest first, but the runs of a session side by side: light, since there may be
    many. `kept` counts those that stay because their session goes on."""

    run_ids: Sequence[str]
    messages: int
    kept: int
    oldest: datetime | None
    newest: datetime | None


async def select(store: OrmAdapter, rule: Rule, watcher: Watcher | None = None) -> Selection:
    """Return the runs that the rule selects now. Reads the state of every run."""
    watcher = watcher or Unwatched()
    watcher.begin("look", None)
    busy = await _busy_sessions(store, rule)
    found: dict[str, list[tuple[str, int, datetime]]] = {}
    kept = 0
    async for state in all_runs(store, _filter(rule)):
        watcher.step()
        if rule.meets(state):
            session = _session(state)
            kept += session in busy
            if session not in busy:
                light = (state.run_id, state.message_count, state.updated_at)
                found.setdefault(session or state.run_id, []).append(light)
    runs = list(chain.from_iterable(found.values()))
    moments = [moment for _, _, moment in runs]
    return Selection(
        run_ids=[run_id for run_id, _, _ in runs],
        messages=sum(count for _, count, _ in runs),
        kept=kept,
        oldest=min(moments, default=None),
        newest=max(moments, default=None),
    )


async def prune(
    store: OrmAdapter, rule: Rule, run_ids: Sequence[str], watcher: Watcher | None = None
) -> Deleted:
    """Delete these runs, as far as the rule still selects them, then the cached results that have expired,
    and the growing text that a process which was killed left of a run that is over. Interrupted, it has
    deleted some; call it again."""
    watcher = watcher or Unwatched()
    busy = await _busy_sessions(store, rule)

    sessions = _Sessions(store, rule, busy)
    deletion = Deletion(store, sessions.leave, watcher.step)

    async def delete(run_id: str) -> None:
        state = await find_run(store, run_id)
        if state is None:
            watcher.step()
        else:
            await deletion.run(state)

    watcher.begin("delete", len(run_ids))
    await each(run_ids, delete)
    sessions.lasts = 0.0
    await deletion.sessions()
    watcher.begin("sweep the cache", None)
    deletion.deleted.cached += await cache.sweep(store, watcher.step)
    await live.sweep(store)
    return deletion.deleted


async def _busy_sessions(store: OrmAdapter, rule: Rule) -> set[str]:
    """Return the sessions that have a run which is not over and stays."""
    # All at once: of a listing per status a run that changes its status meanwhile would fall out.
    states = all_runs(store)
    return {head_key(state) async for state in states if state.session_id is not None and rule.leaves(state)}


class _Sessions:
    """Knows of the sessions whether they go on. Those at work were found before; a run that is not over and
    stays may have come to another one since, or was retried there.

    To see that, the runs of a session are looked at. A look counts while the session's head is the same,
    which a new run moves, and for `lasts` seconds at most: a retry moves no head. Else a long session would
    cost the square of its runs.
    """

    def __init__(self, store: OrmAdapter, rule: Rule, busy: set[str]) -> None:
        self.lasts = LOOK_SECONDS
        self._store, self._rule, self._busy = store, rule, busy
        self._looks: dict[str, tuple[float, str | None]] = {}

    async def leave(self, state: RunState) -> bool:
        """Whether they and the rule leave this run to be deleted."""
        if not self._rule.meets(state):
            return False
        name = _session(state)
        return name is None or (name not in self._busy and not await self._goes_on(name, state))

    async def _goes_on(self, name: str, state: RunState) -> bool:
        begun, head = time.monotonic(), await self._store.get_document("memory", name)
        tag = head.tag if head else None
        seen = self._looks.get(name)
        if seen is not None and seen[1] == tag and begun - seen[0] < self.lasts:
            return False
        async for other in self._runs(state, head):
            if self._rule.leaves(other):
                self._busy.add(name)
                return True
        self._looks[name] = begun, tag
        return False

    async def _runs(self, state: RunState, head: Document | None) -> AsyncIterator[RunState]:
        """The last runs of a session; where its head is damaged, all of them."""
        recent = recent_runs(head)
        if recent is None:
            where = RunFilter(session_id=state.session_id, user_id=state.user_id)
            async for found in all_runs(self._store, where):
                yield found
        for run_id in recent or ():
            other = await find_run(self._store, run_id)
            if other is not None:
                yield other


def _session(state: RunState) -> str | None:
    return head_key(state) if state.session_id is not None else None


def _filter(rule: Rule) -> RunFilter:
    one = next(iter(rule.statuses)) if len(rule.statuses) == 1 else None
    return replace(rule.where, status=one)
