"""The key of the messages, which no commit reaches past the version check: asked in the database itself."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from thoughtgear.adapters.sql import SqlAdapter
from thoughtgear.testing import append, new_run


async def test_a_seq_is_stored_once(tmp_path: Path) -> None:
    """The database itself refuses a second message with the same seq in a run, whoever writes it."""
    store = SqlAdapter.from_dict({"path": str(tmp_path / "t.db")})
    await append(store, new_run("r"), "one")
    await store.aclose()
    database = sqlite3.connect(tmp_path / "t.db")
    columns = [row[1] for row in database.execute("PRAGMA table_info(messages)")]
    copy = "INSERT INTO messages SELECT " + ", ".join(
        "hex(randomblob(8))" if c == "row" else c for c in columns
    )
    with pytest.raises(sqlite3.IntegrityError):
        database.execute(f"{copy} FROM messages")
    database.close()
