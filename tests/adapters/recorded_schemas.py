"""Records a database with the tables of this version: `python tests/adapters/recorded_schemas.py`.

Run it before the tables change, with PYTHONPATH=tests, and keep every file: `test_migrations.py` reads them.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
import tempfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from postgres_server import PostgresServer

from thoughtgear.errors import ConflictError
from thoughtgear.models import CallRecord, Message, Parent, RunState, ToolCall, ToolResult, Usage
from thoughtgear.protocols import OrmAdapter
from thoughtgear.registry import open_store
from thoughtgear.testing import new_run
from thoughtgear.testing.case import assert_absent

SCHEMAS = Path(__file__).parent / "schemas"
SCHEMA = "recorded"
"""The PostgreSQL schema that the recorded tables are in."""

_TABLES = "run_states|run_metadata|messages|cache|memory|files|schema_version"
_COLUMNS = "status|handler|session_id|user_id|created_at|deleted_until|pair|pkey|pkc"
_NAME = re.compile(rf"\b(ix_)?({_TABLES})(?=(?:_(?:{_COLUMNS}))?\b)")

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
FAR = 4_102_444_800  # 2100: the tombstone stands whenever this is read
MESSAGES = 40


def states() -> list[RunState]:
    """The runs, oldest first: a plain one, one in the midst of a tool, odd text, metadata of all kinds."""
    call = ToolCall(id="2.0", name="look", arguments={"path": "a"})
    made = [
        new_run("done", status="done", output="42", session_id="s", user_id="u", nonce="n1", version=3),
        new_run("going", status="running", ledger=[CallRecord(call=call, status="started")], version=2),
        new_run("odd", handler="a\0b", user_id="ü\\0", session_id="\0", metadata={"k\0": "\0", "ü": "\\"}),
        new_run("next", parent=Parent(run_id="done", seq=MESSAGES - 1), session_id="s", linked=True),
        new_run("deep", metadata={"one": 1, "one.0": 1.0, "true": True, "nested": {"b": [1, None], "a": {}}}),
    ]
    made += [new_run(f"n{number}", metadata={"team": f"t{number % 3}", "n": number}) for number in range(10)]
    counted = {"done": MESSAGES, "going": 2, "next": 1}
    for number, state in enumerate(made):
        state.created_at = state.updated_at = START + timedelta(seconds=number)
        state.message_count = counted.get(state.run_id, 0)
        state.version = max(state.version, 1)
        state.usage = Usage(input_tokens=number)
    return made


def transcript(state: RunState) -> list[Message]:
    """The messages of a run."""
    plain = [
        Message(seq=seq, role="user", text=f"{state.run_id} {seq} é\0", created_at=START)
        for seq in range(state.message_count)
    ]
    if state.run_id == "done":
        found = ToolResult(call_id="1.0", name="look", content="seen")
        plain[1] = Message(seq=1, role="tool", tool_result=found, iteration=1, created_at=START)
    return plain


DOCUMENTS = {
    ("memory", "user/ü"): b"\0\xff",
    ("cache", "k"): b"",
    ("files", "done/sha"): b"x" * 5000,
}


async def fill(store: OrmAdapter) -> None:
    """Commit all of this into an empty store."""
    for state in states():
        for version in range(1, state.version):  # the last commit brings the messages
            await store.save_run(state.model_copy(update={"version": version, "message_count": 0}), [])
        await store.save_run(state, transcript(state))
    gone = new_run("gone", version=1)
    await store.save_run(gone, [])
    await store.delete_run("gone")
    for (collection, key), value in DOCUMENTS.items():
        await store.put_document(collection, key, value, tag=None)


async def assert_kept(store: OrmAdapter) -> None:
    """Check that the store holds all of it."""
    for state in states():
        assert await store.load_run(state.run_id) == state
        assert await store.get_history(state.run_id) == transcript(state)
    listed = (await store.list_runs(limit=1000)).runs
    assert [run.run_id for run in listed] == [state.run_id for state in reversed(states())]
    await assert_absent(store, "gone")
    try:
        await store.save_run(new_run("gone", version=1), [])
    except ConflictError:
        pass
    else:
        raise AssertionError("the tombstone was lost")
    for (collection, key), value in DOCUMENTS.items():
        found = await store.get_document(collection, key)
        assert found is not None
        assert found.value == value


async def record_sqlite(folder: Path) -> None:
    store = open_store(f"sqlite:///{folder}/store.db")
    await fill(store)
    await store.aclose()
    with closing(sqlite3.connect(folder / "store.db")) as connection, connection:
        connection.execute("UPDATE run_states SET deleted_until = ? WHERE deleted_until > 0", (FAR,))
        (version,) = connection.execute("SELECT * FROM schema_version").fetchone()
        _write(int(version), "sqlite", "\n".join(connection.iterdump()))


async def record_postgresql(server: PostgresServer, folder: Path) -> None:
    store = open_store(server.url(folder, schema=SCHEMA))
    await fill(store)
    await store.aclose()
    server.run("psql", "-c", f"UPDATE {SCHEMA}.run_states SET deleted_until = {FAR} WHERE deleted_until > 0")
    version = server.run("psql", "-Atc", f"SELECT * FROM {SCHEMA}.schema_version")
    options = ("--inserts", "--rows-per-insert=100", "--no-owner", "--no-privileges", f"--schema={SCHEMA}")
    text = server.run("pg_dump", *options)
    # Comments name the release, and psql's own commands are not the server's.
    lines = [line for line in text.splitlines() if not line.startswith(("--", "\\")) and line]
    _write(int(version), "postgresql", "\n".join(lines))


def _write(version: int, database: str, text: str) -> None:
    SCHEMAS.mkdir(exist_ok=True)
    (SCHEMAS / f"v{version}.{database}.sql").write_text(f"{text}\n")


def load_sqlite(version: int, path: Path, prefix: str = "") -> None:
    """Make the database of that version."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(_recorded(version, "sqlite", prefix))


def load_postgresql(version: int, server: PostgresServer, schema: str, prefix: str = "") -> None:
    """Make the tables of that version in a new schema."""
    text = re.sub(rf"\b{SCHEMA}\b", schema, _recorded(version, "postgresql", prefix))
    server.run("psql", "-v", "ON_ERROR_STOP=1", "-q", given=text)


def _recorded(version: int, database: str, prefix: str) -> str:
    """The recorded statements, with the prefix before the names of tables, keys and indexes. A line of rows
    names a table at its beginning, if at all."""
    lines = (SCHEMAS / f"v{version}.{database}.sql").read_text().splitlines()
    given = rf"\g<1>{prefix}\g<2>"
    return "\n".join(
        line if line.startswith("\t(") else _NAME.sub(given, line, count=int(line.startswith("INSERT")))
        for line in lines
    )


def versions() -> list[int]:
    """The versions that were recorded, for both databases."""
    return sorted({int(path.name[1:].partition(".")[0]) for path in SCHEMAS.glob("v*.sql")})


async def main() -> None:
    """Record into `schemas/`."""
    folder = Path(tempfile.mkdtemp())
    server = PostgresServer(folder)
    server.start()
    try:
        await record_sqlite(folder)
        await record_postgresql(server, folder)
    finally:
        server.stop()
        shutil.rmtree(folder)


if __name__ == "__main__":
    asyncio.run(main())
