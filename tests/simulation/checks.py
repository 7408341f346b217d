"""What has to hold after every experiment, by the ledger's word."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from simulation.fences import Transcripts, check_commits, check_effects, check_replies
from simulation.ledger import MARK, SECRET
from simulation.transcripts import Shape, check_shape, check_transcript
from simulation.world import World
from thoughtgear.adapters.records import decode_message
from thoughtgear.models import Message, RunState


def verify(world: World, fault_free: dict[str, Shape] | None = None) -> list[str]:
    """Return what does not hold; nothing, if all is well. `fault_free` are the shapes of the transcripts
    without faults, by prompt."""
    transcripts = {run_id: transcript_of(world, run_id) for run_id in world.ledger.writes}
    found = [*world.ledger.wrongs, *world.loop.complaints, *_unseen_errors(world)]
    for run_id, messages in transcripts.items():
        state = world.ledger.writes[run_id][-1].state
        found += check_commits(world.ledger.writes[run_id])
        found += check_transcript(world, state, messages)
        found += _check_end(world, state, messages)
        if fault_free is not None and state.status == "done":
            found += check_shape(world, messages, fault_free)
    found += _check_sessions(world)
    found += _check_acknowledged(world, transcripts)
    found += check_replies(world, transcripts)
    found += check_effects(world, transcripts)
    found += _check_secrets(world)
    return found


def transcript_of(world: World, run_id: str) -> list[Message]:
    """Read a transcript as the store holds it."""
    return [decode_message(body) for body in world.memory._runs[run_id].messages]


def _unseen_errors(world: World) -> Iterator[str]:
    """No task of a process that lives fails without anyone looking at its error."""
    for task in world.loop.tasks:
        dead = task.process is not None and task.process.killed
        if not dead and task.done() and task._log_traceback:
            error = task.exception()
            if SECRET not in str(error):
                yield f"nobody looked at what {task.what} raised: {error!r}"


def _check_end(world: World, state: RunState, messages: list[Message]) -> Iterator[str]:
    """A run ends as its scenario allows, and one that is done has answered everything."""
    buggy = any(strike.kind == "bug" for strike in world.ledger.strikes)
    error = state.error.type if state.error else None
    if state.status not in world.scenario.ends and not (error == "RuntimeError" and buggy):
        yield f"the run ended as {state.status}: {state.error}"
    results = [message.tool_result for message in messages if message.tool_result]
    refused = any(result.status == "unknown" and result.name == "wire" for result in results)
    expected = {
        "OutcomeUnknownError": refused,
        "LimitExceededError": state.iteration >= world.scenario.limits.iterations,
        "RuntimeError": buggy,
    }
    if state.status == "failed" and not expected.get(error or "", False):
        yield f"the run failed without a reason: {state.error}"
    if state.status == "done":
        last = messages[-1]
        if last.role != "assistant" or last.tool_calls or state.output != last.text:
            yield f"the run is done, and its last message is of the {last.role}"
        if refused:
            yield "the run is done although an unknown call fails it"
    if state.over and (state.inbox or state.ledger or state.claim.owner):
        yield f"the run is over, and not tidy: {state.inbox} {state.ledger} {state.claim}"


def _check_sessions(world: World) -> Iterator[str]:
    """The runs of a session's head are one chain, each once. (A run that someone schedules before its prompt
    was acknowledged may have begun before it came into the chain, and stays out.)"""
    for key, document in world.memory._documents["memory"].items():
        recent = json.loads(document.value)["recent"] if key.startswith("session-head/") else []
        if len(recent) != len(set(recent)):
            yield f"the session's head has a run twice: {recent}"
        for earlier, later in pairwise(recent):
            state = world.newest(later)
            if state is None or state.parent is None or state.parent.run_id != earlier:
                yield f"run {later} does not follow run {earlier} in its session"


def _check_acknowledged(world: World, transcripts: Transcripts) -> Iterator[str]:
    """What was acknowledged is there once; what was not, at most once."""
    texts = Counter(message.text for messages in transcripts.values() for message in messages if message.text)
    for sent in world.ledger.sent:
        known = sent in world.ledger.acknowledged
        if sent.kind in ("prompt", "message") and texts[sent.text] != 1 and (known or texts[sent.text]):
            yield f"the {sent.kind} {sent.text!r} is there {texts[sent.text]} times"
        elif sent.kind == "settle" and known:
            yield from _check_settled(sent.request_id, sent.text, transcripts[sent.run_id])


def _check_settled(key: str, outcome: str, messages: Sequence[Message]) -> Iterator[str]:
    status = {"done": "ok", "void": "error"}[outcome]
    call_id = key.rpartition(":")[2]
    results = [message.tool_result for message in messages if message.tool_result]
    if [result.status for result in results if result.call_id == call_id] != [status]:
        yield f"call {call_id} was settled as {outcome}, and its result is not"


def _check_secrets(world: World) -> Iterator[str]:
    """No key in the store; neither keys nor a user's text in Temporal's history, unless given by value."""
    for run_id, run in world.memory._runs.items():
        if any(SECRET in body for body in (run.state, *run.messages)):
            yield f"a secret is stored in {run_id}"
    history = "".join(map(repr, world.ledger.history))
    if SECRET in history or (MARK in history and not world.scenario.by_value):
        yield "Temporal's history holds text or a secret"
