"""Which runs are old enough to go, and their deletion."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import get_args

from thoughtgear import cache
from thoughtgear.batches import Unwatched, Watcher, all_runs, each, find_run
from thoughtgear.deletion import Deleted, Deletion
from thoughtgear.models import OVER, RunState, Status
from thoughtgear.protocols import OrmAdapter, RunFilter
from thoughtgear.sessions import head_key, recent_runs

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
        """Whether the rule is about this run, wherever it stands in its session."""
        return state.status in self.statuses and state.updated_at < self.before

    def leaves(self, state: RunState) -> bool:
        """Whether this run is not over and stays; then so do the others of its session."""
        return not (state.over or (self.meets(state) and replace(self.where, status=None).matches(state)))


@dataclass(frozen=True)
class Selection:
    """What a rule selects, newest first: light, since there may be many. `kept` counts those that stay
    because their session goes on."""

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
    found, kept = [], 0
    async for state in all_runs(store, _filter(rule)):
        watcher.step()
        if rule.meets(state):
            stays = _session(state) in busy
            kept += stays
            found += [] if stays else [(state.run_id, state.message_count, state.updated_at)]
    moments = [moment for _, _, moment in found]
    return Selection(
        run_ids=[run_id for run_id, _, _ in found],
        messages=sum(count for _, count, _ in found),
        kept=kept,
        oldest=min(moments, default=None),
        newest=max(moments, default=None),
    )


async def prune(
    store: OrmAdapter, rule: Rule, run_ids: Sequence[str], watcher: Watcher | None = None
) -> Deleted:
    """Delete these runs, as far as the rule still selects them, then the cached results that have expired.
    Interrupted, it has deleted some; call it again."""
    watcher = watcher or Unwatched()
    busy = await _busy_sessions(store, rule)

    async def may_go(state: RunState) -> bool:
        if not rule.meets(state) or _session(state) in busy:
            return False
        return not await _goes_on(store, rule, state)

    deletion = Deletion(store, may_go)

    async def delete(run_id: str) -> None:
        state = await find_run(store, run_id)
        if state is not None:
            await deletion.run(state)
        watcher.step()

    watcher.begin("delete", len(run_ids))
    await each(_given(run_ids), delete)
    await deletion.sessions()
    watcher.begin("sweep the cache", None)
    deletion.deleted.cached += await cache.sweep(store, watcher.step)
    return deletion.deleted


async def _busy_sessions(store: OrmAdapter, rule: Rule) -> set[str | None]:
    """Return the sessions that have a run which is not over and stays."""
    # All at once: of a listing per status a run that changes its status meanwhile would fall out.
    states = all_runs(store)
    busy = {_session(state) async for state in states if rule.leaves(state)}
    return busy - {None}


async def _goes_on(store: OrmAdapter, rule: Rule, state: RunState) -> bool:
    """Whether a run that is not over and stays has come to the session of this one, or was retried there."""
    if state.session_id is None:
        return False
    for run_id in await recent_runs(store, state):
        other = await find_run(store, run_id)
        if other is not None and rule.leaves(other):
            return True
    return False


def _session(state: RunState) -> str | None:
    return head_key(state) if state.session_id is not None else None


def _filter(rule: Rule) -> RunFilter:
    one = next(iter(rule.statuses)) if len(rule.statuses) == 1 else None
    return replace(rule.where, status=one)


async def _given(run_ids: Sequence[str]) -> AsyncIterator[str]:
    for run_id in run_ids:
        yield run_id
