"""The doctor without a Temporal server: what it finds in a store, and what it leaves alone."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from thoughtgear.deletion import delete_run
from thoughtgear.doctor import Doctor, Finding
from thoughtgear.doctor.scan import SETTLED
from thoughtgear.errors import ConfigurationError
from thoughtgear.executors.lambda_ import LambdaExecutor
from thoughtgear.executors.local import LocalExecutor
from thoughtgear.executors.sqs import SqsExecutor
from thoughtgear.models import (
    LONGEST_HOLD,
    CallRecord,
    Claim,
    Driver,
    InboxItem,
    Parent,
    RunState,
    ToolCall,
    now,
)
from thoughtgear.protocols import Attempt, OrmAdapter, RunFilter, RunPage
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


FAR = time.time() + 10 * 365 * 86400


@pytest.mark.parametrize("deadline", [FAR, 1e300], ids=["years", "for ever"])
async def test_a_stuck_claim_is_found_and_released(store: OrmAdapter, deadline: float):
    """A claim whose deadline no driver would set is found before all else of runs; the repair commits the run
    as it was, with the claim given back under the next epoch, so that whoever made it is fenced."""
    await put(store, "a-new")
    await put(store, "z-fresh", updated_at=now(), status="running", claim=Claim(epoch=1, owner="x/1"))
    claim = Claim(epoch=3, owner="local-x/1", driver="local", deadline=deadline)
    stuck = await put(store, "z-stuck", status="running", claim=claim, metadata={"k": 1})
    diagnosis = await Doctor(store).scan()
    assert [(each.kind, each.run_id) for each in diagnosis.findings] == [
        ("stuck claim", "z-stuck"),
        ("not driven", "a-new"),
    ]
    finding = diagnosis.findings[0]
    assert "the clock of whoever made it was wrong" in finding.what
    mended = [await Doctor(store).repair(finding) for _ in range(2)]
    assert [each.done for each in mended] == [True, True]
    assert mended[0].said.startswith("The claim is released")
    assert mended[0].said.endswith("go on: thoughtgear run --continue z-stuck")
    assert mended[1].said == "The claim is stuck no more."
    after = await store.load_run("z-stuck")
    kept = {"version": 2, "claim": Claim(epoch=4, driver="local"), "nonce": after.nonce}
    assert after == stuck.model_copy(update={**kept, "updated_at": after.updated_at})
    assert after.nonce != stuck.nonce
    assert not [each for each in (await Doctor(store).scan()).findings if each.kind == "stuck claim"]


async def test_a_long_claim_is_not_stuck(store: OrmAdapter):
    """A deadline as far ahead as any driver may set it is no finding, and no attempt may hold for longer."""
    claim = Claim(epoch=1, owner="x/1", deadline=time.time() + LONGEST_HOLD)
    await put(store, "held", status="running", claim=claim)
    assert (await Doctor(store).scan()).findings == []
    for wrong in (LONGEST_HOLD + 1, -1, float("nan"), "30", True):
        for make in (
            lambda seconds: Attempt(hold=seconds),
            lambda seconds: LocalExecutor(claim_seconds=seconds),
            lambda seconds: LambdaExecutor(print, claim_seconds=seconds),
            lambda seconds: SqsExecutor("https://sqs/q", client=object(), claim_seconds=seconds),
        ):
            with pytest.raises(ConfigurationError, match="A claim lasts for 0 to 3600 seconds"):
                make(wrong)


async def test_a_run_at_work_is_not_stuck(store: OrmAdapter):
    """A hold of an hour by a clock that is a little ahead is no finding, and neither is a deadline of whoever
    has just committed; a repair leaves it alone, too."""
    held = Claim(epoch=1, owner="x/1", deadline=time.time() + LONGEST_HOLD + 300)
    await put(store, "ahead", status="running", claim=held)
    await put(store, "at-work", status="running", updated_at=now(), claim=replaced(held, deadline=FAR))
    assert (await Doctor(store).scan()).findings == []
    for run_id in ("ahead", "at-work"):
        finding = Finding("stuck claim", "", run_id=run_id, repair="release")
        assert (await Doctor(store).repair(finding)).said == "The claim is stuck no more."
        assert (await store.load_run(run_id)).claim.epoch == 1


def replaced(claim: Claim, **fields: Any) -> Claim:
    return claim.model_copy(update=fields)


async def test_a_damaged_run_is_found(tmp_path: Path):
    """Runs that can't be read, over or not, are findings with the command that deletes them; after it
    nothing is wrong."""
    store = open_store(f"sqlite:///{tmp_path}/runs.db")
    for run_id, status in (("gone-on", "running"), ("ended", "done"), ("well", "done")):
        await put(store, run_id, status=status)
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection, connection:
        connection.execute("UPDATE run_states SET body = 'a secret' WHERE run_id != 'well'")
    findings = await found(store)
    assert {run_id: (each.kind, each.command) for run_id, each in findings.items()} == {
        "gone-on": ("damaged", "runs delete --force gone-on"),
        "ended": ("damaged", "runs delete --force ended"),
    }
    assert "secret" not in str(findings)
    assert not (await Doctor(store).repair(findings["ended"])).done
    for run_id in findings:
        await delete_run(store, run_id, force=True)
    assert await found(store) == {}
    await store.aclose()


async def test_the_runs_are_listed_once():
    """A scan walks the store's runs once, whatever their status; a run is met once."""
    store = open_store("memory://")
    for number in range(12):
        status = ("pending", "running", "waiting", "done")[number % 4]
        await put(store, f"r{number}", status=status)
    pages = []
    listing = store.list_runs

    async def counted(where: RunFilter = RunFilter(), **options: Any) -> RunPage:  # noqa: B008 - frozen
        pages.append(where)
        return await listing(where, **options)

    store.list_runs = counted  # type: ignore[method-assign]  # to count them
    diagnosis = await Doctor(store).scan()
    assert (pages, diagnosis.runs, len(diagnosis.findings)) == ([RunFilter()], 9, 9)


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


