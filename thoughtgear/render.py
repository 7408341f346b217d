"""What people see in the terminal: messages, calls, runs. And the same as plain records, for scripts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from thoughtgear.events import StreamEvent, facts_of
from thoughtgear.models import Message, RunState, Status, ToolCall, ToolResult, now

MARKS = {"ok": ("✓", "green"), "error": ("✗", "red"), "unknown": ("?", "yellow"), "cancelled": ("-", "dim")}
COLOURS: Mapping[Status, str] = {"done": "green", "failed": "red", "cancelled": "yellow", "waiting": "yellow"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_ESCAPED = re.compile(r"[\x7f-\x9f\ud800-\udfff]")
"""What JSON leaves as it is and a terminal may obey."""
_SPACE = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


def clean(text: str) -> str:
    """Return the text without the control characters that could drive the terminal, or turn its direction so
    that it reads as another."""
    return _CONTROL.sub("", text)


def one_line(text: str, width: int) -> str:
    """Return the text on one line of at most `width` cells, `…` where it was cut."""
    flat = clean(_SPACE.sub(" ", text)).strip()
    return flat if cell_len(flat) <= width else set_cell_size(flat, max(width - 1, 0)).rstrip() + "…"


def first_line(text: str) -> str:
    """Return the first line that is not empty."""
    return next((line for line in text.splitlines() if line.strip()), "")


def call_text(call: ToolCall, width: int) -> str:
    """Return a call as people write one: `read_file(path="a.txt")`."""
    given = call.arguments
    if isinstance(given, str):
        inside = given
    else:
        inside = ", ".join(f"{name}={json.dumps(v, ensure_ascii=False)}" for name, v in given.items())
    name = one_line(call.name, 40)
    return f"{name}({one_line(inside, max(width - len(name) - 2, 8))})"


def call_line(call: ToolCall, width: int) -> Text:
    """A call that begins: its id, its name and its arguments, cut to the width."""
    return Text.assemble(("→ ", "cyan"), (f"{call.id} ", "dim"), call_text(call, width - len(call.id) - 3))


def result_line(result: ToolResult, seconds: float | None, width: int) -> Text:
    """A call that has ended: the first line of what it gave, and how long it took or that it was cached."""
    mark, colour = MARKS[result.status]
    took = "  cached" if result.cached else "" if seconds is None else f"  {seconds:.1f} s"
    said = first_line(result.content) or "nothing"
    room = width - len(result.call_id) - len(took) - 3
    return Text.assemble(
        (f"{mark} ", colour), (f"{result.call_id} ", "dim"), one_line(said, room), (took, "dim")
    )


def seconds_of(state: RunState) -> float:
    """How long the run took from its prompt on, or has taken so far."""
    end = state.updated_at if state.over else now()
    return max(0.0, (end - state.created_at).total_seconds())


def count(number: int, noun: str) -> str:
    """Return `1 call`, `2 calls`."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number:,} {noun if number == 1 else plural}"


def cost_text(state: RunState) -> list[str]:
    """What is known of the cost: `$0.0123`, `over $0.0123` where replies have no price, else nothing."""
    if not state.bill.priced:
        return []
    return [f"{'over ' if state.cost is None else ''}${state.bill.spent:,.4f}"]


def summary_line(state: RunState, link: str | None = None) -> Text:
    """The last line about a run: status, iterations, tokens, cost, seconds, id and where to look."""
    facts = [
        count(state.iteration, "iteration"),
        count(state.usage.total_tokens, "token"),
        *cost_text(state),
        f"{seconds_of(state):.1f} s",
        f"run {clean(state.run_id)}",
    ]
    line = Text.assemble((state.status, COLOURS.get(state.status, "")), " · ", " · ".join(facts))
    if state.error is not None:
        line.append(f"\n{clean(state.error.type)}: {clean(state.error.message)}", "red")
    if link:
        line.append(f"\n{link}", "dim")
    return line


def waiting_text(state: RunState, again: Callable[[str], str]) -> str:
    """Which calls wait for a person, and the line that settles the first; `again` makes a command line."""
    calls = ", ".join(f"{row.call.id} {one_line(row.call.name, 40)}" for row in state.unsettled)
    first = state.unsettled[0].call.id
    line = again(f"settle {state.run_id} {first} --done RESULT")
    return f"Nobody knows how {calls} ended. Tell it with: {line} (or --void REASON, or --unknown)"


