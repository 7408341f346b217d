"""The prefix of the sql store's tables: stores side by side in one database, and what is no prefix."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from recorded_schemas import assert_kept, fill, load_sqlite
from typer.testing import CliRunner, Result

from thoughtgear.adapters.sql import SqlAdapter
from thoughtgear.adapters.sql_schema import tables_of
from thoughtgear.cli import app
from thoughtgear.errors import ConfigurationError, SchemaVersionError
from thoughtgear.protocols import OrmAdapter
from thoughtgear.registry import open_store
from thoughtgear.testing import SharedAdapterConformance, StoreCase, append, new_run
from thoughtgear.testing.case import assert_absent, texts_of

LONGEST = "p" + "_9" * 15
"""31 characters."""

PREFIXES = ("", "a_", "a_b_", "files", LONGEST)


class TestSqliteWithPrefix(SharedAdapterConformance, StoreCase):
    """Every clause, beside tables without a prefix and tables with another one."""

    @classmethod
    async def open_store(cls, place: Path) -> OrmAdapter:
        return SqlAdapter.from_url(f"sqlite:///{place}/store.db?table_prefix=team_a_")


@pytest.fixture(params=["sqlite", "postgresql"])
def url_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., str]:
    """Returns the URL of the store with a prefix, all in one database."""

    def url(prefix: str, **options: object) -> str:
        given = {"table_prefix": prefix, **options} if prefix else options
        if request.param == "sqlite":
            query = "&".join(f"{name}={value}" for name, value in given.items())
            return f"sqlite:///{tmp_path}/store.db?{query}"
        return str(request.getfixturevalue("postgres").url(tmp_path, **given))

    return url


async def names_in(store: Any) -> list[str]:
    """The names of all tables, keys and indexes of the store's database."""

    def read(connection: Any) -> list[str]:
        if connection.dialect.name == "sqlite":
            query = "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_autoindex%'"
        else:
            query = (
                "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace"
                " AND relkind IN ('r', 'i')"
            )
        return [row[0] for row in connection.exec_driver_sql(query).fetchall()]

    found: list[str] = await store._database.read(read)
    return found


async def test_stores_side_by_side_do_not_see_each_other(url_of: Callable[..., str]) -> None:
    """Stores of one database that differ in the prefix alone hold runs, documents and tombstones of the same
    ids apart; nothing that is done to one is seen in another."""
    stores = [open_store(url_of(prefix)) for prefix in PREFIXES]
    for store, prefix in zip(stores, PREFIXES, strict=True):
        assert (await store.list_runs()).runs == []
        state = await append(store, new_run("r", metadata={"p": prefix}), prefix or "none")
        await append(store, state, "b")
        await store.put_document("memory", "k", prefix.encode(), tag=None)
    for store, prefix in zip(stores, PREFIXES, strict=True):
        assert [run.metadata for run in (await store.list_runs()).runs] == [{"p": prefix}]
        assert await texts_of(store, "r") == [prefix or "none", "b"]
        found = await store.get_document("memory", "k")
        assert found is not None
        assert found.value == prefix.encode()
    await stores[1].delete_run("r")
    for store in stores:
        if store is stores[1]:
            await assert_absent(store, "r")
        else:
            await append(store, await store.load_run("r"), "c")
        await store.aclose()


async def test_every_name_has_the_prefix(url_of: Callable[..., str]) -> None:
    """Tables, keys and indexes of a store carry its prefix, whole at its longest; so two stores have twice
    the names of one."""
    store = open_store(url_of(LONGEST))
    await fill(store)
    await assert_kept(store)
    names = await names_in(store)
    assert len(names) == len(set(names)) >= 14
    assert all(name.removeprefix("ix_").startswith(LONGEST) for name in names)
    other = open_store(url_of("other_"))
    await other.list_runs()
    assert len(await names_in(store)) == 2 * len(names)
    assert store.location.is_that_of(open_store(url_of(LONGEST)).location)  # type: ignore[attr-defined]
    assert not store.location.is_that_of(other.location)  # type: ignore[attr-defined]
    for each in (store, other):
        await each.aclose()


async def test_another_prefix_has_no_tables(url_of: Callable[..., str]) -> None:
    """With create=false a prefix that nobody has used is told, and no tables are made for it."""
    store = open_store(url_of(""))
    await append(store, new_run("r"), "a")
    absent = open_store(url_of("typo_", create="false"))
    with pytest.raises(SchemaVersionError, match="with the prefix typo_: check its name"):
        await absent.list_runs()
    assert not [name for name in await names_in(store) if "typo" in name]
    for each in (store, absent):
        await each.aclose()


