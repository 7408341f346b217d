"""The S3 store on a real S3 server: the conformance suite, settings, keys, lists, costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path

import botocore.loaders
import pytest
from hypothesis import given
from hypothesis import strategies as st
from s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server
from s3_wire import Wire

from thoughtgear.adapters.s3 import S3Adapter
from thoughtgear.adapters.s3_documents import key_of, key_text, prefix_text
from thoughtgear.adapters.s3_head import APART_BYTES, object_name
from thoughtgear.adapters.s3_settings import MAX_PATH_BYTES
from thoughtgear.errors import ConfigurationError, SchemaVersionError, StoreError
from thoughtgear.models import RunState, now
from thoughtgear.protocols import OrmAdapter, RunFilter
from thoughtgear.registry import open_store
from thoughtgear.testing import (
    SharedAdapterConformance,
    SharedAdapterEndurance,
    StoreCase,
    append,
    new_run,
)
from thoughtgear.testing.case import texts_of


class OnS3(StoreCase):
    @pytest.fixture(autouse=True)
    def _address(self, s3: S3Server, tmp_path: Path) -> None:
        """Other processes read there which server it is."""
        (tmp_path / "url").write_text(s3.url(tmp_path))

    @classmethod
    async def open_store(cls, place: Path) -> OrmAdapter:
        return open_store((place / "url").read_text())


class TestS3(OnS3, SharedAdapterConformance):
    """Every clause."""


@pytest.mark.long
class TestS3Endurance(OnS3, SharedAdapterEndurance):
    """Large numbers."""

    contended_commits = 160
    kills = 100


@pytest.fixture(autouse=True, scope="module")
def _descriptions_read_once() -> Iterator[None]:
    """Each store makes a client of its own; most of that is botocore parsing its own files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.loaders, "create_loader", cache(botocore.loaders.create_loader))
        yield


@pytest.fixture
async def store(s3: S3Server, tmp_path: Path) -> AsyncIterator[S3Adapter]:
    opened = S3Adapter.from_url(s3.url(tmp_path))
    yield opened
    await opened.aclose()


@pytest.fixture
def wire(store: S3Adapter) -> Wire:
    return Wire(store)


@pytest.mark.parametrize(
    "settings",
    [
        "s3:bucket",
        "s3://",
        "s3://b",
        "s3://bucket:9000/x",
        "s3://key:secret/with/slash@bucket/x",
        "s3://key@bucket/x",
        "s3://bucket/a/../b",
        "s3://bucket/a//b",
        f"s3://bucket/{'x' * (MAX_PATH_BYTES + 1)}",
        "s3://bucket/x?endpoint=localhost:9000",
        "s3://bucket/x?endpoint=http://user:secret@host",
        "s3://bucket/x?read_timeout=0",
        "s3://bucket/x?pool_size=1.5",
        "s3://bucket/x?addressing=other",
        "s3://bucket/x?colour=secret",
        {"type": "s3", "path": "x"},
        {"type": "s3", "bucket": "bucket", "secret_access_key": "secret"},
    ],
)
async def test_a_wrong_setting_says_what_is_right(settings: str | dict[str, str]) -> None:
    """What can't work is a ConfigurationError that names the setting and repeats no secret."""
    with pytest.raises(ConfigurationError) as caught:
        open_store(settings)
    assert "secret/" not in str(caught.value)
    assert "=secret" not in str(caught.value)
    assert "user:" not in str(caught.value)


async def test_a_dict_is_as_good_as_a_url(s3: S3Server, store: S3Adapter, tmp_path: Path) -> None:
    """The settings of a dict open the same store."""
    state = await append(store, new_run("r"), "a")
    other = open_store(
        {
            "type": "s3",
            "bucket": BUCKET,
            "path": f"tests/{tmp_path.parent.name}/{tmp_path.name}/",
            "endpoint": s3.endpoint,
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
        }
    )
    assert await other.load_run("r") == state
    assert other.reach == "network"
    await other.aclose()


