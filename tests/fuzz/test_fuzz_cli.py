"""Command lines that nobody should type, and targets that are none."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from bad_input import NASTY, TEXTS, cases, only_typed
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from thoughtgear.cli import app
from thoughtgear.config import Settings, load_target
from thoughtgear.errors import ConfigurationError
from thoughtgear.models import CallRecord, Message, ToolCall, ToolResult
from thoughtgear.render import RunView, one_line, print_json, runs_table, show_run, waiting_text
from thoughtgear.testing import append, new_run

SECRET = "Hunter2hunter2"
BAD_DB = f"postgresql://u:{SECRET}@127.0.0.1:1/x?connect_timeout=1&pool_size=no"

# What Click itself refuses, or what is a file's name on the command line, has no NUL and no lone surrogate.
ARGUMENTS = st.one_of(TEXTS, st.sampled_from(NASTY)).map(
    lambda text: text.replace("\0", "").encode("utf-8", "ignore").decode()
)
COMMANDS = st.sampled_from(
    (
        ["run"],
        ["runs"],
        ["show"],
        ["wait"],
        ["cancel"],
        ["settle"],
        ["db", "copy"],
        ["db", "upgrade"],
        ["worker"],
        [],
    )
)
OPTIONS = st.sampled_from(
    (
        "--db",
        "-t",
        "--handler",
        "--session",
        "--user",
        "--request",
        "--continue",
        "--status",
        "--after",
        "-n",
        "--done",
        "--void",
        "--unknown",
        "--json",
        "--quiet",
        "--detach",
        "--timeout",
        "--no-such",
        "-x",
        "--file",
        "--limit",
    )
)


@cases(
    26,
    command=COMMANDS,
    arguments=st.lists(
        st.one_of(ARGUMENTS, OPTIONS, st.just(BAD_DB), st.sampled_from(("sqlite:///t.db", "r1", "1.0"))),
        max_size=6,
    ),
)
def test_a_command_line_ends_with_a_code_and_a_line(command: list[str], arguments: list[str]) -> None:
    """Any command line ends with 0, 1 or 2 and no traceback; an error is one line that can't drive the
    terminal and shows no password."""
    options = [] if any(word in ("--db", "-t") for word in arguments) else ["--db", "sqlite:///t.db"]
    if command in ([], ["db", "copy"], ["db", "upgrade"]):
        options = []
    runner = CliRunner(
        env={"THOUGHTGEAR_DB": None, "THOUGHTGEAR_TARGET": None, "TEMPORAL_ADDRESS": "127.0.0.1:1"}
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        if command == ["worker"]:
            arguments = ["nothing_there:x", *arguments][:1]
        found = runner.invoke(app, [*command, *options, *arguments])
    assert found.exit_code in (0, 1, 2), (found.output, found.exception)
    assert found.exception is None or isinstance(found.exception, SystemExit)
    assert "Traceback" not in found.output
    # What the parser can't place it repeats to whoever typed it: then nothing has begun.
    assert found.exit_code == 2 or SECRET not in found.output
    if found.exit_code == 1:
        lines = [line for line in found.stderr.splitlines() if line.startswith("Error: ")]
        assert len(lines) <= 1
        assert all(line.isprintable() or "\u202e" in line for line in lines)


@cases(
    17, target=st.one_of(TEXTS, st.builds("{}:{}".format, TEXTS, TEXTS), st.builds("{}.py:x".format, TEXTS))
)
def test_a_target_is_found_or_refused(target: str) -> None:
    """Whatever is given as a target loads handlers or is a configuration error."""
    before = list(sys.path)
    try:
        with only_typed():
            load_target(target)
    finally:
        sys.path[:] = before


@cases(
    10,
    environ=st.dictionaries(
        st.sampled_from(("THOUGHTGEAR_DB", "THOUGHTGEAR_LOG_JSON", "THOUGHTGEAR_LOG_LEVEL")), TEXTS
    ),
)
def test_settings_are_read_or_refused(environ: dict[str, str]) -> None:
    """Environment variables of any text are settings or a configuration error."""
    with only_typed():
        Settings.load(environ)


def _messages(text: str) -> list[Message]:
    call = ToolCall(id="1.0", name=text, arguments=text)
    result = ToolResult(call_id="1.0", name=text, content=text)
    return [
        Message(seq=0, role="user", text=text),
        Message(seq=1, role="assistant", text=text, tool_calls=[call]),
        Message(seq=2, role="tool", tool_result=result),
    ]


HARMLESS = frozenset("\n\t")


def assert_plain(shown: str) -> None:
    for character in shown:
        assert character in HARMLESS or not (ord(character) < 32 or 127 <= ord(character) < 160)
        assert character not in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@cases(26, text=st.one_of(TEXTS, st.sampled_from(NASTY)), width=st.integers(20, 100))
def test_a_transcript_does_not_drive_the_terminal(text: str, width: int) -> None:
    """What a model, a tool or a user wrote is shown without what a terminal obeys, and is no markup."""
    shown = io.StringIO()
    console = Console(file=shown, width=width, markup=False, highlight=False)
    state = new_run(
        "r", output=text, ledger=[CallRecord(call=ToolCall(id="1.0", name=text), status="waiting")]
    )
    show_run(console, state, _messages(text))
    console.print(runs_table([state], width))
    console.print(waiting_text(state, lambda line: line))
    RunView(console, console).text(text)
    assert_plain(shown.getvalue())
    assert "\n" not in one_line(text, width)


@cases(13, text=st.one_of(TEXTS, st.sampled_from(NASTY)))
def test_json_does_not_drive_the_terminal(text: str) -> None:
    """The JSON of a transcript has no control characters, and says the same text."""
    shown = io.StringIO()
    with redirect_stdout(shown):
        print_json({"text": text})
    assert not any(127 <= ord(character) < 160 for character in shown.getvalue())
    assert json.loads(shown.getvalue()) == {"text": text}


@pytest.mark.parametrize("name", ["[/red]", "[bold", "[link=x]y[/link]"])
def test_markup_of_a_model_is_text(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool's name that looks like markup is shown as it is, and does not break `show`."""
    import asyncio

    from thoughtgear.adapters.sql import SqlAdapter

    async def fill() -> None:
        store = SqlAdapter.from_dict({"path": str(tmp_path / "t.db")})
        row = CallRecord(call=ToolCall(id="1.0", name=name), status="waiting")
        await append(store, new_run("r1", status="waiting", ledger=[row]))
        await store.aclose()

    asyncio.run(fill())
    found = CliRunner().invoke(app, ["show", "r1", "--db", f"sqlite:///{tmp_path}/t.db"])
    assert found.exit_code == 0
    assert name in found.output


def test_a_script_that_ends_the_process_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that calls `sys.exit` when it is imported is a configuration error, not a silent end."""
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ConfigurationError, match="SystemExit"):
        load_target(f"{tmp_path / 'leaves.py'}:handler")


def test_a_target_with_an_impossible_name_is_refused() -> None:
    """A path that is longer than any file's is a configuration error."""
    with pytest.raises(ConfigurationError):
        load_target("x" * 5000 + ".py:handler")
