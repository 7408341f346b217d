"""The S3 store's segments: what binds pages, who reads them, and what may come between."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from s3_server import BUCKET, S3Server
from s3_wire import Wire

from thoughtgear.adapters import s3_run
from thoughtgear.adapters.s3 import S3Adapter
from thoughtgear.adapters.s3_head import APART_BYTES, PAGE, Head, object_name
from thoughtgear.adapters.s3_segments import BIND_AT_ONCE, SEGMENTS, parts_of
from thoughtgear.errors import ConflictError
from thoughtgear.models import RunState
from thoughtgear.testing import append, new_run
from thoughtgear.testing.case import assert_absent, assert_standing, texts_of

SMALL, LARGE = SEGMENTS


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


def numbers(count: int) -> list[str]:
    return [f"{number}" for number in range(count)]


async def paged(store: S3Adapter, count: int, run_id: str = "r") -> RunState:
    """Make a run whose messages are in pages, but for the last ones, and in no segment."""
    return await append(store, await append(store, new_run(run_id), *numbers(count)))


def segments_of(s3: S3Server, store: S3Adapter, run_id: str = "r") -> list[str]:
    prefix = f"{store._settings.prefix}runs/{run_id}/"
    found = s3.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    names = [each["Key"].rpartition("/")[2] for each in found]
    return [name for name in names if name.startswith("s")]


async def bound(store: S3Adapter, run_id: str = "r") -> tuple[int, ...]:
    head = await store._runs._fetch(object_name(run_id))
    assert head is not None
    return head.bound


_COUNTS = st.integers(0, 200)


@given(_COUNTS, _COUNTS, _COUNTS, st.integers(0, 7000), st.integers(0, 7000))
def test_parts_are_complete_and_there(pages: int, small: int, large: int, first: int, end: int) -> None:
    """Whatever is folded and bound, what is read is there and has every wanted message once, in few parts."""
    folded = pages * PAGE
    levels = (min(small * SMALL, folded // SMALL * SMALL), min(large * LARGE, folded // LARGE * LARGE))
    head = Head("b", version=1, count=folded, folded=folded, bound=levels, commits=(), listed="", opening="")
    end = min(end, folded)
    parts = parts_of(head, first, end)
    held = [seq for size, number in parts for seq in range(size * number, size * (number + 1))]
    assert held == (list(range(held[0], held[-1] + 1)) if held else [])
    assert set(range(first, end)) <= set(held)
    for size, number in parts:
        assert (number + 1) * size <= {PAGE: folded, SMALL: levels[0], LARGE: levels[1]}[size]
    if first < end and levels == (folded // SMALL * SMALL, folded // LARGE * LARGE):
        assert len(parts) <= (end - first) / LARGE + 2 * (2 + 8)


async def test_a_thousand_messages_at_once_are_bound_by_and_by(s3: S3Server, store: S3Adapter) -> None:
    """After one commit of 5,000 messages each later one binds a few segments, until all are; nothing of the
    transcript changes by that."""
    state, seen = await paged(store, 5000), []
    for _ in range(8):
        state = await append(store, state)
        seen.append(await bound(store))
    assert seen[0] == (BIND_AT_ONCE * SMALL, 0)
    assert seen[-1] == (4864, 4096)
    for before, after in pairwise(seen):
        assert after[0] - before[0] <= BIND_AT_ONCE * SMALL
    assert len(segments_of(s3, store)) == 4864 // SMALL + 2
    assert await texts_of(store, "r") == numbers(5000)


async def test_a_segment_holds_big_messages_too(store: S3Adapter) -> None:
    """A message that stands apart is read in its place from a segment."""
    texts = numbers(SMALL + PAGE)
    texts[100] = "b" * (APART_BYTES + 1)
    state = await append(store, await append(store, new_run("r"), *texts))
    state = await append(store, state)
    assert await bound(store) == (SMALL, 0)
    await assert_standing(store, state, *texts)


async def test_a_few_messages_are_read_from_pages(store: S3Adapter, wire: Wire) -> None:
    """Of a bound transcript some messages cost a page or two, and many of them a segment."""
    await append(store, await paged(store, 2 * SMALL + PAGE))
    for after, limit, names in (
        (99, 10, ["p00000003"]),
        (SMALL - 5, 40, ["p00000007", "p00000008", "p00000009"]),
        (99, 100, ["s0256-00000000"]),
        (-1, 300, ["p00000008", "p00000009", "s0256-00000000"]),
    ):
        wire.reset()
        found = await store.get_history("r", after, limit)
        assert [message.seq for message in found] == list(range(after + 1, after + 1 + limit))
        assert sorted(key.rpartition("/")[2] for _, key in wire.requests[1:]) == names


async def test_segments_are_read_side_by_side(store: S3Adapter, wire: Wire) -> None:
    """No request of a load waits for the answer to another one, but for the head's."""
    state = await paged(store, 4 * SMALL + PAGE)
    await append(store, await append(store, state))
    meeting = threading.Barrier(4)

    def step(_: str, key: str) -> None:
        if "/s0256-" in key:
            meeting.wait(10)

    wire.step = step
    assert len(await store.get_history("r", limit=4 * SMALL)) == 4 * SMALL
    assert not meeting.broken
    wire.reset()
    await store.get_history("r", limit=4 * SMALL)
    assert len(wire.requests) == 1 + 4