async def test_credentials_come_from_the_environment(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without credentials of its own a store uses those that AWS's own tools find."""
    url = s3.url(tmp_path).replace(s3.url(tmp_path).partition("//")[2].partition("@")[0] + "@", "")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    opened = open_store(url)
    await append(opened, new_run("r"), "a")
    await opened.aclose()


async def test_no_secret_is_shown(s3: S3Server, tmp_path: Path) -> None:
    """Neither the repr nor the error of a refused login has the key or the secret."""
    wrong = S3Adapter.from_url(s3.url(tmp_path).replace(ACCESS_KEY, "someone", 1))
    with pytest.raises(StoreError, match=r"403.*s3:PutObject") as caught:
        await wrong.load_run("r")
    shown = f"{wrong!r} {wrong._settings!r} {caught.value} {caught.value.__cause__}"
    assert "someone" not in shown
    assert SECRET_KEY not in shown
    await wrong.aclose()


async def test_a_missing_bucket_is_named(s3: S3Server, tmp_path: Path) -> None:
    """A bucket that is not there is a ConfigurationError that names it."""
    absent = open_store(s3.url(tmp_path).replace(f"@{BUCKET}", "@absent"))
    with pytest.raises(ConfigurationError, match="absent"):
        await absent.list_runs()
    await absent.aclose()


async def test_a_newer_layout_is_refused(s3: S3Server, store: S3Adapter) -> None:
    """A prefix that another version laid out raises SchemaVersionError, and stays as it is."""
    where = {"Bucket": BUCKET, "Key": f"{store._settings.prefix}layout"}
    s3.client().put_object(**where, Body=b"2\n")
    for _ in range(2):
        with pytest.raises(
            SchemaVersionError, match=r"layout 2, .*: upgrade the package, .*or use another path"
        ):
            await store.load_run("r")
    assert s3.client().get_object(**where)["Body"].read() == b"2\n"


async def test_everything_is_below_the_prefix(s3: S3Server, store: S3Adapter) -> None:
    """No id and no key leads out of the prefix, or to a name that S3 or a file system has not."""
    names = ["../../out", "/etc", "..", ".", "a//b", "é" * 256, "k" * 512, "%2e", "a+b"]
    before = {each["Key"] for each in _objects(s3, "")}
    for name in names:
        await append(store, new_run(name), "a")
        await store.put_document("files", name, b"x", tag=None)
    assert sorted(run.run_id for run in (await store.list_runs()).runs) == sorted(names)
    keys = {each["Key"] for each in _objects(s3, "")} - before
    assert len(keys) == 1 + 4 * len(names)
    for key in keys:
        assert key.startswith(store._settings.prefix)
        assert len(key) <= 1024
        assert all(0 < len(part) < 255 and part not in (".", "..") for part in key.split("/"))


def _objects(s3: S3Server, prefix: str) -> list[dict[str, object]]:
    pages = s3.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [each for page in pages for each in page.get("Contents", [])]


_KEYS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=400)


@given(_KEYS, _KEYS, st.integers(0, 400))
def test_the_names_of_documents_sort_as_their_keys(one: str, other: str, cut: int) -> None:
    """The text of a key keeps its order, begins as that of its prefix, and tells the key."""
    assert (key_text(one) < key_text(other)) == (one < other)
    assert key_text(one).startswith(prefix_text(one[:cut]))
    assert key_of(key_text(one)) == one


def test_the_longest_names_fit() -> None:
    """With the longest path, the longest key and the longest id stay within S3's 1,024 bytes."""
    assert MAX_PATH_BYTES + len("/documents/memory/") + len(key_text("k" * 512)) <= 1024
    assert len(object_name("é" * 256)) <= 180
    assert object_name("R") != object_name("r")


async def build(store: S3Adapter, run_id: str, count: int, text: str = "x" * 1000) -> RunState:
    """Make a run of so many messages, 50 in each commit."""
    state = new_run(run_id)
    while state.message_count < count:
        state = await append(store, state, *[text] * min(50, count - state.message_count))
    return state


async def test_a_commit_costs_what_is_new(store: S3Adapter, wire: Wire) -> None:
    """At 3,000 messages as at 10 a commit is one request, one more for 32 messages, and nine for 256, to
    bind eight pages; of about the same size."""
    costs = []
    for count in (10, 3000):
        state = await build(store, f"r{count}", count)
        for _ in range(32):
            state = await append(store, state, "x" * 1000)
        wire.reset()
        for _ in range(256):
            state = await append(store, state, "x" * 1000)
        costs.append((wire.counted, wire.sent + wire.received))
    (few, few_bytes), (many, many_bytes) = costs
    assert few == many == {"PutObject": 256 + 8 + 1, "GetObject": 8}
    assert many_bytes < 1.2 * few_bytes
    assert few_bytes < 256 * 40_000
    assert not wire.expecting


