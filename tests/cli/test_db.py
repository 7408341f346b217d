"""`thoughtgear db`: what it does to a database, and what it says."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from thoughtgear.adapters.sql_version import SCHEMA_VERSION
from thoughtgear.cli import app
from thoughtgear.registry import open_store
from thoughtgear.testing import append, new_run

OLD = Path(__file__).parents[1] / "adapters" / "schemas" / "v1.sqlite.sql"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("THOUGHTGEAR_DB", "THOUGHTGEAR_TARGET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def type_in(*words: str) -> Result:
    """Type a command; it has an event loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, words)


async def test_upgrade_says_what_it_did(folder: Path) -> None:
    """New tables, tables that are up to date, and old ones: each has its line, and JSON of its own."""
    made = await type_in("db", "upgrade", "--db", "sqlite:///new.db")
    assert made.stdout == f"Made the store, of schema version {SCHEMA_VERSION}.\n"
    again = await type_in("db", "upgrade", "--db", "sqlite:///new.db")
    assert again.stdout == f"The schema is up to date: version {SCHEMA_VERSION}.\n"
    told = await type_in("db", "upgrade", "--db", "sqlite:///new.db", "--json")
    assert json.loads(told.stdout) == {"from": SCHEMA_VERSION, "to": SCHEMA_VERSION, "upgraded": False}
    with closing(sqlite3.connect(folder / "thoughtgear.db")) as connection:
        connection.executescript(OLD.read_text())
    upgraded = await type_in("db", "upgrade", "--json")
    assert json.loads(upgraded.stdout)["from"] == 1
    assert {each.exit_code for each in (made, again, told, upgraded)} == {0}


async def test_upgrade_of_a_handlers_store(folder: Path) -> None:
    """With a target it is the store that the handler names."""
    Path("keeper.py").write_text(
        "from thoughtgear import PromptHandler\n"
        "h = PromptHandler(model='scripted:echo', db='sqlite:///its_own.db')\n"
    )
    ended = await type_in("db", "upgrade", "-t", "keeper.py:h")
    assert ended.exit_code == 0
    assert (folder / "its_own.db").exists()


@pytest.mark.parametrize("by", ["environment", "option"])
async def test_a_store_is_named_by_json(folder: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """THOUGHTGEAR_DB and `--db` take the dict of a store as JSON, whose `create` counts; a command that only
    looks makes none of it."""
    db, absent = json.dumps({"type": "sqlite", "path": "j.db"}), json.dumps({"type": "files", "path": "none"})
    if by == "environment":
        monkeypatch.setenv("THOUGHTGEAR_DB", db)
    options = () if by == "environment" else ("--db", db)
    looked = await type_in("runs", *options)
    assert (looked.exit_code, list(folder.iterdir())) == (1, [])
    store = open_store(db)
    await append(store, new_run("one", status="done"), "a")
    await store.aclose()
    shown = await type_in("runs", *options, "--json")
    assert [run["run_id"] for run in json.loads(shown.stdout)["runs"]] == ["one"]
    assert (await type_in("doctor", "--db", absent)).exit_code == 1
    assert not (folder / "none").exists()


async def test_a_store_in_memory_needs_no_upgrade() -> None:
    """A store that ends with its process says so, and that is no failure."""
    ended = await type_in("db", "upgrade", "--db", "memory://")
    assert (ended.exit_code, ended.stdout) == (
        0,
        "This store ends with its process: there is nothing to upgrade.\n",
    )
    told = await type_in("db", "upgrade", "--db", "memory://", "--json")
    assert json.loads(told.stdout) == {"from": None, "to": None, "upgraded": False}


@pytest.mark.parametrize(
    "words",
    [
        ("run", "Hello", "-t", "old_agent.py:h"),
        ("worker", "old_agent.py:h"),
        ("runs", "--db", "sqlite:///a b.db"),
        ("cancel", "n1", "--db", "sqlite:///a b.db"),
    ],
)
async def test_an_older_database_says_what_to_type(words: tuple[str, ...]) -> None:
    """Every command on tables of an older version ends at once with the line that upgrades them."""
    with closing(sqlite3.connect("a b.db")) as connection:
        connection.executescript(OLD.read_text())
    Path("old_agent.py").write_text(
        "from thoughtgear import PromptHandler\n"
        "h = PromptHandler(model='scripted:echo', db='sqlite:///a b.db')\n"
    )
    ended = await type_in(*words)
    assert ended.exit_code == 1
    where = "--db 'sqlite:///a b.db'" if "--db" in words else "-t old_agent.py:h"
    assert f"run `thoughtgear db upgrade {where}`." in ended.stderr.splitlines()[-1]
    sys.modules.pop("old_agent", None)


async def test_a_newer_database_says_what_to_upgrade() -> None:
    """A database of a newer version is one line that names the command, and exit code 1."""
    await type_in("db", "upgrade", "--db", "sqlite:///new.db")
    with closing(sqlite3.connect("new.db")) as connection, connection:
        connection.execute("UPDATE schema_version SET version_num = '9999'")
    for words in (("db", "upgrade"), ("runs",)):
        ended = await type_in(*words, "--db", "sqlite:///new.db")
        assert ended.exit_code == 1
        assert "pip install --upgrade thoughtgear" in ended.stderr
        assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("words", [("old.db", "new.db"), ("new.db", "old.db")])
async def test_a_copy_says_which_store_is_older(words: tuple[str, str]) -> None:
    """`db copy` from or to tables of an older version names the store in the line that upgrades them."""
    with closing(sqlite3.connect("old.db")) as connection:
        connection.executescript(OLD.read_text())
    await type_in("db", "upgrade", "--db", "sqlite:///new.db")
    ended = await type_in("db", "copy", *(f"sqlite:///{word}" for word in words))
    assert ended.exit_code == 1
    assert "run `thoughtgear db upgrade --db sqlite:///old.db`" in ended.stderr
