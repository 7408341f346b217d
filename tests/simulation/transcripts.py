"""What a transcript has to be, whatever happened on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from simulation.ledger import Strike
from simulation.shop import AT_MOST_ONCE, TIMEOUT, receipt
from simulation.world import World
from thoughtgear.models import Message, RunState, ToolCall, ToolResult

MODEL_SECONDS = 30.0
"""How long the model may take, in every scenario."""

Shape = list[tuple[object, ...]]


def check_transcript(world: World, state: RunState, messages: list[Message]) -> Iterator[str]:
    """Linear; each reply is what the model says to what stands before it; one result per call."""
    if [message.seq for message in messages] != list(range(state.message_count)):
        yield f"seqs {[message.seq for message in messages]}, and a count of {state.message_count}"
    calls: dict[str, ToolCall] = {}
    results: Counter[str] = Counter()
    for place, message in enumerate(messages):
        if message.role == "assistant":
            yield from _check_reply(world, message, messages[:place])
            if missing := set(calls) - set(results):
                yield f"a reply before the results of {sorted(missing)}"
            calls |= {call.id: call for call in message.tool_calls}
        elif message.tool_result is not None:
            result = message.tool_result
            results[result.call_id] += 1
            yield from _check_result(world, state, calls.get(result.call_id), result)
    wrong = {call_id: results[call_id] for call_id in {*calls, *results} if results[call_id] != 1}
    if wrong and state.over:
        yield f"results per call: {wrong}"


def _check_reply(world: World, reply: Message, before: list[Message]) -> Iterator[str]:
    text, calls = world.scenario.script(before)
    if reply.text != text or [call.name for call in reply.tool_calls] != [call.name for call in calls]:
        yield f"message {reply.seq} says {reply.text!r} where the model says {text!r}"


def _check_result(world: World, state: RunState, call: ToolCall | None, result: ToolResult) -> Iterator[str]:
    """A result is what the tool returns and truly did, or is declared unknown, cancelled or void."""
    if call is None:
        yield f"a result of {result.call_id}, which nobody asked for"
        return
    key = f"{state.run_id}:{call.id}"
    effects = sum(effect.key == key for effect in world.ledger.effects)
    once = call.name in AT_MOST_ONCE
    if result.status == "ok":
        what = call.arguments["what"] if isinstance(call.arguments, dict) else ""
        expected = receipt("fetch", what) if call.name == "fetch" else receipt(call.name, key)
        if result.content != expected:
            yield f"call {call.id} gave {result.content!r}"
        if not result.cached and (effects != 1 if once else not effects):
            yield f"call {call.id} is ok after {effects} effects"
    elif result.status == "error":
        void, silent = "did not take effect" in result.content, "no sign of life" in result.content
        if not (void and not effects) and not (silent and not once and world.ledger.strikes):
            yield f"call {call.id} failed after {effects} effects: {result.content}"
    elif result.status == "unknown":
        yield from _check_unknown(world, state, call, once=once)
    elif not cut_off(world):
        yield f"call {call.id} is {result.status} in a run that nobody cancelled"


def _check_unknown(world: World, state: RunState, call: ToolCall, *, once: bool) -> Iterator[str]:
    """What is unknown was started, and something that can cost its result came after that."""
    strikes = world.ledger.strikes
    if not once:
        if not any(strike.kind == "doubt" for strike in strikes):
            yield f"call {call.id} is unknown, and may run again"
        return
    if call.name == "sign" and not cut_off(world):
        yield f"call {call.id} is unknown, and no person was asked"
    started = started_at(world, state.run_id, call.id)
    if started is None:
        yield f"call {call.id} is unknown, and was never started"
        return
    if cut_off(world):
        return
    if not any(costly(strike) and (strike.until >= started or strike.kind == "stale") for strike in strikes):
        yield f"call {call.id} is unknown, and no fault came after its start"
    returned = f"{state.run_id}:{call.id}" in world.ledger.returned
    if returned and all(strike.kind in ("stop", "again") for strike in strikes):
        yield f"call {call.id} is unknown, and had returned before anything was stopped"


def costly(strike: Strike) -> bool:
    """Whether a fault may cost a reply or a result. One more schedule costs nothing; nor does a slow step,
    whose claim is renewed, unless it is the store that is slow, or the step's own time is over."""
    if strike.kind == "slow":
        limit = {"model": MODEL_SECONDS, "tool": TIMEOUT, "reconcile": TIMEOUT}
        return strike.until - strike.at > limit.get(strike.point.partition(":")[0], 0.0) - 10.0
    return strike.kind not in ("again", "thaw")


def started_at(world: World, run_id: str, call_id: str) -> float | None:
    """When the ledger said for the first time that a call was started."""
    for write in world.ledger.writes.get(run_id, ()):
        if any(row.call.id == call_id and row.status == "started" for row in write.state.ledger):
            return write.at
    return None


def cut_off(world: World) -> bool:
    """Whether someone cancelled in this experiment, or an error of the tests' own ended a run."""
    return any(sent.kind == "cancel" for sent in world.ledger.sent) or any(
        strike.kind == "bug" for strike in world.ledger.strikes
    )


def shape_of(messages: list[Message]) -> Shape:
    """A transcript less what a fault may change: the order of the results of an iteration, and what became of
    calls whose outcome is not known. Where all are known, the texts are in it, too."""
    results = [message.tool_result for message in messages if message.tool_result]
    known = all(result.status == "ok" for result in results)
    rows: Shape = [
        (message.role, message.iteration, [call.name for call in message.tool_calls], message.text * known)
        for message in messages
        if message.tool_result is None
    ]
    return [*rows, ("results", sorted(result.call_id for result in results))]


def check_shape(world: World, messages: list[Message], fault_free: dict[str, Shape]) -> Iterator[str]:
    """Where nobody interferes, the transcript is that of an experiment without faults."""
    found, expected = shape_of(messages), fault_free[messages[0].text]
    if not expected_texts(found):
        expected = [row if row[0] == "results" else (*row[:3], "") for row in expected]
    if found != expected:
        yield f"the transcript is {found}, and without faults it is {expected}"


def expected_texts(shape: Shape) -> bool:
    """Whether the texts are in a shape."""
    return bool(shape[0][3])
