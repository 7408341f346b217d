"""The S3 store request by request: who dies between two of them, who loses, who comes late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from s3_server import BUCKET, S3Server
from s3_wire import Died, Wire

from thoughtgear.adapters import s3_run
from thoughtgear.adapters.s3 import S3Adapter
from thoughtgear.adapters.s3_bucket import Bucket
from thoughtgear.adapters.s3_head import APART_BYTES, PAGE
from thoughtgear.adapters.s3_segments import SEGMENTS
from thoughtgear.errors import ConflictError
from thoughtgear.models import RunState
from thoughtgear.testing import append, new_run
from thoughtgear.testing.case import assert_absent, assert_standing, texts_of

BIG = "b" * APART_BYTES


@pytest.fixture
async def store(s3: S3Server, tmp_path: Path) -> AsyncIterator[S3Adapter]:
    opened = S3Adapter.from_url(s3.url(tmp_path))
    yield opened
    await opened.aclose()


@pytest.fixture
async def other(s3: S3Server, tmp_path: Path) -> AsyncIterator[S3Adapter]:
    """The same store in another process, as it were."""
    opened = S3Adapter.from_url(s3.url(tmp_path))
    yield opened
    await opened.aclose()


@pytest.fixture
def wire(store: S3Adapter) -> Wire:
    return Wire(store)


def keys_below(s3: S3Server, store: S3Adapter, folder: str) -> list[str]:
    prefix = store._settings.prefix
    found = s3.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix + folder)
    return [each["Key"][len(prefix) :] for each in found.get("Contents", [])]


def reopened(store: S3Adapter) -> S3Adapter:
    """The store of a process that has just begun, by the same connections."""
    fresh = S3Adapter(store._settings)
    fresh._bucket._made, fresh._bucket._pid = store._bucket._made, store._bucket._pid
    fresh._bucket._threads, fresh._bucket._probed = store._bucket._threads, store._bucket._probed
    return fresh


def dying(wire: Wire, left: int, *, sent: bool) -> list[str]:
    """Let the process die at the n-th request, before it is sent or before it is answered; the dead send no
    more. Return what is filled when it has died."""
    died: list[str] = []

    def step(_: str, key: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            if sent and not died:
                wire.send()
            died.append(key)
            raise Died

    wire.step = step
    return died


@pytest.mark.parametrize("sent", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("start", ["nothing", "a message", "two pages", "a segment to bind", "a tombstone"])
async def test_a_crash_at_any_request_of_a_commit(
    store: S3Adapter, wire: Wire, monkeypatch: pytest.MonkeyPatch, start: str, sent: bool
) -> None:
    """Wherever a writer dies its commit is whole or absent, and the next writer goes on."""
    monkeypatch.setattr(s3_run, "TOMBSTONE_SECONDS", 0)
    counts = {"a message": 1, "two pages": 2 * PAGE + 1, "a segment to bind": SEGMENTS[0] + PAGE}
    texts = [f"{number}" for number in range(counts.get(start, 0))]
    for left in range(30):
        run_id = f"r{left}"
        state = await append(store, new_run(run_id), *texts) if texts else new_run(run_id)
        state = await append(store, state) if start == "a segment to bind" else state
        if start == "a tombstone":
            await append(store, state, *["old"] * 40)
            await store.delete_run(run_id)
        died = dying(wire, left, sent=sent)
        try:
            await append(store, state.model_copy(update={"status": "done"}), "new", BIG)
        except Died:
            assert died
        wire.step = None
        again = reopened(store)
        found = await texts_of(again, run_id)
        assert found in (texts, [*texts, "new", BIG])
        assert died or found != texts
        state = await again.load_run(run_id) if found else new_run(run_id)
        state = await append(again, state, "on")
        await assert_standing(again, state, *found, "on")
        assert run_id in [run.run_id for run in (await again.list_runs()).runs]
        if not died:
            break
    assert not died
    least = {"nothing": 3, "a message": 3, "two pages": 5, "a segment to bind": 12, "a tombstone": 5}
    assert left >= least[start]


@pytest.mark.parametrize("sent", [False, True], ids=["before", "after"])
async def test_a_crash_at_any_request_of_a_deletion(
    s3: S3Server, store: S3Adapter, wire: Wire, sent: bool
) -> None:
    """Wherever a deleter dies, the run is there whole or gone for good, and deleting again completes it."""
    for left in range(20):
        run_id = f"r{left}"
        texts = [BIG, *(f"{number}" for number in range(PAGE))]
        state = await append(store, await append(store, new_run(run_id), *texts), "last")
        await store.put_document("files", f"{run_id}/x", b"x", tag=None)
        died = dying(wire, left, sent=sent)
        try:
            await store.delete_run(run_id)
        except Died:
            assert died
        wire.step = None
        again = reopened(store)
        if await texts_of(again, run_id) != [*texts, "last"]:
            await assert_absent(again, run_id)
            with pytest.raises(ConflictError):
                await append(again, state, "late")
        await again.delete_run(run_id)
        for late in (state, new_run(run_id)):
            with pytest.raises(ConflictError):
                await append(again, late, "late")
        assert await again.list_documents("files") == []
        assert keys_below(s3, again, f"runs/{run_id}/") == [f"runs/{run_id}/head"]
        assert keys_below(s3, again, "index/") == keys_below(s3, again, "open/") == []
        if not died:
            break
    assert not died
    assert left >= 6


async def test_what_a_loser_wrote_is_removed(
    s3: S3Server, store: S3Adapter, other: S3Adapter, wire: Wire
) -> None:
    """A commit that lost, to another one or to a deletion, leaves no page, message or marker behind."""
    state = await append(store, new_run("r"), *["x"] * PAGE)

    def before(part: str, meanwhile: Callable[[], Coroutine[Any, Any, object]]) -> None:
        def step(operation: str, key: str) -> None:
            if operation == "PutObject" and part in key:
                wire.step = None
                asyncio.run(meanwhile())

        wire.step = step

    before("/head", lambda: append(other, state, "theirs"))
    with pytest.raises(ConflictError):
        await append(store, state, BIG)
    theirs = await other.load_run("r")
    assert not [key for key in keys_below(s3, store, "runs/r/") if key.rpartition("/")[2].startswith("b")]
    await assert_standing(store, theirs, *["x"] * PAGE, "theirs")
    state = theirs
    for _ in range(PAGE - 1):
        state = await append(store, state, "y")
    before("/p0", lambda: other.delete_run("r"))
    with pytest.raises(ConflictError):
        await append(store, state, BIG)
    assert keys_below(s3, store, "runs/r/") == ["runs/r/head"]
    with pytest.raises(ConflictError):
        await append(store, new_run("r"), BIG)
    assert keys_below(s3, store, "") == ["layout", "runs/r/head"]


@pytest.mark.parametrize("recreated", [False, True])
async def test_a_reader_meets_a_deletion(
    store: S3Adapter, other: S3Adapter, wire: Wire, monkeypatch: pytest.MonkeyPatch, recreated: bool
) -> None:
    """A reader whose pages vanish reads what is there then: nothing, or the run that took the place."""
    monkeypatch.setattr(s3_run, "TOMBSTONE_SECONDS", 0)
    state = await append(store, new_run("r"), *["old"] * PAGE)
    await append(store, state, "old")

    async def meanwhile() -> None:
        await other.delete_run("r")
        if recreated:
            await append(other, new_run("r"), "new")

    def step(_: str, key: str) -> None:
        if "/p0" in key:
            wire.step = None
            asyncio.run(meanwhile())

    wire.step = step
    assert await texts_of(store, "r") == (["new"] if recreated else [])
    assert wire.step is None


async def test_one_of_many_takes_a_tombstones_place(
    store: S3Adapter, other: S3Adapter, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over an expired tombstone one creator wins; a late deleter of the old run takes nothing of the new."""
    monkeypatch.setattr(s3_run, "TOMBSTONE_SECONDS", 0)
    created = new_run("r")
    state = await append(store, created, *["old"] * PAGE)
    await append(store, state, "old")
    won: list[str] = []

    async def meanwhile() -> None:
        racers = [append(other, created, f"{number}", *["x"] * PAGE) for number in range(8)]
        ended = await asyncio.gather(*racers, return_exceptions=True)
        won.extend(f"{number}" for number, each in enumerate(ended) if isinstance(each, RunState))
        assert sum(isinstance(each, ConflictError) for each in ended) == 7
        await append(other, await other.load_run("r"), "last")

    def step(operation: str, _: str) -> None:
        if operation == "ListObjectsV2":
            wire.step = None
            asyncio.run(meanwhile())

    wire.step = step
    await store.delete_run("r")
    assert await texts_of(store, "r") == [*won, *["x"] * PAGE, "last"]
    assert [run.run_id for run in (await store.list_runs()).runs] == ["r"]