async def test_a_long_transcript_is_read_by_segments(store: S3Adapter, wire: Wire) -> None:
    """5,000 messages are read in a dozen requests, some of them in few, the head in one."""
    state = await build(store, "r", 5000, "text")
    cold = S3Adapter(store._settings)
    wire = Wire(cold)
    assert await cold.load_run("r") == state
    assert wire.counted == {"GetObject": 1}
    assert len(await cold.get_history("r")) == 5000
    parts = sorted(key.rpartition("/")[2].partition("-")[0] for _, key in wire.requests[2:])
    assert parts == ["p00000152", "p00000153", *["s0256"] * 3, *["s2048"] * 2]
    wire.reset()
    assert len(await cold.get_history("r", after=4989)) == 10
    assert wire.counted["GetObject"] <= 2
    wire.reset()
    assert len(await cold.get_history("r", after=1000, limit=64)) == 64
    assert wire.counted["GetObject"] <= 1 + 3
    await cold.aclose()


async def test_looking_at_a_run_that_stands_still_moves_no_bytes(store: S3Adapter, wire: Wire) -> None:
    """A load of a state that this process has is one request that brings nothing."""
    state = await append(store, new_run("r"), "x" * 10_000)
    wire.reset()
    for _ in range(3):
        assert await store.load_run("r") == state
    assert (wire.counted, wire.received) == ({"GetObject": 3}, 0)


async def test_big_messages_are_written_once(store: S3Adapter, wire: Wire) -> None:
    """A message over 64 KiB is not sent again by later commits, and comes back in its place."""
    big = "b" * (APART_BYTES + 1)
    state = await append(store, new_run("r"), "a", big, "c", big * 3)
    wire.reset()
    for number in range(40):
        state = await append(store, state, f"{number}")
    assert wire.sent < 10 * len(big)
    assert await texts_of(store, "r") == ["a", big, "c", big * 3, *(f"{number}" for number in range(40))]
    assert [message.text for message in await store.get_history("r", after=0, limit=2)] == [big, "c"]


async def test_a_list_reads_what_it_may_return(store: S3Adapter, wire: Wire) -> None:
    """Runs of others are not read, nor those that are over when one asks for those that go on."""
    start = now()
    for number in range(40):
        user, status = ("me", "running") if number % 10 == 0 else ("you", "done")
        created = start + timedelta(seconds=number)
        state = new_run(f"r{number}", user_id=user, status="running", created_at=created)
        state = await append(store, state, "a")
        if status == "done":
            await append(store, state.model_copy(update={"status": "done"}))
    for where in (RunFilter(user_id="me"), RunFilter(status="running")):
        wire.reset()
        found = (await store.list_runs(where)).runs
        assert [run.run_id for run in found] == ["r30", "r20", "r10", "r0"]
        assert wire.counted == {"ListObjectsV2": 2, "GetObject": 4}
    wire.reset()
    assert len((await store.list_runs(limit=5)).runs) == 5
    assert wire.counted["GetObject"] < 20


async def test_markers_too_many_change_no_list(s3: S3Server, store: S3Adapter) -> None:
    """Markers of a creation that never came, or of a former user, and what is not ours: nothing is listed."""
    state = await append(store, new_run("r", user_id="old"), "a")
    state = await append(store, state.model_copy(update={"user_id": "new"}))
    marker = next(each["Key"] for each in _objects(s3, f"{store._settings.prefix}index/"))
    foreign = (f"{store._settings.prefix}{name}" for name in ("index/x", "open/a-b", "documents/memory/!"))
    for key in (marker.replace("-r+", "-absent+"), f"{marker}x", *foreign):
        s3.client().put_object(Bucket=BUCKET, Key=key, Body=b"")
    assert (await store.list_runs()).runs == [state]
    assert (await store.list_runs(RunFilter(user_id="new"))).runs == [state]
    assert (await store.list_runs(RunFilter(user_id="old"))).runs == []
    assert (await store.list_runs(RunFilter(status="pending"))).runs == [state]
    assert await store.list_documents("memory") == []


async def test_a_run_that_goes_on_again_is_listed_so(store: S3Adapter) -> None:
    """A run that was over and is not any more is among those that go on."""
    state = await append(store, new_run("r", status="done"), "a")
    for status in ("running", "done", "running"):
        state = await append(store, state.model_copy(update={"status": status}))
        found = (await store.list_runs(RunFilter(status="running"))).runs
        assert found == ([state] if status == "running" else [])


async def test_many_runs_of_one_moment_are_walked_once(
    store: S3Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages within the same microsecond, over several listings, meet every run once, by id."""
    monkeypatch.setattr("thoughtgear.adapters.s3_bucket.LIST_KEYS", 7)
    created = now()
    ids = [f"r{number:02}" for number in range(25)]
    await asyncio.gather(*(append(store, new_run(run_id, created_at=created), "a") for run_id in ids))
    page = await store.list_runs(limit=4)
    found = [run.run_id for run in page.runs]
    while page.after:
        page = await store.list_runs(after=page.after, limit=4)
        found += [run.run_id for run in page.runs]
    assert found == ids[::-1]
