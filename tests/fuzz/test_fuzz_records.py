"""Stored bytes that were changed behind the library's back."""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_input import SCALARS, TEXTS, cases, only_typed
from hypothesis import strategies as st

from thoughtgear import PromptHandler, tool
from thoughtgear.adapters.files import FilesAdapter
from thoughtgear.adapters.memory import MemoryAdapter
from thoughtgear.adapters.records import decode_message, decode_state, encode
from thoughtgear.adapters.sql import SqlAdapter
from thoughtgear.errors import StoreError, StoreUnavailableError
from thoughtgear.memory import Memory
from thoughtgear.models import RunState
from thoughtgear.protocols import Attempt, OrmAdapter
from thoughtgear.providers.scripted import ScriptedProvider
from thoughtgear.testing import append, new_run

MARK = "x-my-secret-x"


def damaged(data: bytes, seed: int) -> bytes:
    """The bytes after what disks, editors and bugs do to them."""
    chance = random.Random(seed)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at, size = chance.randrange(len(data) + 1), chance.choice((1, 1, 4, 40))
        part = chance.choice(
            (b"", b"\x00", b"\xff", b"-", b"9" * 30, b"null", b"{", b'"', b"e999", b"\xed\xa0\x80")
        )
        data = data[:at] + part + data[at + size :] if chance.random() < 0.8 else data[:at]
    return data


STATE = encode(
    new_run(
        "r", session_id="s", user_id="u", metadata={"a": 1}, status="running", message_count=2, output=MARK
    )
).encode()
FIELDS = tuple(RunState.model_fields)


@cases(
    52,
    data=st.one_of(st.builds(damaged, st.just(STATE), st.integers(0, 2**32)), TEXTS, st.binary(max_size=40)),
)
def test_a_record_is_read_or_damaged(data: Any) -> None:
    """A changed record is a record that can be written again, or an error that quotes nothing of it."""
    for read in (decode_state, decode_message):
        with only_typed(MARK):
            encode(read(data))


@tool
async def look(what: str = "") -> str:
    """Look."""
    return "seen"


@cases(
    22,
    field=st.sampled_from(FIELDS),
    value=st.one_of(SCALARS, st.just([]), st.just({}), st.just([{"call": {"id": "1.0", "name": "look"}}])),
    live=st.booleans(),
)
async def test_an_odd_state_ends_or_is_refused(field: str, value: Any, live: bool) -> None:
    """A state that says something impossible gives an iteration, or a typed error; and it can be closed."""
    store = MemoryAdapter()
    agent = PromptHandler(orm=store, model=ScriptedProvider(replies=["Yes."]), tools=[look])
    run = await agent.create_run("Look.")
    record = run.model_dump(mode="json") | {field: value}
    try:
        with only_typed():
            state = _validated(record)
            store._runs[run.run_id].state = encode(state)
            await agent.run_iteration(run.run_id, state.iteration + 1, Attempt(serialised=live))
        with only_typed():
            await agent.close_run(run.run_id, "cancelled")
        with only_typed():
            await store.list_runs()
    finally:
        await agent.aclose()


def _validated(record: dict[str, Any]) -> RunState:
    try:
        return decode_state(RunState.model_validate(record).model_dump_json())
    except ValueError as exc:
        raise StoreError("no state") from exc


async def _fill(store: OrmAdapter) -> None:
    for name in ("other", "hurt"):
        state = await append(store, new_run(name))
        for number in range(3):
            state = await append(store, state, f"{MARK} {number}")
    memory = Memory(store, "user:ann")
    await memory.put("a", MARK)
    await memory.put("b" * 250, MARK)
    await append(store, new_run("gone"))
    await store.delete_run("gone")


async def _use(store: OrmAdapter) -> None:
    """Whatever is done to the run that was hurt, and to all."""
    for work in (
        lambda: store.load_run("hurt"),
        lambda: store.get_history("hurt"),
        lambda: append_next(store),
        lambda: Memory(store, "user:ann").get("a"),
        lambda: Memory(store, "user:ann").put("a", 1),
        lambda: Memory(store, "user:ann").keys(),
        lambda: append(store, new_run("gone")),
        lambda: store.delete_run("hurt"),
    ):
        with only_typed(MARK):
            await work()


