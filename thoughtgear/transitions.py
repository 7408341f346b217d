"""The changes of a run as pure functions on a draft of its state; each returns the messages to append.

The commit protocol applies them, and applies them again when someone else committed first.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from thoughtgear.errors import StoreError
from thoughtgear.loop import Limits, Verdict, go_on, judge, pause
from thoughtgear.models import (
    CallRecord,
    CallStatus,
    Driver,
    InboxItem,
    Message,
    Paid,
    Parent,
    RunError,
    RunState,
    Status,
    ToolCall,
    ToolResult,
)
from thoughtgear.structured import Answer

ABSORBED_KEPT = 512
"""Request ids of absorbed messages that a run remembers."""

REPAIRS = 1
"""How often a final answer that does not fit is sent back to the model."""

ROW_STATUS: dict[str, CallStatus] = {
    "ok": "done",
    "error": "failed",
    "unknown": "unknown",
    "cancelled": "failed",
}


def unnumbered(**fields: object) -> Message:
    """Make a message whose seq the commit gives."""
    return Message.model_validate({"seq": -1, **fields})


def save_reply(
    state: RunState,
    reply: Message,
    rows: Sequence[CallRecord],
    seen: Sequence[InboxItem],
    limits: Limits,
    parent: Parent | None = None,
    answer: Answer | None = None,
    summarised: int = 0,
    paid: Sequence[Paid] = (),
) -> list[Message]:
    """Append the messages that the model saw and its reply; a reply without calls completes the turn.
    `parent` is how much of the conversation it saw, which is frozen by this. `answer` is what the check of a
    final answer found, where there is one. `paid` is of what was bought beside the reply; see `pay`."""
    go_on(state)
    if parent is not None and state.parent is not None and parent.run_id == state.parent.run_id:
        state.parent = parent
    state.model_replies += 1
    state.lost_replies = 0
    state.usage = state.usage + reply.usage if reply.usage else state.usage
    state.bill = state.bill.plus(reply.cost, saved=True)
    pay(state, paid, summarised)
    messages = [*absorb(state, seen), reply]
    state.ledger = [row.model_copy() for row in rows]
    if rows:
        return messages
    if answer is not None and answer.refusal is not None and not state.mail:
        return messages + send_back(state, limits, answer.refusal)
    return messages + complete_turn(state, limits, answer=answer.text if answer else reply.text)


def send_back(state: RunState, limits: Limits, refusal: str) -> list[Message]:
    """Have the model answer again; a run whose answer was sent back already fails."""
    told = unnumbered(role="user", text=refusal, iteration=state.iteration + 1)
    state.sent_back += 1
    if state.sent_back <= REPAIRS:
        return [told, *complete_turn(state, limits)]
    text = "The final answer does not fit output_type, and did not when it was asked for again."
    return [told, *complete_turn(state, limits, error=RunError(type="OutputInvalidError", message=text))]


def lose_reply(
    state: RunState, paid: Sequence[Paid] = (), summarised: int = 0, *, begun: bool = True
) -> list[Message]:
    """Count a reply that had `begun` and broke off, or that is none; `paid` is of it, and of what was bought
    before it; see `pay`."""
    go_on(state)
    state.lost_replies += begun
    pay(state, paid, summarised)
    return []


def pay(state: RunState, paid: Sequence[Paid], summarised: int) -> None:
    """Put on the bill what no message has: summaries, which stand for `summarised` turns, and lost
    replies."""
    for usage, cost in paid:
        state.usage, state.bill = state.usage + usage, state.bill.plus(cost)
    state.summarised = max(state.summarised, summarised)


def end_paid(
    state: RunState, status: Status, error: RunError | None, paid: Sequence[Paid], summarised: int
) -> list[Message]:
    """End the run, with what was bought for a reply that did not come."""
    pay(state, paid, summarised)
    return end_run(state, status, error)


def absorb(state: RunState, items: Sequence[InboxItem]) -> list[Message]:
    """Move messages from the inbox into the transcript; their request ids stay known."""
    ids = [item.request_id for item in items]
    state.inbox = [item for item in state.inbox if item.request_id not in ids]
    state.absorbed = [*state.absorbed, *ids][-ABSORBED_KEPT:]
    return [as_message(item, state.iteration + 1) for item in items]


def as_message(item: InboxItem, iteration: int) -> Message:
    """The user message that an inbox item becomes."""
    return unnumbered(
        role="user",
        text=item.text,
        iteration=iteration,
        request_id=item.request_id,
        created_at=item.sent_at,
    )


def mark_started(state: RunState, call_id: str) -> list[Message]:
    """Write into the ledger that a call is about to run."""
    _row(state, call_id).status = "started"
    return []


def save_results(state: RunState, results: Sequence[ToolResult]) -> list[Message]:
    """Append results in the order of their completion and close their rows."""
    for result in results:
        _row(state, result.call_id).status = ROW_STATUS[result.status]
    return [unnumbered(role="tool", tool_result=r, iteration=state.iteration + 1) for r in results]


def close_calls(
    state: RunState, results: Sequence[ToolResult], unsettled: Collection[str], limits: Limits
) -> list[Message]:
    """Save the outcomes and what people have decided; end the turn, or wait where a call has no result yet. A
    run that an unknown outcome fails asks nobody."""
    messages = save_outcomes(state, results, unsettled) + save_decisions(state)
    refused = next((r for r in state.ledger if r.status == "unknown" and r.on_unknown == "fail"), None)
    if refused is not None:
        text = f"It is unknown whether call {refused.call.id} took effect (on_unknown=fail)."
        return messages + end_run(state, "failed", RunError(type="OutcomeUnknownError", message=text))
    if any(row.status == "waiting" for row in state.ledger):
        pause(state)
        return messages
    return messages + complete_turn(state, limits)


def save_outcomes(
    state: RunState,
    results: Sequence[ToolResult],
    unsettled: Collection[str],
    not_begun: Collection[str] = (),
) -> list[Message]:
    """Append results; `unsettled` are the calls whose outcome nobody knows and a person is to tell. Those
    `not_begun` were noted as started, and their attempt ends before it runs them: the next one may."""
    for call_id in not_begun:
        _row(state, call_id).status = "pending"
    for call_id in unsettled:
        _row(state, call_id).status = "waiting"
    return save_results(state, results)


def save_decisions(state: RunState) -> list[Message]:
    """Turn what people have decided about calls into the calls' results."""
    items = [item for item in state.inbox if item.kind == "settle"]
    rows = {row.call.id: row for row in state.ledger if row.status == "waiting"}
    results = [decided(rows[item.call_id], item) for item in items if item.call_id in rows]
    absorb(state, items)
    return save_results(state, results)