async def test_an_expired_tombstone_completes_its_deletion(
    s3: S3Server, store: S3Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion that died after its tombstone is completed by deleting again, also a day later."""
    state = await append(store, new_run("r"), *["old"] * PAGE)
    await append(store, state, "old")
    await store.put_document("files", "r/x", b"x", tag=None)

    async def die(*_: Any) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "delete_below", die)
        with pytest.raises(Died):
            await store.delete_run("r")
    assert await store.list_documents("files") == ["r/x"]
    real = time.time
    monkeypatch.setattr(s3_run.time, "time", lambda: real() + 25 * 3600)
    await store.delete_run("r")
    assert await store.list_documents("files") == []
    assert [key.rpartition("/")[2] for key in keys_below(s3, store, "runs/")] == ["head"]


async def test_a_tombstone_lasts_its_time(store: S3Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day after its deletion a run can be created again, and nothing of the old one comes back."""
    state = await append(store, new_run("r"), *["old"] * PAGE)
    state = await append(store, state, "old")
    await store.delete_run("r")
    real = time.time
    for hours, expired in ((23, False), (25, True)):
        monkeypatch.setattr(s3_run.time, "time", lambda hours=hours: real() + hours * 3600)
        with pytest.raises(ConflictError):
            await append(store, state, "late")
        if not expired:
            with pytest.raises(ConflictError):
                await append(store, new_run("r"), "early")
    monkeypatch.setattr(s3_run.time, "time", real)
    monkeypatch.setattr(s3_run, "TOMBSTONE_SECONDS", 0)
    await append(store, new_run("s"), "old")
    await store.delete_run("s")
    await assert_standing(store, await append(store, new_run("s"), "new"), "new")
