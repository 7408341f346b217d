"""`runs`, `runs delete`, `runs prune` and `users delete`: what they ask, refuse and say."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from thoughtgear.cli import app
from thoughtgear.cli.options import metadata_pair, span_of
from thoughtgear.memory import Memory
from thoughtgear.models import now
from thoughtgear.protocols import OrmAdapter
from thoughtgear.registry import open_store
from thoughtgear.testing import append, new_run


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OrmAdapter]:
    """The store that the commands find: three old runs, one of them going on, and a young one."""
    monkeypatch.delenv("THOUGHTGEAR_TARGET", raising=False)
    monkeypatch.setenv("THOUGHTGEAR_DB", f"sqlite:///{tmp_path}/runs.db")
    monkeypatch.setenv("COLUMNS", "200")
    opened = open_store()
    old = now() - timedelta(days=60)
    for run_id, status, fields in [
        ("one", "done", {"user_id": "ann", "metadata": {"team": "blue", "n": 1}}),
        ("two", "failed", {"metadata": {"team": "blue", "n": "1"}}),
        ("three", "running", {"user_id": "ann"}),
    ]:
        run = new_run(run_id, status=status, created_at=old, updated_at=old, **fields)
        await append(opened, run, "a", "b")
    await append(opened, new_run("young", status="done"), "a")
    await Memory(opened, "user:ann").put("likes", "tea")
    yield opened
    await opened.aclose()


async def type_in(*words: str, answer: str | None = None) -> Result:
    """Type a command and an answer; it has an event loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, words, input=answer)


async def names(store: OrmAdapter) -> set[str]:
    return {run.run_id for run in (await store.list_runs()).runs}


ALL = {"one", "two", "three", "young"}


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((), ALL),
        (("--status", "done"), {"one", "young"}),
        (("--metadata", "team=blue"), {"one", "two"}),
        (("--metadata", "team=blue", "--metadata", "n=1"), {"one"}),
        (("--metadata", 'n="1"'), {"two"}),
        (("--metadata", "team=red"), set()),
    ],
)
async def test_runs_lists_what_the_filters_let_pass(
    store: OrmAdapter, options: tuple[str, ...], found: set[str]
):
    """`runs` is the list as before, and metadata is compared as JSON."""
    listed = await type_in("runs", *options, "--json")
    assert {run["run_id"] for run in json.loads(listed.stdout)["runs"]} == found


async def test_the_next_page_keeps_the_metadata(store: OrmAdapter):
    """The line that shows more runs has all filters, each in a form that means the same."""
    listed = await type_in("runs", "--metadata", "team=blue", "-n", "1")
    assert """--metadata 'team="blue"'""" in listed.stderr
    assert metadata_pair('team="blue"') == metadata_pair("team=blue") == ("team", "blue")


@pytest.mark.parametrize("answer", ["n\n", "\n", None])
@pytest.mark.parametrize(
    "words",
    [
        ("runs", "delete", "one"),
        ("runs", "prune", "--older-than", "30d"),
        ("users", "delete", "ann", "--force"),
    ],
    ids=" ".join,
)
async def test_nothing_is_deleted_without_a_yes(
    store: OrmAdapter, words: tuple[str, ...], answer: str | None
):
    """The question says what goes; no answer, no and Enter delete nothing, and the exit code is 1."""
    ended = await type_in(*words, answer=answer)
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr.startswith("Delete ")
    assert ("--yes goes without asking" if answer is None else "Nothing was deleted.") in ended.stderr
    assert await names(store) == ALL


