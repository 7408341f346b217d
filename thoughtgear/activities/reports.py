"""What the activities report: small whatever happened, since an oversized result is retried for ever."""

from __future__ import annotations

from thoughtgear.activities.failures import MESSAGE
from thoughtgear.models import RunState
from thoughtgear.payloads import IterationResult, Report

OUTPUT = 256 * 1024
"""Bytes of an answer that goes through Temporal, by value only. The store has all of it."""

CUT = "\n[The answer is longer; the store has all of it.]"

NAMES = 8
"""How many tool names of an iteration are reported."""


def standing(state: RunState, *, by_value: bool) -> Report:
    """Report where the run stands in the store."""
    report = Report("running", state.iteration + 1, state.version)
    if state.status not in ("done", "failed", "cancelled"):
        return report
    usage = state.usage
    report.status, report.iterations = state.status, state.iteration
    report.usage = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    if state.error is not None:
        report.error = [state.error.type[:100], state.error.message[:MESSAGE]]
    report.output = capped(state.output or "") if by_value else None
    return report


def of_result(result: IterationResult) -> Report:
    """Report what an iteration gave."""
    facts = vars(result) | {"tools": tool_names(result.tools), "reason": result.reason[:MESSAGE]}
    return Report(**facts)


def tool_names(tools: list[str]) -> list[str]:
    """Return the first names, cut, and how many more there are."""
    shown = [name[:64] for name in tools[:NAMES]]
    return [*shown, f"+{len(tools) - NAMES}"] if len(tools) > NAMES else shown


def capped(text: str) -> str:
    """Return the text, cut at a character so that its JSON stays far below Temporal's limit."""
    raw = text.encode()
    return text if len(raw) <= OUTPUT else raw[:OUTPUT].decode(errors="ignore") + CUT