BAD = [
    "a; DROP TABLE run_states; --",
    'a"',
    "a'--",
    "a b",
    "a.b",
    "a-b",
    "A",
    "1a",
    "_a",
    "ä",
    "a\n",
    "a\0",
    "%s",
    "{name}",
    "p" * 32,
    "pg_x",
    "sqlite_x",
    5,
    True,
    ["a"],
    {"a": 1},
    b"a",
]


@pytest.mark.parametrize("prefix", BAD, ids=ascii)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_what_is_no_prefix_is_refused(kind: str, prefix: Any, tmp_path: Path) -> None:
    """What could be more than the beginning of a name is a ConfigurationError that doesn't repeat it, before
    anything is opened."""
    settings = {"path": f"{tmp_path}/x.db"} if kind == "sqlite" else {"host": "127.0.0.1", "port": 1}
    with pytest.raises(ConfigurationError) as caught:
        open_store({"type": kind, **settings, "table_prefix": prefix})
    assert "DROP" not in str(caught.value)
    assert not (tmp_path / "x.db").exists()


@pytest.mark.parametrize("prefix", ["a%3BDROP%20TABLE%20x", "a%22", "A", "pg_", "a&table_prefix=b'"])
@pytest.mark.parametrize("url", ["sqlite:///x.db?table_prefix=", "postgresql://h/d?table_prefix="])
async def test_what_is_no_prefix_is_refused_in_a_url(url: str, prefix: str) -> None:
    """An escaped prefix, or a second one, is looked at as it will be used."""
    with pytest.raises(ConfigurationError, match="table_prefix"):
        open_store(url + prefix)


def test_tables_of_a_prefix_are_made_once() -> None:
    """All stores of a process that have the same prefix share their compiled statements."""
    assert tables_of("a_") is tables_of("a_")
    assert tables_of("a_").load_run is not tables_of("b_").load_run


@pytest.mark.parametrize("name", ["shop_messages", "shop_run_states", "shop_files"])
async def test_a_table_of_somebody_else_is_left_alone(url_of: Callable[..., str], name: str) -> None:
    """Where one of the names is taken by a table that is not the store's, neither a write nor an upgrade
    makes anything, and the error names it."""
    other = open_store(url_of("other_"))
    await append(other, new_run("r"), "a")

    def make(connection: Any) -> None:
        connection.exec_driver_sql(f"CREATE TABLE {name} (run_id TEXT, seq INTEGER, body TEXT)")

    await other._database.write(make)  # type: ignore[attr-defined]
    before = sorted(await names_in(other))
    store = open_store(url_of("shop_"))
    for work in (
        lambda: append(store, new_run("r"), "a"),
        lambda: store.list_runs(),
        lambda: store.upgrade(),
    ):
        with pytest.raises(ConfigurationError, match=f"a table {name} that is not thoughtgear's"):
            await work()
    assert sorted(await names_in(other)) == before
    await store.aclose()
    await other.aclose()


async def type_in(*words: str) -> Result:
    """Type a command; it has an event loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, words)


async def test_the_commands_know_the_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`db upgrade`, `doctor`, `runs` and `db copy` work on the tables of the URL's prefix; older ones are
    refused with the line that upgrades just these."""
    for name in ("THOUGHTGEAR_DB", "THOUGHTGEAR_TARGET", "TEMPORAL_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("thoughtgear.config.DEFAULT_ADDRESS", "127.0.0.1:1")
    load_sqlite(1, tmp_path / "x.db", "old_")
    url = f"sqlite:///{tmp_path}/x.db?table_prefix="
    refused = await type_in("runs", "--db", f"{url}old_")
    assert f"run `thoughtgear db upgrade --db '{url}old_'`" in refused.stderr
    ill = await type_in("doctor", "--db", f"{url}old_")
    assert f"thoughtgear db upgrade --db '{url}old_'" in ill.stdout
    made = await type_in("db", "upgrade", "--db", f"{url}new_", "--json")
    done = await type_in("db", "upgrade", "--db", f"{url}old_", "--json")
    assert (json.loads(made.stdout)["from"], json.loads(done.stdout)["from"]) == (None, 1)
    copied = await type_in("db", "copy", f"{url}old_", f"{url}new_")
    assert copied.exit_code == 0
    assert copied.stdout.startswith("Copied 15 runs")
    again = await type_in("db", "copy", f"{url}new_", f"{url}new_&create=true")
    assert "The two stores are the same one" in again.stderr
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        (count,) = connection.execute("SELECT count(*) FROM new_run_states").fetchone()
    assert count == 15
