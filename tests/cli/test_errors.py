"""Errors of the command line: one line on stderr that says what to do, exit code 1; 2 for wrong usage."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from thoughtgear import __version__
from thoughtgear.cli import app
from thoughtgear.place import Place
from thoughtgear.registry import open_store


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("THOUGHTGEAR_DB", "THOUGHTGEAR_TARGET", "THOUGHTGEAR_MODEL", "THOUGHTGEAR_EXECUTOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
async def empty(folder: Path) -> None:
    """Two stores without runs."""
    for name in ("a", "a b"):
        store = open_store(f"sqlite:///{name}.db")
        await store.list_runs()
        await store.aclose()


async def type_in(*words: str) -> Result:
    """Type a command; it has an event loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, words)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "Hello"), "No target; give -t module:attribute, or set THOUGHTGEAR_TARGET."),
        (("run", "-t", "not_there_at_all:handler", "Hello"), "There is no module 'not_there_at_all' here"),
        (("runs",), "There is no thoughtgear.db in this folder; name a store with --db URL"),
        (("show", "r1", "--db", "sqlite:///a.db"), "There is no run r1 in this store. See which there are:"),
        (("wait", "r1", "--db", "sqlite:///a.db"), "There is no run r1 in this store."),
        (("show", "../r1", "--db", "sqlite:///a.db"), "A run id is 1 to 128 letters"),
        (("show", "r1", "--db", "sqlite:///a b.db"), "thoughtgear runs --db 'sqlite:///a b.db'"),
        (("show", "--db", "sqlite:///a.db"), "thoughtgear run PROMPT -t TARGET --db sqlite:///a.db"),
        (("cancel", "../r1", "--db", "sqlite:///a.db"), "A run id is 1 to 128 letters"),
        (("runs", "--db", "sqlite:///no/folder/a.db"), "is not there: create it."),
        (("runs", "--db", "sqlite:///typo.db"), "typo.db: check its name, or make it with"),
        (("show", "r", "--db", "sqlite:///typo.db?lock_timeout=5"), "typo.db: check its name"),
        (("cancel", "r", "--db", "sqlite:///typo.db"), "typo.db: check its name"),
        (("runs", "--db", "files:///no/such/store"), "There is no store /no/such/store: check its name,"),
        (("runs", "--db", "files:///etc"), "/etc is no store: check its name,"),
        (("db", "copy", "files:///etc", "sqlite:///new.db"), "/etc is no store: check its name,"),
        (("runs", "--db", "pigeon://loft"), "'pigeon' is no store; known:"),
        (("worker", "nothing:here"), "There is no module 'nothing' here"),
    ],
)
async def test_what_can_be_mended_is_one_line_and_exit_code_1(empty: None, words: tuple[str, ...], says: str):
    """What a person can mend is one line on stderr, without a traceback, and exit code 1. No store is
    made."""
    before = sorted(Path().iterdir())
    ended = await type_in(*words)
    assert sorted(Path().iterdir()) == before
    assert ended.exit_code == 1
    assert ended.stdout == ""
    line = next(line for line in ended.stderr.splitlines() if line.startswith("Error: "))
    assert says in line
    assert "Traceback" not in ended.stderr


async def test_an_address_without_a_server_is_one_line():
    """Where no Temporal server answers, `run` names the address and what to start."""
    Path("agent.py").write_text(
        "from thoughtgear import PromptHandler\nh = PromptHandler(model='scripted:echo')\n"
    )
    ended = await type_in("run", "-t", "agent.py:h", "--address", "127.0.0.1:1", "Hello")
    assert ended.exit_code == 1
    assert ended.stderr.startswith("Error: No Temporal server answers at 127.0.0.1:1; start one with")


@pytest.mark.parametrize(
    "words",
    [
        ("run",),
        ("run", "Hello", "--continue", "r1"),
        ("run", "--continue", "r1", "--file", "a.txt"),
        ("run", "--continue", "r1", "--session", "s1"),
        ("run", "--continue", "r1", "--user", "u1"),
        ("run", "--continue", "r1", "--request", "q1"),
        ("fly",),
        ("wait",),
    ],
)
async def test_wrong_usage_is_exit_code_2(words: tuple[str, ...]):
    """A command line that can't be understood exits with 2 and points to the help."""
    ended = await type_in(*words)
    assert ended.exit_code == 2
    assert "Usage: " in ended.stderr


async def test_version_and_help_are_answers():
    """`--version` and `--help` go to stdout with exit code 0, each command on one line."""
    version, shown = await type_in("--version"), await type_in("--help")
    assert (version.exit_code, version.stdout) == (0, f"thoughtgear {__version__}\n")
    assert shown.exit_code == 0
    assert not [line for line in shown.stdout.splitlines() if line.endswith("...") and "[ARGS]" not in line]


async def test_an_empty_store_is_an_empty_list(empty: None):
    """`runs --json` of a store without runs is an empty list."""
    ended = await type_in("runs", "--db", "sqlite:///a.db", "--json")
    assert json.loads(ended.stdout) == {"runs": [], "after": None}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann:hush@host/db", "URL"),
        ("postgresql://host/db?user=ann&password=hush", "URL"),
        ("s3://bucket/p?access_key_id=ann&secret_access_key=hush&session_token=hush", "URL"),
        ("mongodb://host/db?authMechanismProperties=AWS_SESSION_TOKEN:hush", "URL"),
        ('{"type": "postgresql", "host": "host", "password": "hush"}', "URL"),
        ("s3://bucket/p", "s3://bucket/p"),
        ("sqlite:///a@b.db?lock_timeout=5", "'sqlite:///a@b.db?lock_timeout=5'"),
    ],
)
def test_a_line_to_type_shows_no_secret(monkeypatch: pytest.MonkeyPatch, url: str, shown: str):
    """A store's URL that may carry a password, key or token is `URL` in the lines to type, and is left out
    where the environment has it."""
    assert Place(db=url).again("runs") == f"thoughtgear runs --db {shown}"
    monkeypatch.setenv("THOUGHTGEAR_DB", url)
    assert ("--db" in Place(db=url).again("runs")) == (shown != "URL")