async def append_next(store: OrmAdapter) -> None:
    await append(store, await store.load_run("hurt"), "more")


async def _unharmed(store: OrmAdapter) -> None:
    listed = {state.run_id for state in (await store.list_runs()).runs}
    assert "other" in listed
    state = await store.load_run("other")
    texts = [message.text for message in await store.get_history("other")]
    assert texts == [f"{MARK} {number}" for number in range(3)]
    await append(store, state, "more")


def _filled(open_store: Callable[[Path], OrmAdapter]) -> Path:
    """A folder with a filled store, made once; each case hurts a copy."""
    import asyncio

    folder = Path(tempfile.mkdtemp())

    async def fill() -> None:
        store = open_store(folder)
        await _fill(store)
        await store.aclose()

    asyncio.run(fill())
    return folder


def _files(folder: Path) -> FilesAdapter:
    return FilesAdapter.from_dict({"path": str(folder / "store")})


def _sqlite(folder: Path) -> SqlAdapter:
    return SqlAdapter.from_dict({"path": str(folder / "t.db")})


FOLDERS: dict[str, Path] = {}


def _copy(kind: str, open_store: Callable[[Path], OrmAdapter]) -> Path:
    if kind not in FOLDERS:
        import threading

        thread = threading.Thread(target=lambda: FOLDERS.setdefault(kind, _filled(open_store)))
        thread.start()
        thread.join()
    copy = Path(tempfile.mkdtemp()) / "copy"
    shutil.copytree(FOLDERS[kind], copy)
    return copy


@cases(17, seed=st.integers(0, 2**32))
async def test_a_damaged_file_harms_its_run_alone(seed: int) -> None:
    """A changed file of a run, a document or a tombstone in a folder's store gives typed errors that quote
    nothing, and every other run goes on."""
    folder = _copy("files", _files)
    try:
        chance = random.Random(seed)
        root = folder / "store"
        hurt = [*root.glob("runs/hurt/*"), *root.glob("documents/memory/*/*"), *root.glob("tombstones/*")]
        for path in chance.sample(sorted(hurt), chance.choice((1, 1, 3))):
            path.write_bytes(damaged(path.read_bytes(), seed))
        if chance.random() < 0.3:
            (root / chance.choice(("runs", "tombstones", "documents/memory", "runs/hurt"))).joinpath(
                chance.choice((".DS_Store", "=ff", "cfoo", "c9", "=h"))
            ).write_bytes(b"x")
        store = _files(folder)
        await _use(store)
        await _unharmed(store)
        await store.aclose()
    finally:
        shutil.rmtree(folder.parent)


def _hurt_row(path: Path, seed: int) -> None:
    chance = random.Random(seed)
    database = sqlite3.connect(path)
    database.text_factory = bytes
    table, column, where = chance.choice(
        (
            ("run_states", "body", "run_id = 'hurt'"),
            ("messages", "body", "run_id = 'hurt' AND seq = 1"),
            ("memory", "value", "1"),
            ("memory", "tag", "1"),
            ("run_states", "status", "run_id = 'hurt'"),
        )
    )
    (before,) = database.execute(f"SELECT {column} FROM {table} WHERE {where}").fetchone()
    after = damaged(before, seed)
    kind = chance.choice(("TEXT", "TEXT", "BLOB", "INTEGER"))
    database.execute(f"UPDATE {table} SET {column} = CAST(? AS {kind}) WHERE {where}", (after,))
    database.commit()
    database.close()


@cases(17, seed=st.integers(0, 2**32))
async def test_a_damaged_row_harms_its_run_alone(seed: int) -> None:
    """A changed row of a SQLite store gives typed errors that quote nothing, and every other run goes on."""
    folder = _copy("sqlite", _sqlite)
    try:
        _hurt_row(folder / "t.db", seed)
        store = _sqlite(folder)
        await _use(store)
        await _unharmed(store)
        await store.aclose()
    finally:
        shutil.rmtree(folder.parent)