class RunView:
    """Shows a run as it goes on: what the model says on `out`, everything about it on `err`.

    The two may be the same terminal; a line that is open on `out` is ended before anything else is shown.
    """

    def __init__(self, out: Console, err: Console) -> None:
        self.out, self.err = out, err
        self._open = False
        self._asked_at: dict[str, datetime] = {}

    def text(self, piece: str) -> None:
        """Show a piece of what the model says."""
        shown = clean(piece)
        if shown:
            self.out.file.write(shown)
            self.out.file.flush()
            self._open = not shown.endswith("\n")

    def end_line(self) -> None:
        """End the line that the model's text left open."""
        if self._open:
            self.text("\n")

    def note(self, text: str | Text) -> None:
        """Show something about the run."""
        self.end_line()
        self.err.print(text, soft_wrap=True, markup=False, highlight=False)

    def message(self, message: Message) -> None:
        """Show a message that is saved."""
        for facts in facts_of(message):
            self.event(StreamEvent(run_id="", cursor="", **facts))

    def event(self, event: StreamEvent) -> None:
        """Show what has happened."""
        if event.kind == "text":
            self.text(event.text)
        elif event.kind == "message":
            self.note(Text.assemble(("> ", "bold"), clean(event.text)))
            self._files(event)
        elif event.kind == "superseded":
            self.note(Text("~ the reply was cut off; another attempt answers", "yellow"))
        elif event.kind == "reply":
            self.end_line()
            for note in event.passed_over:
                self.note(Text(f"~ {one_line(note, self.err.width - 2)}", "yellow"))
        else:
            self._tool(event)

    def _files(self, event: StreamEvent) -> None:
        if event.attachments:
            self.note("  with " + ", ".join(one_line(each.name, 60) for each in event.attachments))

    def _tool(self, event: StreamEvent) -> None:
        width = self.err.width
        if event.call is not None and event.at is not None:
            self._asked_at[event.call.id] = event.at
            self.note(call_line(event.call, width))
        elif event.result is not None and event.at is not None:
            began = self._asked_at.get(event.result.call_id)
            seconds = (event.at - began).total_seconds() if began else None
            self.note(result_line(event.result, seconds, width))


def show_run(console: Console, state: RunState, messages: Sequence[Message]) -> None:
    """Print a transcript, whole, and the line that sums the run up."""
    view = RunView(console, console)
    for message in messages:
        view.message(message)
    view.note("")
    view.note(summary_line(state))


def runs_table(runs: Sequence[RunState], width: int) -> Table:
    """The runs of a store, newest first, one line each. Only the answers are cut to what room there is."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    rows = [_facts(state) for state in runs]
    for place, name in enumerate(("RUN", "STATUS", "AGE", "ITER", "TOKENS")):
        needed = max(cell_len(text) for text in (name, *(row[place] for row in rows)))
        table.add_column(name, justify="left" if place < 2 else "right", no_wrap=True, min_width=needed)
        width -= needed + 2
    table.add_column("ANSWER", no_wrap=True, overflow="ellipsis", max_width=max(4, width))
    for state, (run_id, status, *numbers) in zip(runs, rows, strict=True):
        answer = state.output or (f"{state.error.type}: {state.error.message}" if state.error else "")
        colour = COLOURS.get(state.status, "")
        table.add_row(Text(run_id), Text(status, colour), *numbers, Text(one_line(answer, 200)))
    return table


def _facts(state: RunState) -> tuple[str, ...]:
    tokens = f"{state.usage.total_tokens:,}"
    return clean(state.run_id), state.status, age(state.created_at), str(state.iteration), tokens


def age(moment: datetime) -> str:
    """How long ago that was: `12 s`, `5 min`, `3 h`, `8 d`."""
    seconds = max(0, int((now() - moment).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def run_record(state: RunState) -> dict[str, Any]:
    """A run as a script wants it: what it is and what came out, not the protocol's own fields."""
    kept = ("run_id", "handler", "status", "session_id", "user_id", "metadata", "output", "error")
    record: dict[str, Any] = {name: getattr(state, name) for name in kept}
    record["error"] = state.error.model_dump(mode="json") if state.error else None
    return record | {
        "iterations": state.iteration,
        "usage": state.usage.model_dump(mode="json"),
        "cost": state.cost,
        "bill": state.bill.model_dump(mode="json"),
        "seconds": round(seconds_of(state), 3),
        "created_at": state.created_at.isoformat(),
        "updated_at": state.updated_at.isoformat(),
        "executor": state.driver.executor,
        "workflow_id": state.driver.workflow_id,
    }


def print_json(value: Any) -> None:
    """Write a value as JSON to stdout: plain, for a pipe."""
    text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
    print(_ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text))