@pytest.mark.parametrize("operation", ["GetObject", "PutObject"])
async def test_binding_that_fails_is_made_up_for(
    s3: S3Server, store: S3Adapter, wire: Wire, operation: str
) -> None:
    """A commit whose segment can't be written is made; a later one writes the segment."""
    state, fired = await paged(store, SMALL + PAGE), []

    def step(asked: str, key: str) -> object:
        part = "/s0256" if operation == "PutObject" else "/p0"
        if asked == operation and part in key:
            fired.append(key)
            return wire.answer(403, "AccessDenied")
        return None

    wire.step = step
    state = await append(store, state, "on")
    assert fired
    assert (await bound(store), segments_of(s3, store)) == ((0, 0), [])
    wire.step = None
    state = await append(store, state, "on")
    assert (await bound(store), segments_of(s3, store)) == ((SMALL, 0), ["s0256-00000000"])
    await assert_standing(store, state, *numbers(SMALL + PAGE), "on", "on")


async def test_two_bind_the_same_segment(store: S3Adapter, other: S3Adapter, wire: Wire) -> None:
    """A writer that binds, and loses to one that bound the same, changes nothing."""
    state = await paged(store, SMALL + PAGE)

    def step(operation: str, key: str) -> None:
        if operation == "PutObject" and "/s0256" in key:
            wire.step = None
            asyncio.run(_append_to(other, "theirs"))

    wire.step = step
    with pytest.raises(ConflictError):
        await append(store, state, "mine")
    assert wire.step is None
    assert await bound(store) == (SMALL, 0)
    await assert_standing(store, await other.load_run("r"), *numbers(SMALL + PAGE), "theirs")


async def test_a_late_binder_revives_nothing(
    s3: S3Server, store: S3Adapter, other: S3Adapter, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment that is written after the run was deleted and created again is removed."""
    monkeypatch.setattr(s3_run, "TOMBSTONE_SECONDS", 0)
    state = await paged(store, SMALL + PAGE)

    async def meanwhile() -> None:
        await other.delete_run("r")
        await append(other, new_run("r"), "new")

    def step(operation: str, key: str) -> None:
        if operation == "PutObject" and "/s0256" in key:
            wire.step = None
            asyncio.run(meanwhile())

    wire.step = step
    with pytest.raises(ConflictError):
        await append(store, state, "late")
    assert wire.step is None
    assert segments_of(s3, store) == []
    assert await texts_of(store, "r") == ["new"]


async def test_a_deletion_takes_segments_along(s3: S3Server, store: S3Adapter) -> None:
    """Nothing of a bound run is left but its tombstone."""
    await append(store, await paged(store, SMALL + PAGE))
    assert segments_of(s3, store) == ["s0256-00000000"]
    await store.delete_run("r")
    await assert_absent(store, "r")
    assert segments_of(s3, store) == []


async def test_a_head_without_segments_goes_on(s3: S3Server, store: S3Adapter, other: S3Adapter) -> None:
    """A head of a writer that knows no segments, and one with more than is known, are read and written on."""
    state = await append(store, await paged(store, SMALL + PAGE))
    where = {"Bucket": BUCKET, "Key": f"{store._settings.prefix}runs/r/head"}
    body = s3.client().get_object(**where)["Body"].read()
    for old, new in ((b'"bound": [256, 0], ', b""), (b'"bound": [256, 0]', b'"bound": [256, 0], "novel": 1')):
        assert old in body
        s3.client().put_object(**where, Body=body.replace(old, new))
        assert await texts_of(other, "r") == numbers(SMALL + PAGE)
    state = await append(other, state, "on")
    assert await bound(store) == (SMALL, 0)
    await assert_standing(store, state, *numbers(SMALL + PAGE), "on")


async def _append_to(store: S3Adapter, text: str) -> None:
    await append(store, await store.load_run("r"), text)
