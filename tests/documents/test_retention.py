"""Which runs are old enough to go, on every store; and what stays all the same."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hooked_store import HookedStore

from thoughtgear import deletion, live
from thoughtgear.batches import TOGETHER, Unwatched
from thoughtgear.cache import Entry
from thoughtgear.errors import StoreUnavailableError
from thoughtgear.models import OVER, UNFINISHED_COPY, RunError, RunState, now
from thoughtgear.protocols import OrmAdapter, RunFilter
from thoughtgear.registry import open_store
from thoughtgear.retention import UNFINISHED, Rule, prune, select
from thoughtgear.sessions import HEADS, head_key
from thoughtgear.testing import append, new_run

BEFORE = now() - timedelta(days=30)


async def put(
    store: OrmAdapter, run_id: str, *, status: Any = "done", days: int = 40, **fields: Any
) -> RunState:
    """Store a run that was created `days` ago and changed a day later."""
    created = now() - timedelta(days=days)
    changed = fields.pop("updated_at", created + timedelta(days=1))
    return await append(
        store, new_run(run_id, status=status, created_at=created, updated_at=changed, **fields), "a", "b"
    )


async def selected(store: OrmAdapter, rule: Rule) -> set[str]:
    return set((await select(store, rule)).run_ids)


async def names(store: OrmAdapter) -> set[str]:
    return {run.run_id for run in (await store.list_runs(limit=1000)).runs}


async def test_old_runs_go(store: OrmAdapter):
    """Runs that are over and have not changed for so long are deleted, by when they changed and not by when
    they began; younger ones and those that are not over stay, and the selection says what there is."""
    await put(store, "old", days=100)
    await put(store, "failed", status="failed")
    await put(store, "late", updated_at=now() - timedelta(days=1))
    await put(store, "young", days=2)
    for status in sorted(UNFINISHED):
        await put(store, status, status=status)
    rule = Rule(BEFORE)
    selection = await select(store, rule)
    deleted = await prune(store, rule, selection.run_ids)
    assert (set(selection.run_ids), selection.messages, selection.kept) == ({"old", "failed"}, 4, 0)
    assert selection.oldest is not None
    assert (now() - selection.oldest).days == 99
    assert (deleted.runs, deleted.messages) == (2, 4)
    assert await names(store) == {"late", "young", *UNFINISHED}
    assert await select(store, rule) == await select(store, Rule(BEFORE, statuses=frozenset(["failed"])))


@pytest.fixture
async def memory() -> HookedStore:
    return HookedStore(open_store("memory://"))


async def test_a_rule_is_narrowed(memory: HookedStore):
    """Filter and statuses narrow a rule down; unfinished runs go when it names them."""
    await put(memory, "a", handler="h", user_id="ann", metadata={"team": "blue"})
    await put(memory, "b", status="cancelled", session_id="s")
    await put(memory, "c", status="pending")
    assert await selected(memory, Rule(BEFORE, RunFilter(handler="h"))) == {"a"}
    assert await selected(memory, Rule(BEFORE, RunFilter(user_id="ben"))) == set()
    assert await selected(memory, Rule(BEFORE, RunFilter(metadata={"team": "blue"}))) == {"a"}
    assert await selected(memory, Rule(BEFORE, RunFilter(session_id="s"))) == {"b"}
    assert await selected(memory, Rule(BEFORE, statuses=frozenset(["cancelled"]))) == {"b"}
    assert await selected(memory, Rule(BEFORE, statuses=frozenset(["pending"]))) == {"c"}
    assert await selected(memory, Rule(BEFORE, statuses=OVER | UNFINISHED)) == {"a", "b", "c"}


async def test_a_session_that_goes_on_keeps_its_runs(memory: HookedStore):
    """As long as a run of a session is not over its earlier ones stay, of that user and session alone, unless
    that run goes, too."""
    await put(memory, "begin", session_id="s", user_id="ann")
    await put(memory, "others", session_id="s", user_id="ben")
    await put(memory, "still", session_id="s", user_id="ann", status="running", days=35)
    await put(memory, "alone")
    selection = await select(memory, Rule(BEFORE))
    assert (set(selection.run_ids), selection.kept) == ({"others", "alone"}, 1)
    everything = Rule(BEFORE, statuses=OVER | UNFINISHED)
    assert await selected(memory, everything) == {"begin", "others", "still", "alone"}


async def test_a_session_goes_on_by_a_run_that_the_filter_leaves_out(memory: HookedStore):
    """A run that is not over and that the filter leaves out keeps the runs of its session, also where
    unfinished runs go."""
    await put(memory, "old", handler="h", session_id="s")
    await put(memory, "waits", handler="other", session_id="s", status="waiting")
    rule = Rule(BEFORE, RunFilter(handler="h"), OVER | UNFINISHED)
    assert (await select(memory, rule)).kept == 1
    assert (await prune(memory, rule, ["old"])).runs == 0
    assert await names(memory) == {"old", "waits"}
    assert await selected(memory, Rule(BEFORE, statuses=OVER | UNFINISHED)) == {"old", "waits"}


async def test_what_changed_since_the_look_stays(memory: HookedStore):
    """A run that went on, or whose session went on, between the selection and its deletion is spared; one
    that is gone by then is no fault."""
    rule = Rule(BEFORE, statuses=OVER | UNFINISHED)
    moved = await put(memory, "moved", status="pending")
    for name in ("talk", "gone", "old"):
        await put(memory, name, session_id=name)
    selection = await select(memory, rule)
    await append(memory, moved.model_copy(update={"updated_at": now()}))
    await put(memory, "again", session_id="talk", status="running", days=0)
    await memory.delete_run("gone")
    deleted = await prune(memory, rule, selection.run_ids)
    assert len(selection.run_ids) == 4
    assert deleted.runs == 1
    assert await names(memory) == {"moved", "talk", "again"}


async def test_expired_cached_results_go(memory: HookedStore):
    """A prune sweeps cached results that have expired, and leaves the others."""
    for name, days in (("expired", -1), ("fresh", 1)):
        entry = Entry(content="x", saved_at=now(), expires_at=now() + timedelta(days=days))
        await memory.put_document("cache", f"tool/{name}", entry.model_dump_json().encode(), tag=None)
    assert (await prune(memory, Rule(BEFORE), [])).cached == 1
    assert await memory.list_documents("cache") == ["tool/fresh"]


async def test_text_of_runs_that_are_over_goes(memory: HookedStore):
    """A prune removes the growing text that a killed process left of a run that stays."""
    await put(memory, "young", days=2)
    await memory.put_document("cache", f"{live.LIVE}young", b"{}", tag=None)
    await prune(memory, Rule(BEFORE), [])
    assert await memory.get_document("cache", f"{live.LIVE}young") is None


async def test_an_interrupted_prune_is_taken_up(memory: HookedStore):
    """After a fault in its midst the next prune deletes what is left."""
    for number in range(20):
        await put(memory, f"r{number}")
    calls: list[str] = []

    async def failing(real: Any, run_id: str) -> None:
        calls.append(run_id)
        if len(calls) > 10:
            raise OSError("gone")
        await real(run_id)

    memory.hooks["delete_run"] = failing
    rule = Rule(BEFORE)
    with pytest.raises(OSError):
        await prune(memory, rule, (await select(memory, rule)).run_ids)
    assert len(await names(memory)) == 10
    memory.hooks.clear()
    assert (await prune(memory, rule, (await select(memory, rule)).run_ids)).runs == 10


async def test_a_run_that_changes_its_status_is_seen(memory: HookedStore):
    """A session is found at work although its run moves to another status while the runs are listed."""
    await put(memory, "old", session_id="s")
    live = await put(memory, "live", session_id="s", status="running", days=0)

    async def listed(real: Any, where: RunFilter, **options: Any) -> Any:
        nonlocal live
        page = await real(where, **options)
        live = await append(
            memory, live.model_copy(update={"status": "waiting" if live.status == "running" else "running"})
        )
        return page

    for status in ("running", "waiting"):
        live = await append(memory, live.model_copy(update={"status": status}))
        memory.hooks["list_runs"] = listed
        selection = await select(memory, Rule(BEFORE))
        memory.hooks.clear()
        assert (list(selection.run_ids), selection.kept) == ([], 1)


@pytest.mark.parametrize("olds", [["old"], ["older", "old"]])
async def test_a_session_that_goes_on_since_the_look_keeps_its_runs(memory: HookedStore, olds: list[str]):
    """A run that comes to a session, or is retried, after a prune has looked keeps its other runs."""
    runs = [await put(memory, name, session_id="s") for name in olds]
    fresh = await put(memory, "fresh", session_id="s", days=0)
    head = json.dumps({"recent": [*olds, "fresh"]}).encode()
    await memory.put_document("memory", head_key(fresh), head, tag=None)

    async def listed(real: Any, *args: Any, **options: Any) -> Any:
        memory.hooks.clear()
        page = await real(*args, **options)
        await append(memory, fresh.model_copy(update={"status": "running"}))
        return page

    memory.hooks["list_runs"] = listed
    deleted = await prune(memory, Rule(BEFORE), olds)
    assert (memory.hooks, deleted.runs) == ({}, 0)
    assert {run.run_id for run in runs} < await names(memory)


async def test_a_damaged_head_keeps_no_prune_from_its_work(memory: HookedStore):
    """Where the head of a session does not name its runs, they are found all the same: a session that goes on
    keeps them, the other one goes with its head, and so do the runs of no session."""
    for name in ("quiet", "busy"):
        state = await put(memory, f"{name}-old", session_id=name)
        await memory.put_document("memory", head_key(state), b"[", tag=None)
    fresh = await put(memory, "fresh", session_id="busy", days=0)
    await put(memory, "alone")

    async def listed(real: Any, *args: Any, **options: Any) -> Any:
        memory.hooks.clear()
        page = await real(*args, **options)
        await append(memory, fresh.model_copy(update={"status": "running"}))
        return page

    memory.hooks["list_runs"] = listed
    deleted = await prune(memory, Rule(BEFORE), ["quiet-old", "busy-old", "alone"])
    assert (deleted.runs, deleted.sessions) == (2, 1)
    assert await names(memory) == {"busy-old", "fresh"}


async def test_the_runs_of_a_session_are_not_looked_at_for_each_of_them(memory: HookedStore):
    """Deleting a session of 60 runs loads a few states per run, and not all of the others for each."""
    loads, runs = 0, [f"r{number}" for number in range(60)]
    for name in runs:
        state = await put(memory, name, session_id="s")
    await put(memory, "alone")
    head = json.dumps({"recent": runs}).encode()
    await memory.put_document("memory", head_key(state), head, tag=None)

    async def loaded(real: Any, run_id: str) -> Any:
        nonlocal loads
        loads += 1
        return await real(run_id)

    selection = await select(memory, Rule(BEFORE))
    memory.hooks["load_run"] = loaded
    assert (await prune(memory, Rule(BEFORE), selection.run_ids)).runs == 61
    assert loads < 61 * 20  # 60 * 60 would be 3,600


async def test_sessions_are_ended_lot_by_lot(memory: HookedStore, monkeypatch: pytest.MonkeyPatch):
    """A prune that is interrupted has deleted the runs of the lots before, and the sessions of the lots to
    come have all they had; a step is told when a run is dealt with, and not before."""
    monkeypatch.setattr(deletion, "SESSIONS", 2)
    for number in range(6):
        state = await put(memory, f"r{number}", session_id=f"s{number}")
        head = json.dumps({"recent": [f"r{number}"]}).encode()
        await memory.put_document("memory", head_key(state), head, tag=None)
    steps, told = 0, []

    class Watcher(Unwatched):
        def step(self, count: int = 1) -> None:
            nonlocal steps
            steps += count

    async def deleted(real: Any, run_id: str) -> None:
        told.append(steps)
        if len(told) > 2:
            raise StoreUnavailableError
        await real(run_id)

    selection = await select(memory, Rule(BEFORE))
    memory.hooks["delete_run"] = deleted
    with pytest.raises(StoreUnavailableError):
        await prune(memory, Rule(BEFORE), selection.run_ids, Watcher())
    memory.hooks.clear()
    assert told[0] == 0
    assert steps == 2
    assert len(await names(memory)) == 4
    assert len(await memory.list_documents("memory", HEADS)) == 2


async def test_a_run_that_comes_between_two_deletions_keeps_what_it_sees(memory: HookedStore):
    """A prompt that comes to a session while its old runs are being deleted ends that: the rest stays."""
    for number in range(40):
        state = await put(memory, f"r{number:02}", session_id="s")
    head = json.dumps({"recent": [f"r{number:02}" for number in range(40)]}).encode()
    tag = await memory.put_document("memory", head_key(state), head, tag=None)
    gone = 0

    async def deleted(real: Any, run_id: str) -> None:
        nonlocal gone
        gone += 1
        await real(run_id)
        if gone == 5:
            await put(memory, "new", session_id="s", status="pending", days=0)
            moved = json.dumps({"recent": ["r39", "new"]}).encode()
            await memory.put_document("memory", head_key(state), moved, tag=tag)

    selection = await select(memory, Rule(BEFORE))
    memory.hooks["delete_run"] = deleted
    result = await prune(memory, Rule(BEFORE), selection.run_ids)
    assert 5 <= result.runs < 5 + TOGETHER  # those that were under way


async def test_what_a_copy_brought_in_part_stays(memory: HookedStore):
    """A run that a copy has not brought whole yet is the copy's, however old it is."""
    await put(memory, "part", status="failed", error=RunError(type=UNFINISHED_COPY, message="…"))
    await put(memory, "whole", status="failed", error=RunError(type="StoreError", message="…"))
    assert await selected(memory, Rule(BEFORE)) == {"whole"}