async def test_ctrl_c_at_the_question_deletes_nothing(store: OrmAdapter):
    """Ctrl-C instead of an answer ends the command at once, with 130 and without a traceback."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)
    asking = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "thoughtgear", "runs", "delete", "one", **pipes
    )
    assert asking.stderr is not None
    async with asyncio.timeout(30):
        await asking.stderr.readuntil(b"[y/N] ")
        asking.send_signal(signal.SIGINT)
        said = await asking.stderr.read()
        code = await asking.wait()
    assert (code, said) == (130, b"")
    assert await names(store) == ALL


async def test_runs_are_deleted(store: OrmAdapter):
    """`runs delete` takes several runs, says what went, and after a yes they are gone."""
    ended = await type_in("runs", "delete", "one", "young", answer="y\n")
    told = await type_in("runs", "delete", "two", "--yes", "--json")
    assert ended.stderr.startswith("Delete 2 runs, and all that belongs to nothing else? [y/N]")
    assert ended.stdout == "Deleted 2 runs and 3 messages.\n"
    assert json.loads(told.stdout) == {
        "runs": 1,
        "messages": 2,
        "files": 0,
        "sessions": 0,
        "remembered": 0,
        "cached": 0,
    }
    assert await names(store) == {"three"}


async def test_a_run_that_is_not_over_needs_force(store: OrmAdapter):
    """Without --force nothing is deleted, the others neither, and the error says what to do."""
    refused = await type_in("runs", "delete", "one", "three", "--yes")
    forced = await type_in("runs", "delete", "three", "--yes", "--force")
    assert refused.exit_code == 1
    assert refused.stderr.startswith(
        "Error: Run three is running: cancel it first (thoughtgear cancel three)"
    )
    assert "by force" in refused.stderr
    assert forced.stdout == "Deleted 1 run and 2 messages.\n"
    assert await names(store) == ALL - {"three"}


async def test_an_unknown_run_deletes_none(store: OrmAdapter):
    """Where one of several runs is not there none is deleted."""
    ended = await type_in("runs", "delete", "one", "nowhere", "--yes")
    assert ended.exit_code == 1
    assert "There is no run nowhere in this store." in ended.stderr
    assert await names(store) == ALL


async def test_prune_takes_old_runs_that_are_over(store: OrmAdapter):
    """A dry run prints their ids on stdout and deletes nothing; a prune then deletes just these."""
    dry = await type_in("runs", "prune", "--older-than", "30d", "--dry-run")
    as_json = await type_in("runs", "prune", "--older-than", "30d", "--dry-run", "--json")
    before = await names(store)
    done = await type_in("runs", "prune", "--older-than", "30d", "--yes")
    again = await type_in("runs", "prune", "--older-than", "30d")
    assert set(dry.stdout.split()) == {"one", "two"} == set(json.loads(as_json.stdout)["run_ids"])
    assert dry.stderr == "Would delete 2 runs (4 messages), last changed 60 d to 60 d ago.\n"
    assert before == ALL
    assert done.stdout == "Deleted 2 runs and 4 messages.\n"
    assert (again.exit_code, again.stdout, again.stderr) == (0, "Deleted 0 runs.\n", "")
    assert await names(store) == {"three", "young"}


async def test_prune_is_narrowed_and_widened(store: OrmAdapter):
    """Filters narrow it down; what is not over goes with --include-unfinished, not by its status alone."""
    words = ("runs", "prune", "--older-than", "4w", "--yes", "--json")
    refused = await type_in(*words, "--status", "running")
    blue = await type_in(*words, "--metadata", "team=blue", "--status", "failed")
    rest = await type_in(*words, "--include-unfinished")
    assert refused.exit_code == 2
    assert "a run that is not over needs --include-unfinished" in refused.stderr
    assert [json.loads(each.stdout)["runs"] for each in (blue, rest)] == [1, 2]
    assert await names(store) == {"young"}


@pytest.mark.parametrize("option", [("--user", "ann"), ("-n", "3"), ("--metadata", "a=b"), ("--json",)])
async def test_an_option_of_the_list_does_not_get_lost(store: OrmAdapter, option: tuple[str, ...]):
    """An option before the subcommand, where it would narrow nothing down, is wrong usage."""
    ended = await type_in("runs", *option, "prune", "--older-than", "1d", "--yes")
    assert ended.exit_code == 2
    assert "stands before 'prune'; give it after" in ended.stderr
    assert await names(store) == ALL


async def test_a_user_is_deleted(store: OrmAdapter):
    """`users delete` refuses while a run goes on; a dry run counts; then all of the user is gone."""
    refused = await type_in("users", "delete", "ann", "--yes")
    dry = await type_in("users", "delete", "ann", "--dry-run")
    before = await names(store)
    done = await type_in("users", "delete", "ann", "--force", answer="y\n")
    again = await type_in("users", "delete", "ann", "--json")
    assert refused.stderr.startswith("Error: Run three is running: cancel it first")
    assert dry.stdout == "Would delete 2 runs, 4 messages and 1 remembered value.\n"
    assert before == ALL
    assert done.stderr.startswith("Delete 2 runs, 4 messages and 1 remembered value of user 'ann'? [y/N]")
    assert done.stdout == "Deleted 2 runs, 4 messages and 1 remembered value.\n"
    assert (again.exit_code, again.stderr) == (0, "Nothing is stored of user 'ann'.\n")
    assert not any(json.loads(again.stdout).values())
    assert await names(store) == {"two", "young"}
    assert await store.list_documents("memory") == []


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("45s", timedelta(seconds=45)),
        ("90m", timedelta(minutes=90)),
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        ("4w", timedelta(weeks=4)),
        ("0d", timedelta(0)),
    ],
)
def test_spans_of_time_are_read(text: str, span: timedelta):
    """A number and one letter is a span of time."""
    assert span_of(text) == span


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5h", "30 d", "1y", "999999w", "30D"])
async def test_other_spans_are_wrong_usage(store: OrmAdapter, text: str):
    """Anything else says how a span is written, or that it is too long, and deletes nothing."""
    ended = await type_in("runs", "prune", f"--older-than={text}", "--yes")
    assert ended.exit_code == 2
    assert "write 90m, 12h, 30d or 4w" in ended.stderr or "longer than 100 years" in ended.stderr
    assert await names(store) == ALL
