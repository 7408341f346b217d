"""`thoughtgear db copy`: what it says, and a copy that is killed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from postgres_server import PostgresServer
from terminal import Terminal
from typer.testing import CliRunner, Result

from thoughtgear.cli import app
from thoughtgear.protocols import OrmAdapter
from thoughtgear.registry import open_store
from thoughtgear.testing import append, new_run
from thoughtgear.testing.case import texts_of


async def copy(*words: str) -> Result:
    """Type the command; it has an event loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, ("db", "copy", *words))


async def source_at(folder: Path, commits: int = 1) -> str:
    """A store with a run of two messages, and one of 60 messages for each of so many commits."""
    url = f"sqlite:///{folder}/source.db"
    store = open_store(url)
    await append(store, new_run("small"), "a", "b")
    state = new_run("big")
    for number in range(commits):
        state = await append(store, state, *(f"{number}.{index}" for index in range(60)))
    await store.put_document("memory", "k", b"12345", tag=None)
    await store.aclose()
    return url


async def test_copy_says_what_it_did(tmp_path: Path):
    """The counts of what was copied and of what was compared; a second copy finds all of it there, and one
    without the comparison claims nothing."""
    source, target = await source_at(tmp_path), f"sqlite:///{tmp_path}/target.db"
    first = await copy(source, target)
    second = await copy(source, target)
    told = await copy(source, target, "--json", "--no-compare")
    compared = "Compared both stores: 2 runs (62 messages) and 1 document (5 bytes) are the same in both."
    assert first.stdout.splitlines() == ["Copied 2 runs (62 messages) and 1 document (5 bytes).", compared]
    assert second.stdout.splitlines() == ["Copied 0 runs (0 messages) and 0 documents (0 bytes).", compared]
    nothing = {"runs": 0, "messages": 0, "documents": 0, "document_bytes": 0}
    assert json.loads(told.stdout) == {
        "copied": nothing,
        "equal": nothing,
        "changing": [],
        "refused": {},
        "compared": False,
        "complete": None,
    }
    assert "Nothing was compared" in (await copy(source, target, "--no-compare")).stdout
    assert {first.exit_code, second.exit_code, told.exit_code} == {0}
    assert first.stderr == second.stderr == ""


async def test_the_url_of_a_source_may_have_options(tmp_path: Path):
    """A SQLite store is found by the path in its URL, whatever options follow it."""
    source = await source_at(tmp_path)
    ended = await copy(f"{source}?lock_timeout=5", f"sqlite:///{tmp_path}/target.db?lock_timeout=5")
    assert (ended.exit_code, ended.stderr) == (0, "")


async def test_copy_names_what_it_left(tmp_path: Path):
    """Another run of the same id in TO is named in one line on stderr and in the JSON; the exit code is 1."""
    source, target = await source_at(tmp_path), f"sqlite:///{tmp_path}/target.db"
    store = open_store(target)
    await append(store, new_run("small"), "another")
    ended = await copy(source, target, "--json")
    assert ended.exit_code == 1
    assert ended.stderr.startswith("Error: Run small was not copied: the target has another run of this id")
    assert list(json.loads(ended.stdout)["refused"]) == ["small"]
    assert json.loads(ended.stdout)["copied"]["runs"] == 1
    assert await texts_of(store, "small") == ["another"]
    await store.aclose()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sqlite:///typo.db", "sqlite:///b.db"), "typo.db: check its name,"),
        (("files:///no/such/folder", "sqlite:///b.db"), "There is no store /no/such/folder: check its name,"),
        (("memory://", "sqlite:///a.db"), "A memory:// store is gone with its process"),
        (("sqlite:///a.db", '{"type": "memory"}'), "A memory:// store is gone with its process"),
        ((' {"type": "memory"}', "sqlite:///a.db"), "A memory:// store is gone with its process"),
        (("mysql://x", "sqlite:///a.db"), "'mysql' is no store; known: files, memory"),
    ],
)
async def test_copies_that_can_only_be_mistakes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, str], said: str
):
    """A source that is not there, the same store twice and one that dies with its process are errors, and no
    store is made."""
    monkeypatch.chdir(tmp_path)
    ended = await copy(*words)
    assert ended.exit_code == 1
    assert said in ended.stderr
    assert list(tmp_path.iterdir()) == []


