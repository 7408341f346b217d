"""The doctor without a Temporal server: what it finds in a store, and what it leaves alone."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from thoughtgear.doctor import Doctor, Finding
from thoughtgear.doctor.scan import SETTLED
from thoughtgear.models import CallRecord, Claim, Driver, InboxItem, Parent, RunState, ToolCall, now
from thoughtgear.protocols import OrmAdapter
from thoughtgear.registry import open_store
from thoughtgear.testing import append, new_run

OLD = now() - SETTLED - timedelta(seconds=1)
DEAD = Claim(epoch=3, owner="local-x/1", driver="local", deadline=time.time() - 500)


async def put(store: OrmAdapter, run_id: str, **fields: Any) -> RunState:
    return await append(store, new_run(run_id, **{"created_at": OLD, "updated_at": OLD, **fields}), "a")


async def found(store: OrmAdapter) -> dict[str | None, Finding]:
    return {finding.run_id: finding for finding in (await Doctor(store).scan()).findings}


async def test_runs_that_nothing_drives_are_found(store: OrmAdapter):
    """A run that nobody has begun with, one whose process died and one of another executor are found with the
    command that goes on; one that is to be cancelled with the command that ends it."""
    await put(store, "new")
    await put(store, "dead", status="running", claim=DEAD)
    await put(store, "sent", driver=Driver(executor="sqs"), claim=DEAD)
    cancel = InboxItem(request_id="cancel", kind="cancel")
    await put(store, "unwanted", status="running", claim=DEAD, inbox=[cancel])
    await put(store, "over", status="failed")
    findings = await found(store)
    assert {finding.kind for finding in findings.values()} == {"not driven"}
    assert {run_id: finding.command for run_id, finding in findings.items()} == {
        "new": "run --continue new",
        "dead": "run --continue dead",
        "sent": "run --continue sent",
        "unwanted": "cancel unwanted",
    }
    assert findings["new"].what.startswith("Nobody has begun with it (driver local)")
    assert findings["sent"].what.startswith("Nobody works on it (driver sqs)")
    mended = await Doctor(store).repair(findings["dead"])
    assert (mended.done, (await store.load_run("dead")).version) == (False, 1)


async def test_what_may_be_at_work_is_left_alone(store: OrmAdapter):
    """A live claim, a change of just now, a call that waits for a person and a run that waits for the one
    before it are no findings; neither is a run of Temporal's, but it is counted."""
    call = CallRecord(call=ToolCall(id="1.0", name="pay"), status="waiting")
    await put(store, "held", status="running", claim=Claim(epoch=1, owner="x/1", deadline=time.time() + 60))
    await put(store, "fresh", updated_at=now())
    await put(store, "asks", status="waiting", ledger=[call], claim=DEAD)
    await put(store, "queued", parent=Parent(run_id="held"))
    await put(store, "elsewhere", driver=Driver(executor="temporal"))
    diagnosis = await Doctor(store).scan()
    assert (diagnosis.findings, diagnosis.unchecked) == ([], [])
    assert (diagnosis.runs, diagnosis.on_temporal, diagnosis.healthy) == (5, 1, True)


async def test_what_no_longer_waits_is_found():
    """A call that was settled and a run whose earlier one is over are found when nobody goes on with them."""
    store = open_store("memory://")
    call = CallRecord(call=ToolCall(id="1.0", name="pay"), status="waiting")
    settled = InboxItem(request_id="settle-1.0", kind="settle", call_id="1.0", outcome="done")
    await put(store, "settled", status="waiting", ledger=[call], inbox=[settled], claim=DEAD)
    await put(store, "over", status="done")
    await put(store, "next", parent=Parent(run_id="over"))
    await put(store, "orphan", parent=Parent(run_id="deleted"))
    assert set(await found(store)) == {"settled", "next", "orphan"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:p@127.0.0.1:1/db?connect_timeout=2", "PostgreSQL at 127.0.0.1:1"),
        ("s3://a:b@bucket/x?endpoint=http://127.0.0.1:1&region=us-east-1", "can't be reached"),
        ("mongodb://127.0.0.1:1/db?serverSelectionTimeoutMS=100", "MongoDB at 127.0.0.1:1"),
    ],
)
async def test_a_store_that_is_away_is_a_finding(url: str, said: str):
    """A store that can't be reached is found, with its address and without its password, and what could not
    be looked at is told."""
    store = open_store(url)
    diagnosis = await Doctor(store).scan()
    await store.aclose()
    (finding,) = diagnosis.findings
    assert (finding.kind, diagnosis.unchecked) == (
        "store",
        ["Runs and workflows: the store can't be used."],
    )
    assert said in finding.what
    assert ":p@" not in finding.what


async def test_tables_of_another_version_are_a_finding(tmp_path: Path):
    """A store whose tables are of another version is found with the command that upgrades it."""
    script = Path(__file__).parents[1] / "adapters" / "schemas" / "v1.sqlite.sql"
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        connection.executescript(script.read_text())
    store = open_store(f"sqlite:///{tmp_path}/old.db")
    (finding,) = (await Doctor(store).scan()).findings
    await store.aclose()
    assert (finding.kind, finding.command) == ("store", "db upgrade")


async def test_a_record_of_a_newer_version_is_a_finding():
    """A run that this version can't read is found, and does not end the scan with an error."""
    store = open_store("memory://")
    await put(store, "newer", format=99)
    (finding,) = (await Doctor(store).scan()).findings
    assert finding.kind == "store"
    assert "upgrade" in finding.what