@cases(10, seed=st.integers(0, 2**32))
async def test_a_damaged_database_gives_typed_errors(seed: int) -> None:
    """Changed bytes anywhere in a database's file give answers or typed errors that quote nothing."""
    folder = _copy("sqlite", _sqlite)
    try:
        path = folder / "t.db"
        path.write_bytes(damaged(path.read_bytes(), seed))
        store = _sqlite(folder)
        await _use(store)
        await store.aclose()
    finally:
        shutil.rmtree(folder.parent)


async def test_text_that_is_no_unicode_is_damage_and_not_quoted(tmp_path: Path) -> None:
    """A row of SQLite that is no UTF-8 is a damaged record, which no retry mends, and its text is not in the
    error; the list of runs leaves it out."""
    store = _sqlite(tmp_path)
    await _fill(store)
    database = sqlite3.connect(tmp_path / "t.db")
    database.execute(
        "UPDATE run_states SET body = CAST(? AS TEXT) WHERE run_id = 'hurt'", (b'{"x-my-secret-x\xff',)
    )
    database.commit()
    with pytest.raises(StoreError) as caught:
        await store.load_run("hurt")
    assert not isinstance(caught.value, StoreUnavailableError)
    assert MARK not in str(caught.value)
    await _unharmed(store)
    await store.aclose()
    database.close()


async def test_a_damaged_tombstone_closes_no_store(tmp_path: Path) -> None:
    """A tombstone that can't be read stands for a day, and the store opens."""
    store = _files(tmp_path)
    await _fill(store)
    await store.aclose()
    (tmp_path / "store/tombstones/gone").write_bytes(b"soon")
    again = _files(tmp_path)
    await _unharmed(again)
    await again.aclose()


@pytest.mark.parametrize("value", [b"", b"[]", b'{"recent": 5}', b"\xff", b"[" * 5000])
async def test_a_damaged_head_of_a_session_is_said(value: bytes) -> None:
    """A prompt to a session whose head is damaged is a typed error that quotes nothing."""
    store = MemoryAdapter()
    agent = PromptHandler(orm=store, model=ScriptedProvider(replies=["Yes."]))
    await agent.create_run("One.", session_id="s")
    (key,) = await store.list_documents("memory")
    document = await store.get_document("memory", key)
    assert document
    await store.put_document("memory", key, value, tag=document.tag)
    with pytest.raises(StoreError, match="head of a session"):
        await agent.create_run("Two.", session_id="s")
    await agent.aclose()


def test_times_without_a_zone_are_utc() -> None:
    """A stored time that has lost its zone is in UTC: to compare it with the clock must not raise."""
    record = STATE.decode().replace("Z", "").replace("+00:00", "")
    assert decode_state(record).created_at.tzinfo is not None


@pytest.mark.parametrize("session", [None, "s"])
async def test_a_version_that_is_not_the_stores_own_ends_in_an_error(session: str | None) -> None:
    """Where a record says another version than its store compares, a commit and a link end: they would be
    refused, and find nothing new, for ever."""
    store = MemoryAdapter()
    agent = PromptHandler(orm=store, model=ScriptedProvider(replies=["Yes."]))
    run = await agent.create_run("One.", session_id=session)
    store._runs[run.run_id].state = encode(run.model_copy(update={"version": 7}))
    with pytest.raises(StoreError, match="damaged: its record says version 7"):
        await agent.run_iteration(run.run_id, 1)
    if session:
        with pytest.raises(StoreError):
            await agent.create_run("Two.", session_id=session)
    await agent.aclose()


@pytest.mark.parametrize("tag", [b"\xed\xa0\x80", b"\xff"])
async def test_a_tag_that_is_no_text_is_damage(tmp_path: Path, tag: bytes) -> None:
    """A document of SQLite whose tag can't be given back to the database is damaged, not a crash."""
    store = _sqlite(tmp_path)
    await _fill(store)
    database = sqlite3.connect(tmp_path / "t.db")
    database.execute("UPDATE memory SET tag = CAST(? AS TEXT)", (tag,))
    database.commit()
    with pytest.raises(StoreError, match="damaged"):
        await Memory(store, "user:ann").put("a", 1)
    await store.aclose()
    database.close()
