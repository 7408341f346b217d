"""A store that is not there, of every kind: commands that look make none, and say what would."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from mongodb_server import MongoServer
from postgres_server import PostgresServer
from pymongo import MongoClient
from s3_server import BUCKET, S3Server
from server_process import place_name
from typer.testing import CliRunner, Result

from thoughtgear.cli import app
from thoughtgear.errors import ConfigurationError, SchemaVersionError
from thoughtgear.registry import open_store
from thoughtgear.testing import append, new_run

KINDS = ("sqlite", "postgres", "files", "s3", "mongodb")

LOOKS = [
    ("runs",),
    ("show", "r"),
    ("doctor",),
    ("runs", "prune", "--older-than", "1d", "--yes"),
    ("db", "copy"),
]


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a store nor a Temporal server is named by anything but the test."""
    for name in ("THOUGHTGEAR_DB", "THOUGHTGEAR_TARGET", "TEMPORAL_ADDRESS", "TEMPORAL_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("thoughtgear.config.DEFAULT_ADDRESS", "127.0.0.1:1")
    monkeypatch.chdir(tmp_path)


class Absent:
    """A place where a store of one kind may be made: its URL, and what is there."""

    def __init__(self, kind: str, folder: Path, request: pytest.FixtureRequest) -> None:
        self.kind, self.folder = kind, folder
        self.server = None if kind in ("sqlite", "files") else request.getfixturevalue(kind)

    @property
    def url(self) -> str:
        if self.server is None:
            return f"{self.kind}:///{self.folder}/store"
        assert isinstance(self.server, PostgresServer | S3Server | MongoServer)
        return self.server.url(self.folder)

    @property
    def name(self) -> str:
        """What the error is to say of the place."""
        names = {
            "s3": f"tests/{self.folder.parent.name}/{self.folder.name}'",
            "mongodb": f"There is no store in the database {place_name(self.folder)} at 127.0.0.1",
            "postgres": "The database has no tables of thoughtgear: check its name",
        }
        return names.get(self.kind, str(self.folder / "store"))

    def found(self) -> list[str]:
        """Whatever is stored there."""
        if isinstance(self.server, S3Server):
            prefix = f"tests/{self.folder.parent.name}/{self.folder.name}/"
            answer = self.server.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)
            return [each["Key"] for each in answer.get("Contents", [])]
        if isinstance(self.server, MongoServer):
            with MongoClient[dict[str, object]](self.server.url(self.folder)) as client:
                return client.get_default_database().list_collection_names()
        if isinstance(self.server, PostgresServer):
            schemas = self.server.run("psql", "-tAc", "SELECT nspname FROM pg_namespace").split()
            return [name for name in schemas if name == place_name(self.folder)]
        return [str(path) for path in self.folder.iterdir()]


@pytest.fixture(params=KINDS)
def absent(request: pytest.FixtureRequest, tmp_path: Path) -> Absent:
    return Absent(request.param, tmp_path, request)


async def type_in(*words: str) -> Result:
    """Type a command; it has an event loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, words)


async def test_commands_that_look_make_no_store(absent: Absent) -> None:
    """Listing, showing, doctoring, pruning and copying from a store that is not there write nothing at all,
    are exit code 1, and name the store and what makes one."""
    for words in LOOKS:
        named = (absent.url, "sqlite:///to.db") if words == ("db", "copy") else ("--db", absent.url)
        ended = await type_in(*words, *named)
        assert ended.exit_code == 1, words
        assert absent.name in ended.stdout + ended.stderr
        assert "thoughtgear db upgrade" in ended.stdout + ended.stderr
        assert ":test" not in ended.stderr
    assert absent.found() == []


async def test_upgrade_makes_what_was_absent(absent: Absent) -> None:
    """`db upgrade` makes a store of every kind, once; then one with create=false is worked with."""
    made = await type_in("db", "upgrade", "--db", absent.url, "--json")
    again = await type_in("db", "upgrade", "--db", absent.url, "--json")
    after = json.loads(made.stdout)["to"]
    assert json.loads(made.stdout) == {"from": None, "to": after, "upgraded": True}
    assert json.loads(again.stdout) == {"from": after, "to": after, "upgraded": False}
    assert absent.found() != []
    store = open_store(absent.url, create=False)
    state = await append(store, new_run("r"), "a")
    await append(store, state, "b")
    assert len(await store.get_history("r")) == 2
    await store.aclose()
    assert (await type_in("runs", "--db", absent.url)).exit_code == 0


async def test_create_in_the_settings_counts(absent: Absent) -> None:
    """`create` in a URL wins over that of `open_store`; what is no switch is refused, and not repeated."""
    mark = "&" if "?" in absent.url else "?"
    off, on, wrong = (f"{absent.url}{mark}create={value}" for value in ("false", "true", "=secret"))
    store = open_store(off)
    with pytest.raises((ConfigurationError, SchemaVersionError), match="`thoughtgear db upgrade`"):
        await store.list_runs()
    await store.aclose()
    assert absent.found() == []
    with pytest.raises(ConfigurationError, match="create must be true or false") as caught:
        open_store(wrong)
    assert "secret" not in str(caught.value)
    store = open_store(on, create=False)
    await append(store, new_run("r"), "a")
    await store.aclose()
    assert absent.found() != []


async def test_create_comes_off_the_url_of_mongodb(mongodb: MongoServer, tmp_path: Path) -> None:
    """The driver never sees `create`, wherever it stands among its own options; in a dict it wins."""
    place = f"mongodb://127.0.0.1:{mongodb.port}/{place_name(tmp_path)}"
    for query in ("?create=false", "?create=false&directConnection=true", "?directConnection=true&create=no"):
        store = open_store(place + query)
        with pytest.raises(ConfigurationError, match="There is no store in the database"):
            await store.list_runs()
        await store.aclose()
    store = open_store({"type": "mongodb", "url": f"{place}?create=false", "create": True})
    assert (await store.list_runs()).runs == []
    await store.aclose()


async def test_who_only_looks_at_s3_writes_nothing(s3: S3Server, tmp_path: Path) -> None:
    """Where use makes no store, reading one sends no write; the first write sends the probe before it."""
    maker = open_store(s3.url(tmp_path))
    await append(maker, new_run("r"), "a")
    await maker.aclose()
    looker = open_store(s3.url(tmp_path), create=False)
    client = looker._bucket._client()  # type: ignore[attr-defined]  # to see what it sends
    sent: list[str] = []
    client.meta.events.register("before-send.s3", lambda event_name, **_: sent.append(event_name))
    state = await looker.load_run("r")
    await looker.list_runs()
    await looker.list_documents("memory")
    assert not [name for name in sent if "Put" in name or "Delete" in name]
    await append(looker, state, "b")
    assert len([name for name in sent if "Put" in name]) > 2
    await looker.aclose()
