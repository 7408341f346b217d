"""The S3 store when objects of it are damaged: that is told, harms no other run, and can be removed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from s3_server import BUCKET, S3Server

from thoughtgear.adapters import s3_run
from thoughtgear.adapters.s3 import S3Adapter
from thoughtgear.adapters.s3_head import APART_BYTES
from thoughtgear.deletion import delete_run, delete_user
from thoughtgear.doctor import Doctor
from thoughtgear.errors import ConflictError, StoreError
from thoughtgear.protocols import RunFilter
from thoughtgear.testing import append, new_run
from thoughtgear.testing.case import assert_absent, assert_standing, texts_of

BROKEN = [b"", b"secret", b"{", b"[" * 100_000, b"\xff\xfe", b"null", b"{}"]
"""Bodies that are no head at all."""

WRONG = [
    {"born": 5},
    {"born": "../../other"},
    {"version": "1"},
    {"count": -1},
    {"folded": True},
    {"commits": [1]},
    {"listed": None},
    {"bound": ["x"]},
    {"deleted_until": "now"},
]
"""Fields of a header that can't be so."""


@pytest.fixture
async def store(s3: S3Server, tmp_path: Path) -> AsyncIterator[S3Adapter]:
    opened = S3Adapter.from_url(s3.url(tmp_path))
    yield opened
    await opened.aclose()


def put(s3: S3Server, store: S3Adapter, key: str, body: bytes) -> None:
    s3.client().put_object(Bucket=BUCKET, Key=store._settings.prefix + key, Body=body)


def get(s3: S3Server, store: S3Adapter, key: str) -> bytes:
    return s3.client().get_object(Bucket=BUCKET, Key=store._settings.prefix + key)["Body"].read()


def keys(s3: S3Server, store: S3Adapter) -> list[str]:
    prefix = store._settings.prefix
    found = s3.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return [each["Key"][len(prefix) :] for each in found.get("Contents", [])]


@pytest.mark.parametrize("body", [*BROKEN, *WRONG], ids=lambda body: repr(body)[:24])
async def test_a_damaged_head_is_told_and_removed(
    s3: S3Server, store: S3Adapter, body: bytes | dict[str, object]
) -> None:
    """A head that can't be read is told by the lists and is a typed error of its run, which quotes nothing;
    by force it goes with all that belongs to it, and the other run is as it was."""
    well = await append(store, new_run("we-ll", user_id="u"), "kept")
    state = await append(store, new_run("a.b-c", user_id="u", status="running"), *["x"] * 40)
    await append(store, state, "b" * (APART_BYTES + 1))
    await store.put_document("files", "a.b-c/f", b"bytes", tag=None)
    put(s3, store, "runs/a.b=2dc/head", changed(get(s3, store, "runs/a.b=2dc/head"), body))
    for where in (RunFilter(), RunFilter(user_id="u"), RunFilter(status="running")):
        page = await store.list_runs(where)
        assert page.runs == ([] if where.status else [well])
        assert list(page.damaged) == ["a.b-c"]
        assert "secret" not in str(page.damaged)
    for call in (store.load_run("a.b-c"), store.get_history("a.b-c"), append(store, state, "c")):
        with pytest.raises(StoreError, match="head of a run is damaged") as caught:
            await call
        assert not caught.value.retryable
    (finding,) = [each for each in (await Doctor(store).scan()).findings if each.kind == "damaged"]
    assert finding.command == "runs delete --force a.b-c"
    with pytest.raises(StoreError, match="by force"):
        await delete_run(store, "a.b-c")
    assert (await delete_run(store, "a.b-c", force=True)).runs == 1
    await assert_absent(store, "a.b-c")
    assert (await store.list_runs()).damaged == {}
    left = [key for key in keys(s3, store) if "a.b" in key]
    assert left == ["runs/a.b=2dc/head"]
    await assert_standing(store, well, "kept")
    await store.delete_run("a.b-c")
    with pytest.raises(ConflictError):
        await append(store, new_run("a.b-c"), "late")


def changed(head: bytes, body: bytes | dict[str, object]) -> bytes:
    """A head with other fields, or something else in its place."""
    if isinstance(body, bytes):
        return body
    header, _, rest = head.partition(b"\n")
    return json.dumps(json.loads(header) | body).encode() + b"\n" + rest


async def test_the_damaged_run_of_a_user_is_named(s3: S3Server, store: S3Adapter) -> None:
    """Deleting a user deletes what can be read, and names the run whose head can't be."""
    await append(store, new_run("well", user_id="u", status="done"), "a")
    await append(store, new_run("broken", user_id="u", status="done"), "a")
    put(s3, store, "runs/broken/head", b"")
    with pytest.raises(StoreError, match=r"broken\. Delete them by force"):
        await delete_user(store, "u")
    await assert_absent(store, "well")


async def test_a_run_after_a_damaged_one_is_whole(
    s3: S3Server, store: S3Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the tombstone of a damaged run is expired a run of that id can begin; a deletion that comes late
    removes nothing of what may be the new run's."""
    await append(store, new_run("r"), *["old"] * 40)
    put(s3, store, "runs/r/head", b"broken")
    monkeypatch.setattr(s3_run, "TOMBSTONE_SECONDS", -1)
    await store.delete_run("r")
    before = keys(s3, store)
    await store.delete_run("r")
    assert keys(s3, store) == before
    state = await append(store, new_run("r"), *["new"] * 40)
    state = await append(store, state, "newer")
    assert await texts_of(store, "r") == [*["new"] * 40, "newer"]
    assert (await store.list_runs()).runs == [state]


async def test_a_damaged_reference_is_a_store_error(s3: S3Server, store: S3Adapter) -> None:
    """A tail whose line names no object is an error of that run's transcript, and of nothing else."""
    state = await append(store, new_run("r"), "b" * (APART_BYTES + 1))
    head = get(s3, store, "runs/r/head")
    put(s3, store, "runs/r/head", head[: head.rindex(b"\n") + 1] + b"[broken")
    with pytest.raises(StoreError, match="message of a run is damaged"):
        await store.get_history("r")
    assert await store.load_run("r") == state