S3_HOST = "s3://key:secret@bucket/a/b?endpoint=http://Host"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("sqlite:///a.db", "sqlite:////{folder}/a.db"),
        ("sqlite:///a.db", "sqlite:///x/../a.db?lock_timeout=5"),
        ("sqlite:///a.db", '{{"type": "sqlite", "path": "a.db"}}'),
        ("sqlite:///there.db", "sqlite:///link.db"),
        ("sqlite:///there.db", "sqlite:///hard.db"),
        ("files:///{folder}/runs", "files:///{folder}/runs/"),
        ("files:///{folder}/runs", '{{"type": "files", "path": "runs"}}'),
        ("files:///{folder}/x", "files:///{folder}/linked/x"),
        (S3_HOST, "s3://bucket/a/b/?endpoint=http://host:80/&region=r"),
        (S3_HOST, '{{"type": "s3", "bucket": "bucket", "path": "/a/b", "endpoint": "http://host"}}'),
        ("s3://bucket/a", "s3://bucket/a?endpoint=https://s3.eu-west-1.amazonaws.com&region=eu-west-1"),
        ("postgresql://localhost/db", "postgres://me:pw@127.0.0.1:5432/db?schema=thoughtgear"),
        (
            "postgresql://a:5432,b:5433/db",
            '{{"type": "postgresql", "host": "B", "port": 5433, "database": "db"}}',
        ),
        ("mongodb://u:p@a,b:27018/db", "mongodb://B:27018/db?directConnection=true&create=false"),
        (
            "mongodb://[::1]",
            '{{"type": "mongodb", "url": "mongodb://localhost:27017", "database": "thoughtgear"}}',
        ),
    ],
)
async def test_a_store_is_not_copied_onto_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: str, other: str
):
    """A store is known by whatever name: another spelling of its path, its server or its settings. The copy
    is refused both ways, before anything is made or asked."""
    monkeypatch.chdir(tmp_path)
    for name in ("PGHOST", "PGPORT", "PGDATABASE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "there.db").touch()
    (tmp_path / "link.db").symlink_to("there.db")
    (tmp_path / "hard.db").hardlink_to(tmp_path / "there.db")
    (tmp_path / "linked").symlink_to(".")
    before = sorted(tmp_path.iterdir())
    names = [each.format(folder=str(tmp_path).lstrip("/")) for each in (one, other)]
    for words in (names, names[::-1]):
        ended = await copy(*words)
        assert (ended.exit_code, ended.stderr) == (1, "Error: The two stores are the same one.\n")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sqlite:///a.db", "sqlite:///b.db"),
        ("sqlite:///a.db", "files:///tmp/a.db"),
        ("files:///tmp/runs", "files:///tmp/runs/runs"),
        (S3_HOST, "s3://bucket/a/B?endpoint=http://host"),
        (S3_HOST, "s3://bucket/a/b?endpoint=https://host"),
        (S3_HOST, "s3://bucket/a/b"),
        ("postgresql://a/db", "postgresql://a/db?schema=other"),
        ("postgresql://a/db", "postgresql://a:5433/db"),
        ("postgresql://a/db", "postgresql://a/other"),
        ("mongodb://a/db", "mongodb://a/other"),
        ("mongodb://a/db", "mongodb://b/db"),
    ],
)
def test_two_stores_are_told_apart(one: str, other: str):
    """Another file, prefix, server, port, schema or database is another store."""
    first, second = (open_store(url).location for url in (one, other))  # type: ignore[attr-defined]
    assert not first.is_that_of(second)
    assert first.is_that_of(open_store(one).location)  # type: ignore[attr-defined]


async def test_a_killed_copy_goes_on(terminal: Terminal, postgres: PostgresServer, tmp_path: Path):
    """After kill -9 in the midst of a run the same command writes what is left and compares all of it."""
    source, target = await source_at(terminal.folder, commits=100), postgres.url(tmp_path)
    store = open_store(target)
    copying = await terminal.start("db", "copy", source, target)
    await until_partly_there(store)
    copying.kill()
    killed = await copying.ended()
    half = await store.load_run("big")
    again = await copy(source, target, "--json")
    report = json.loads(again.stdout)
    await store.aclose()
    assert killed.code == -9
    assert 0 < half.message_count < 6_000
    assert again.exit_code == 0
    assert report["copied"]["messages"] <= 6_000 - half.message_count + 2
    assert (report["equal"]["runs"], report["equal"]["messages"]) == (2, 6_002)


async def until_partly_there(store: OrmAdapter) -> None:
    """Return when a part of the big run is there."""
    async with asyncio.timeout(30):
        while not await store.get_history("big", limit=1):
            await asyncio.sleep(0.002)