def decided(row: CallRecord, item: InboxItem) -> ToolResult:
    """The result that a person's decision makes."""
    if item.outcome == "unknown":
        return unknown(row.call)
    return known(row.call, done=item.outcome == "done", text=item.text)


def known(call: ToolCall, *, done: bool, text: str) -> ToolResult:
    """The result of a call whose end was not seen and is known now."""
    if done:
        return ToolResult(call_id=call.id, name=call.name, content=text)
    text = "This call did not take effect and never will." + (f" {text}" if text else "")
    return ToolResult(call_id=call.id, name=call.name, status="error", content=text)


def complete_turn(
    state: RunState, limits: Limits, answer: str | None = None, error: RunError | None = None
) -> list[Message]:
    """Count the iteration and decide how the run goes on; with an `error` it doesn't."""
    go_on(state)
    state.iteration += 1
    state.ledger = []
    verdict = Verdict("failed", error) if error else judge(state, answered=answer is not None, limits=limits)
    if verdict.status == "done":
        state.output = answer
    return _apply(state, verdict)


def end_run(state: RunState, status: Status, error: RunError | None = None) -> list[Message]:
    """The terminal step from anywhere: open calls get a result, so that a provider accepts the transcript.

    A call that was started and whose end nobody saw is `unknown`; one that never started is `cancelled`.
    """
    messages = save_decisions(state)
    open_rows = [row for row in state.ledger if row.status in ("pending", "started", "waiting")]
    messages += save_results(state, [unfinished(row) for row in open_rows])
    state.iteration += bool(state.ledger)
    state.ledger = []
    return messages + _apply(state, Verdict(status, error))


def close(state: RunState, status: Status, error: RunError | None, by: str) -> list[Message]:
    """The terminal step of somebody who is known by a name."""
    state.ended_by = by or state.ended_by
    return end_run(state, status, error)


def reopen(state: RunState, driver: Driver) -> list[Message]:
    """Take the end of a run back. What is in its transcript stays, the results of the calls that the end cut
    off, too. Its clock and the counts of lost replies and of answers that were sent back begin anew;
    iterations and tokens are what they are."""
    state.status, state.error, state.driver = "running", None, driver
    state.started_at, state.paused_at, state.paused_seconds = None, None, 0.0
    state.lost_replies, state.sent_back = 0, 0
    return []


def unfinished(row: CallRecord) -> ToolResult:
    """The result of a call that has none: never a guess."""
    if row.status != "pending":
        return unknown(row.call)
    text = "This call has no result: the run ended first."
    return ToolResult(call_id=row.call.id, name=row.call.name, status="cancelled", content=text)


def unknown(call: ToolCall) -> ToolResult:
    """The result of a call that was started and whose end nobody knows."""
    text = "It is unknown whether this call took effect: it was started, and its end was not seen."
    return ToolResult(call_id=call.id, name=call.name, status="unknown", content=text)


def _apply(state: RunState, verdict: Verdict) -> list[Message]:
    """Set the status. What was sent to a run that ends unanswered stays in its transcript."""
    state.status, state.error = verdict.status, verdict.error
    if not state.over:
        return []
    messages = absorb(state, state.mail)
    state.inbox = []
    return messages


def _row(state: RunState, call_id: str) -> CallRecord:
    found = next((row for row in state.ledger if row.call.id == call_id), None)
    if found is None:
        raise StoreError(f"Run {state.run_id} is damaged: its ledger does not have call {call_id[:40]!r}.")
    return found
