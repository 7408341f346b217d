"""What is done to a run from outside of its attempts: end it, reopen it, give a claim back, settle a call."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Literal

from thoughtgear import inbox
from thoughtgear.agent import Agent
from thoughtgear.commit import RunWriter, unchanged
from thoughtgear.errors import InvalidInputError, RunNotFoundError, StoreError, SupersededError
from thoughtgear.ids import check_label
from thoughtgear.iteration import told_end
from thoughtgear.models import Driver, InboxItem, RunError, RunState, now
from thoughtgear.outcomes import Done, Outcome, Void
from thoughtgear.payloads import IterationResult
from thoughtgear.protocols import Attempt, OrmAdapter
from thoughtgear.tools import cut, result_text
from thoughtgear.transitions import close, reopen

BRIEF_PAUSE = 1.0
"""Seconds of a pause between two iterations that a claim is kept for."""


async def close_run(
    agent: Agent,
    run_id: str,
    status: Literal["failed", "cancelled"],
    error: RunError | None = None,
    by: str = "",
) -> RunState:
    """End a run: fence whoever is at work on it, and give every open call a result. A run that is over is
    returned as it is, and so is one that `by` has ended before: it was retried since."""
    while True:
        state = await agent.store.load_run(run_id)
        if state.over or (by and state.ended_by == by):
            return state
        attempt = Attempt(driver=state.driver.executor)
        writer = RunWriter(agent.store, state, attempt, agent.transcripts.appended)
        try:
            ended = await writer.commit(partial(close, status=status, error=error, by=by))
        except SupersededError:
            continue
        await told_end(agent, ended)
        return ended


async def reopen_run(agent: Agent, run_id: str, driver: Driver) -> RunState:
    """Take the end of a run that failed or was cancelled back, under the next epoch. A run that goes on is
    returned as it is. Raises `InvalidInputError` for one that is done, or not wholly copied."""
    while True:
        state = await agent.store.load_run(run_id)
        if state.status == "done":
            raise InvalidInputError(f"Run {run_id} is done; there is nothing to retry. Send it a message.")
        if state.unfinished_copy:
            raise InvalidInputError(f"The copy of run {run_id} into this store has not ended; end it first.")
        if not state.over:
            return state
        attempt = Attempt(driver=driver.executor)
        writer = RunWriter(agent.store, state, attempt, agent.transcripts.appended)
        with suppress(SupersededError):
            return await writer.commit(partial(reopen, driver=driver), release=True)


async def note_driver(store: OrmAdapter, run_id: str, executor: str) -> None:
    """Note that a run which nobody has begun is another executor's than it was created for. Where somebody
    else has changed it meanwhile, or the store does not answer, whoever begins it notes that itself."""
    with suppress(StoreError, RunNotFoundError):
        state = await store.load_run(run_id)
        if state.over or state.claim.epoch or state.driver.executor == executor:
            return
        driver = state.driver.model_copy(update={"executor": executor})
        changed = {"driver": driver, "version": state.version + 1, "updated_at": now()}
        await store.save_run(state.model_copy(update=changed), [])


async def unclaimed_parent(agent: Agent, run_id: str) -> str | None:
    """Return the run that this one waits for, where it is this handler's and nobody has begun it."""
    parent = (await agent.store.load_run(run_id)).parent
    if parent is None:
        return None
    try:
        earlier = await agent.store.load_run(parent.run_id)
    except RunNotFoundError:
        return None
    mine = not earlier.over and not earlier.claim.epoch and earlier.handler == agent.name
    return earlier.run_id if mine else None


async def release(agent: Agent, run_id: str, scope: str) -> None:
    """Give back the claim that a driver's scope holds, if it does. Nothing else changes."""
    with suppress(StoreError, RunNotFoundError, SupersededError):
        state = await agent.store.load_run(run_id)
        if state.claim.owner.rpartition("/")[0] == scope:
            attempt = Attempt(driver=state.claim.driver, scope=scope)
            writer = RunWriter(agent.store, state, attempt, agent.transcripts.appended)
            await writer.commit(unchanged, release=True)


async def stand_down(agent: Agent, run_id: str, attempt: Attempt, result: IterationResult) -> None:
    """Give the claim of an attempt back that waits for a pace: nobody is at work on the run meanwhile."""
    brief = attempt.keep_claim and result.wait <= BRIEF_PAUSE
    if result.paced and not brief and (attempt.keep_claim or attempt.number > 1):
        await release(agent, run_id, attempt.scope)


async def pass_on(agent: Agent, run_id: str, attempt: Attempt) -> None:
    """End a turn that had nothing to do: a claim that is given back with the same commit. Raises
    `SupersededError` where the run is over, or no longer at the epoch of the attempt."""
    state = await agent.store.load_run(run_id)
    if state.over or state.claim.epoch != attempt.epoch:
        raise SupersededError
    writer = RunWriter(agent.store, state, attempt, agent.transcripts.appended)
    await writer.commit(unchanged, release=True)


async def settle(agent: Agent, run_id: str, call_id: str, outcome: Outcome) -> RunState:
    """Put a person's decision about a call into the run's inbox. The first one counts.

    Raises `InvalidInputError` when no such call waits for one.
    """
    item = _decision(check_label(call_id, "call id"), outcome, agent.limits.tool_result_bytes)
    state = await agent.store.load_run(run_id)
    if inbox.knows(state, item.request_id):
        return state
    waiting = [row.call.id for row in state.ledger if row.status == "waiting"]
    if call_id not in waiting:
        known = f"these do: {', '.join(waiting)}" if waiting else "none does"
        raise InvalidInputError(f"Call {call_id[:40]!r} of run {run_id} waits for no decision; {known}.")
    return await inbox.put(agent.store, run_id, item, agent.limits)


def _decision(call_id: str, outcome: Outcome, most_bytes: int) -> InboxItem:
    item = InboxItem(request_id=f"{inbox.OURS}settle-{call_id}", kind="settle", call_id=call_id)
    if isinstance(outcome, Done):
        item.outcome, item.text = "done", cut(result_text(outcome.result), most_bytes)
    elif isinstance(outcome, Void):
        item.outcome, item.text = "void", cut(result_text(outcome.reason), most_bytes)
    elif outcome is not None:
        raise InvalidInputError("An outcome is Done(result), Void(reason) or None.")
    return item