@pytest.mark.parametrize("kind", ["sqlite", "files", "s3", "mongodb"])
@pytest.mark.parametrize("version", ["99", "theirs"])
async def test_what_no_upgrade_mends_is_told_so(
    kind: str, version: str, tmp_path: Path, request: pytest.FixtureRequest
):
    """A store of a newer version is found with the package to upgrade, one whose version is no number with
    the way out; `db upgrade`, which could do nothing, is not offered."""
    server = None if kind in ("sqlite", "files") else request.getfixturevalue(kind)
    url = server.url(tmp_path) if server else f"{kind}:///{tmp_path}/store"
    store = open_store(url)
    await store.list_runs()
    await store.aclose()
    overwrite_version(kind, url, tmp_path, server, version)
    store = open_store(url)
    (finding,) = (await Doctor(store).scan()).findings
    await store.aclose()
    assert (finding.kind, finding.command, finding.todo) == ("store", None, "")
    said = "pip install --upgrade thoughtgear" if version == "99" else "use another "
    assert said in finding.what
    assert "db upgrade" not in finding.what


def overwrite_version(kind: str, url: str, folder: Path, server: Any, version: str) -> None:
    """Make the store one of another version."""
    if kind == "sqlite":
        with closing(sqlite3.connect(folder / "store")) as connection, connection:
            connection.execute("UPDATE schema_version SET version_num = ?", (version,))
    elif kind == "files":
        (folder / "store" / "layout").write_text(version)
    elif kind == "s3":
        key = f"tests/{folder.parent.name}/{folder.name}/layout"
        server.client().put_object(Bucket="thoughtgear", Key=key, Body=version.encode())
    else:
        with MongoClient[dict[str, Any]](url) as client:
            client.get_default_database().schema_version.update_one({}, {"$set": {"version": version}})


async def test_a_record_of_a_newer_version_is_a_finding():
    """A run that this version can't read is found, and does not end the scan with an error."""
    store = open_store("memory://")
    await put(store, "newer", format=99)
    (finding,) = (await Doctor(store).scan()).findings
    assert finding.kind == "store"
    assert "upgrade" in finding.what
