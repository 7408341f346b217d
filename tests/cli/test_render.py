"""What people see in the terminal."""

from __future__ import annotations

import io
from datetime import timedelta

import pytest
from rich.cells import cell_len
from rich.console import Console

from thoughtgear.events import StreamEvent
from thoughtgear.models import Message, RunError, RunState, ToolCall, ToolResult, Usage, now
from thoughtgear.render import RunView, age, call_line, count, one_line, result_line, runs_table, show_run


def console(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width, highlight=False)


def written(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def test_what_a_model_says_cannot_drive_the_terminal():
    """Escape sequences of replies, arguments, results and errors don't reach the terminal."""
    target, evil = console(), "\x1b]0;title\x07 \x1b[2J[bold]text[/bold]"
    state = RunState(run_id="r", status="failed", error=RunError(type="E", message=evil))
    call = ToolCall(id="1.0", name="tool\x1b[2J", arguments={"a": evil})
    result = ToolResult(call_id="1.0", name="tool", content=evil)
    messages = [
        Message(seq=0, role="user", text=evil),
        Message(seq=1, role="assistant", text=evil, tool_calls=[call]),
        Message(seq=2, role="tool", tool_result=result),
    ]
    show_run(target, state, messages)
    assert "\x1b" not in written(target)
    assert "\x07" not in written(target)
    assert written(target).count("[bold]text[/bold]") == 5


@pytest.mark.parametrize("width", [40, 80, 200])
def test_lines_of_calls_fit_the_width(width: int):
    """A call and its result take one line of the terminal, wide letters included."""
    call = ToolCall(id="12.3", name="write_report", arguments={"text": "汉字\n" * 200})
    result = ToolResult(call_id="12.3", name="write_report", content="汉字" * 200)
    for line in (call_line(call, width), result_line(result, 12.3, width)):
        assert "\n" not in line.plain
        assert line.cell_len <= width


def test_a_cached_result_says_so():
    """The result of a call that ran no tool has `cached` where others have their seconds."""
    result = ToolResult(call_id="1.0", name="f", content="sunny", cached=True)
    assert result_line(result, 0.2, 80).plain == "✓ 1.0 sunny  cached"
    assert result_line(result.model_copy(update={"cached": False}), 0.2, 80).plain == "✓ 1.0 sunny  0.2 s"


def test_a_reply_that_another_attempt_takes_over_begins_on_a_new_line():
    """What was shown of a superseded reply stays, a note says what it is, and the next one begins anew."""
    target = console()
    view = RunView(target, target)
    for event in (
        {"kind": "text", "text": "The word"},
        {"kind": "superseded"},
        {"kind": "text", "text": "It is HELLO."},
        {"kind": "reply"},
    ):
        view.event(StreamEvent(run_id="r", cursor="1.0", **event))
    assert written(target) == "The word\n~ the reply was cut off; another attempt answers\nIt is HELLO.\n"


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_of_runs_fits_the_width(width: int):
    """Runs with long answers take one line each, and all but the answers is whole."""
    begun = now() - timedelta(minutes=13)
    given = {
        "run_id": "0" * 40,
        "output": "word " * 100,
        "created_at": begun,
        "usage": Usage(input_tokens=12_345),
    }
    runs = [RunState(status="cancelled", **given) for _ in range(2)]
    target = console(width)
    target.print(runs_table(runs, width))
    lines = written(target).splitlines()
    assert len(lines) == 3
    assert all(cell_len(line) <= width for line in lines)
    assert lines[0].split()[:5] == ["RUN", "STATUS", "AGE", "ITER", "TOKENS"]
    assert lines[1].split()[:6] == ["0" * 40, "cancelled", "13", "min", "0", "12,345"]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(5, "5 s"), (90, "1 min"), (7_200, "2 h"), (200_000, "2 d"), (-5, "0 s")]
)
def test_ages_are_one_number_and_a_unit(seconds: int, shown: str):
    """An age has the largest unit that fits; the future is now."""
    assert age(now() - timedelta(seconds=seconds)) == shown


def test_counts_have_a_plural():
    """One thing is singular, all else plural."""
    assert [count(1, "call"), count(2_000, "call"), count(0, "reply")] == [
        "1 call",
        "2,000 calls",
        "0 replies",
    ]


def test_cut_text_says_so():
    """A text that does not fit ends in `…` and is on one line."""
    assert one_line("one\n  two three", 8) == "one two…"
