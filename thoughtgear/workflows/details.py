"""What the Temporal UI shows of a run: current details in Markdown, and search attributes."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any

from temporalio.common import SearchAttributeKey, SearchAttributeUpdate

from thoughtgear.models import OVER
from thoughtgear.payloads import Carried, Report

GAP = "\N{EN SPACE}"
"""Around each cell, because the UI sets none. Markdown drops other spaces."""

HEADS = ("iteration", "tools", "tokens in", "tokens out", "waited")

ROWS = 20
"""How many iterations the table shows."""


def add_row(carried: Carried, report: Report) -> None:
    """Note an iteration that ran: in the table of the last ones and in the totals."""
    tokens = [*report.tokens, 0, 0][:2]
    row = [report.iteration - 1, _names(report.tools), *tokens, round(carried.waited, 1)]
    carried.rows = [*carried.rows, row][-ROWS:]
    sums = carried.totals or [0, 0, 0, 0, 0.0]
    carried.totals = [
        a + b for a, b in zip(sums, [1, len(report.tools), *tokens, carried.waited], strict=True)
    ]
    carried.waited = 0.0


def _names(tools: list[str]) -> str:
    """The names of the tools, each once and how often: `read_file (3), list_files`."""
    times = Counter(tools)
    return ", ".join(name if times[name] == 1 else f"{name} ({times[name]})" for name in times)


def render(carried: Carried, *, run_id: str | None, status: str, reason: str = "") -> str:
    """Return the details: where the run stands, a table of its last iterations, the totals."""
    head = f"**{status}**" + (f": {reason}" if reason else "")
    facts = [f"run `{run_id}`"] if run_id else []
    facts += [f"{key} `{carried.facts[key]}`" for key in ("model", "session") if carried.facts.get(key)]
    lines = [head, " · ".join(facts)] if facts else [head]
    return "\n\n".join([*lines, _table(carried)] if carried.rows else lines)


def _table(carried: Carried) -> str:
    count, tools, tokens_in, tokens_out, waited = carried.totals
    rows = [_known_row(*row) for row in carried.rows]
    total = _row(f"**{count:.0f} in all**", f"{tools:.0f} calls", tokens_in, tokens_out, waited)
    return "\n".join([_TOP, *rows, total])


def _row(iteration: Any, tools: str, tokens_in: float, tokens_out: float, waited: float) -> str:
    pause = f"{waited:.1f} s" if waited else ""
    return _line(iteration, tools, f"{tokens_in:,.0f}", f"{tokens_out:,.0f}", pause)


def _line(*cells: Any) -> str:
    return "|" + "|".join([f" {GAP}{cell}{GAP} " for cell in cells]) + "|"


_known_row = lru_cache(4096)(_row)
"""Most rows of a table were in the one before."""

_TOP = _line(*HEADS) + "\n|---|---|---:|---:|---:|"


def attributes(carried: Carried, *, handler: str, status: str) -> list[SearchAttributeUpdate[Any]]:
    """Return the search attributes to set: of those that the namespace has, when the status is another than
    the one shown. That is at the first report and at the end."""
    shown = status if status in OVER else "running"
    if shown == carried.facts.get("shown"):
        return []
    carried.facts["shown"] = shown
    values = {
        "ThoughtgearStatus": shown,
        "ThoughtgearHandler": handler,
        "ThoughtgearModel": carried.facts.get("model"),
        "ThoughtgearSession": carried.facts.get("session"),
    }
    known = carried.facts.get("search", [])
    return [
        SearchAttributeKey.for_keyword(name).value_set(value)
        for name, value in values.items()
        if name in known and value
    ]
