"""Copying a store into another one: whole, on every store; again; while the source goes on; conflicts."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from filled import DOCUMENTS, PICTURE, RING, STORES, fill, snapshot
from hooked_store import HookedStore

from thoughtgear.deletion import delete_user
from thoughtgear.errors import (
    ConflictError,
    CopyConflictError,
    InvalidInputError,
    StoreError,
    StoreUnavailableError,
)
from thoughtgear.handler import PromptHandler
from thoughtgear.models import Attachment, Message, RunState
from thoughtgear.protocols import OrmAdapter
from thoughtgear.registry import open_store
from thoughtgear.testing import append, new_run
from thoughtgear.testing.case import texts_of
from thoughtgear.testing.copies import leap
from thoughtgear.transfer import StoreCopy
from thoughtgear.transfer.runs import PAGE

Pair = tuple[HookedStore, HookedStore]


def counting_saves(store: HookedStore) -> list[RunState]:
    """The states that are saved from now on."""
    saved: list[RunState] = []

    async def save(real: Any, state: RunState, messages: Any, **options: Any) -> None:
        await real(state, messages, **options)
        saved.append(state)

    store.hooks["save_run"] = save
    return saved


def failing_at(store: HookedStore, number: int, error: Exception) -> list[int]:
    """From the commit of that number on the store fails; returns the numbers of those that were tried."""
    tried: list[int] = []

    async def save(real: Any, state: RunState, messages: Any, **options: Any) -> None:
        tried.append(len(tried) + 1)
        if len(tried) >= number:
            raise error
        await real(state, messages, **options)

    store.hooks["save_run"] = save
    return tried


OTHERS = [(one, other) for one in STORES for other in STORES if (one, other) not in RING]
PAIRS = [*RING, *(pytest.param(each, marks=pytest.mark.long) for each in OTHERS)]


@pytest.mark.parametrize("pair", PAIRS, indirect=True, ids=["-".join(each) for each in (*RING, *OTHERS)])
async def test_all_of_a_store_is_copied(pair: Pair):
    """States with versions and claims, transcripts, files, memory and unknown fields: all of it is in the
    target, and the report counts it."""
    source, target = pair
    run_ids = await fill(source)
    report = await StoreCopy(source, target).run()
    assert await snapshot(target) == await snapshot(source)
    assert (report.copied.runs, report.copied.messages) == (len(run_ids), 305)
    assert (report.copied.documents, report.copied.document_bytes) == (
        len(DOCUMENTS) + 1,
        len(PICTURE) + sum(len(value) for _, _, value in DOCUMENTS),
    )
    assert report.equal == report.copied
    assert report.complete


@pytest.mark.parametrize("pair", [("sqlite", "postgresql"), ("memory", "files")], indirect=True)
async def test_a_second_copy_writes_nothing(pair: Pair):
    """What is there already is not written again, and still compared."""
    source, target = pair
    await fill(source)
    first = await StoreCopy(source, target).run()
    saved = counting_saves(target)
    second = await StoreCopy(source, target).run()
    assert (saved, second.copied.runs, second.copied.documents) == ([], 0, 0)
    assert second.equal == first.equal


@pytest.mark.parametrize("pair", [("sqlite", "postgresql"), ("sqlite", "s3")], indirect=True)
async def test_an_interrupted_copy_goes_on(pair: Pair):
    """After a fault in the midst of a run the next copy writes the pages that are left, and no other."""
    source, target = pair
    state = await append(source, new_run("r"), *(str(number) for number in range(5 * PAGE - 1)))
    for _ in range(9):
        state = await append(source, state, "more")
    tried = failing_at(target, 3, StoreError("The disk is full."))
    with pytest.raises(StoreError, match="disk is full"):
        await StoreCopy(source, target).run()
    assert tried == [1, 2, 3]
    half = await target.load_run("r")
    saved = counting_saves(target)
    report = await StoreCopy(source, target).run()
    assert (half.status, half.error and half.error.type) == ("failed", "CopyUnfinishedError")
    assert report.copied.messages == state.message_count - half.message_count
    assert len(saved) == 4
    assert await snapshot(target) == await snapshot(source)


async def test_a_page_is_all_that_is_in_memory(pair: Pair):
    """A transcript of 2,000 messages is read and written in pages of 128."""
    source, target = pair
    state = new_run("r")
    for number in range(40):
        state = await append(source, state, *[f"{number}"] * 50)
    read: list[int | None] = []
    written: list[int] = []

    async def history(real: Any, run_id: str, after: int, limit: int | None = None) -> list[Message]:
        read.append(limit)
        found: list[Message] = await real(run_id, after, limit)
        return found

    async def save(real: Any, saved: RunState, messages: Any, **options: Any) -> None:
        written.append(len(messages))
        await real(saved, messages, **options)

    source.hooks["get_history"], target.hooks["save_run"] = history, save
    await StoreCopy(source, target).run()
    assert max(limit or 10_000 for limit in read) <= PAGE
    assert (sum(written), max(written)) == (2000, 125)


async def test_more_messages_than_versions_make_bigger_pages(pair: Pair):
    """A run of two commits and 500 messages is copied by two commits."""
    source, target = pair
    state = await append(source, new_run("r"), *["a"] * 499)
    await append(source, state, "b")
    saved = counting_saves(target)
    await StoreCopy(source, target).run()
    assert [(each.version, each.message_count) for each in saved] == [(1, 250), (2, 500)]


async def test_an_unfinished_copy_is_driven_by_nobody(pair: Pair):
    """Whoever finds a run that is half copied takes it for one that is over, and can't retry it: no reply is
    bought."""
    source, target = pair
    state = await append(source, new_run("r"), *["a"] * 200)
    await append(source, state, "b")
    failing_at(target, 2, StoreError("gone"))
    with pytest.raises(StoreError):
        await StoreCopy(source, target).run()
    async with PromptHandler(model="scripted:echo", orm=target) as handler:
        ended = await handler.continue_run("r")
        with pytest.raises(InvalidInputError, match="copy of run r into this store has not ended"):
            await handler.retry("r")
    assert (ended.status, ended.model_replies) == ("failed", 0)


@pytest.mark.parametrize("landed", [True, False], ids=["landed", "lost"])
async def test_a_passing_fault_is_tried_again(pair: Pair, landed: bool):
    """A write whose answer is lost is looked for, and repeated only where it had not landed."""
    source, target = pair
    state = await append(source, new_run("r"), *["a"] * 200)
    state = await append(source, state, "b")
    faults: list[int] = []

    async def save(real: Any, saved: RunState, messages: Any, **options: Any) -> None:
        if not landed and not faults:
            faults.append(saved.version)
            raise StoreUnavailableError
        await real(saved, messages, **options)
        if landed and len(faults) < 2:
            faults.append(saved.version)
            raise StoreUnavailableError

    target.hooks["save_run"] = save
    report = await StoreCopy(source, target).run()
    assert faults == ([1, 2] if landed else [1])
    assert report.complete
    assert await snapshot(target) == await snapshot(source)


async def test_a_run_that_goes_on_meanwhile_is_copied_again(pair: Pair):
    """What the source commits after its run was copied is in the target at the end of the same copy."""
    source, target = pair
    state = await append(source, new_run("r", status="running"), "a")
    saved: list[tuple[str, int]] = []

    async def save(real: Any, copied: RunState, messages: Any, **options: Any) -> None:
        await real(copied, messages, **options)
        saved.append((copied.run_id, copied.version))
        if len(saved) == 1:
            await append(source, await append(source, state, "b"), "c")
            await append(source, new_run("new"), "n")
            await source.put_document("memory", "k", b"1", tag=None)

    target.hooks["save_run"] = save
    report = await StoreCopy(source, target).run()
    assert sorted(saved) == [("new", 1), ("r", 1), ("r", 3)]
    assert report.complete
    assert await snapshot(target) == await snapshot(source)
    assert await texts_of(target, "new") == ["n"]


async def test_a_run_that_never_rests_is_told(pair: Pair):
    """A run that changes as often as it is copied is named in the report, and the copy is not complete."""
    source, target = pair
    await append(source, new_run("restless"), "0")
    await append(source, new_run("quiet"), "0")

    async def load(real: Any, run_id: str) -> RunState:
        if run_id == "restless":
            await append(source, await source.load_run(run_id), "more")
        state: RunState = await real(run_id)
        return state

    target.hooks["load_run"] = load
    report = await StoreCopy(source, target).run()
    assert report.changing == ["run restless"]
    assert (report.complete, report.equal.runs) == (False, 1)


async def test_a_copy_goes_on_at_the_next_call(pair: Pair):
    """A run that went on in the source since the last copy is brought up to date, also when it has ended."""
    source, target = pair
    state = await append(source, new_run("r", status="running"), "a")
    await StoreCopy(source, target).run()
    state = await leap(source, state, 700, *(str(number) for number in range(300)))
    await StoreCopy(source, target).run()
    assert (await target.load_run("r")).version == 700
    await append(source, state.model_copy(update={"status": "done"}), "end")
    await StoreCopy(source, target).run()
    assert await snapshot(target) == await snapshot(source)
    assert (await target.load_run("r")).copied is None


async def test_a_run_that_is_retried_is_copied_again(pair: Pair):
    """A run that failed before it was copied, and was retried in the source since, is brought up to date."""
    source, target = pair
    handler = PromptHandler(model="scripted:echo", orm=source)
    run = await handler.create_run("Hello")
    await handler.close_run(run.run_id, "failed")
    await StoreCopy(source, target).run()
    assert (await target.load_run(run.run_id)).status == "failed"
    await handler.retry(run.run_id)
    await StoreCopy(source, target).run()
    assert (await target.load_run(run.run_id)).output == "Hello"
    assert await snapshot(target) == await snapshot(source)


async def test_a_run_that_is_deleted_meanwhile_leaves_nothing(pair: Pair):
    """A run that the source deletes while it is copied is gone from the target, too."""
    source, target = pair
    state = await append(source, new_run("gone"), *["a"] * 300)
    for _ in range(3):
        state = await append(source, state)
    await append(source, new_run("kept"), "b")

    async def save(real: Any, copied: RunState, messages: Any, **options: Any) -> None:
        await real(copied, messages, **options)
        if copied.run_id == "gone":
            await source.delete_run("gone")

    target.hooks["save_run"] = save
    report = await StoreCopy(source, target).run()
    assert report.complete
    assert [run.run_id for run in (await target.list_runs()).runs] == ["kept"]


async def other_run(source: OrmAdapter, target: OrmAdapter) -> None:
    await append(target, new_run("r"), "another")


async def other_copy_went_on(source: OrmAdapter, target: OrmAdapter) -> None:
    await StoreCopy(source, target).run()
    await append(target, await target.load_run("r"), "there")
    await append(source, await source.load_run("r"), "here")


async def deleted_there(source: OrmAdapter, target: OrmAdapter) -> None:
    await StoreCopy(source, target).run()
    await target.delete_run("r")


async def unfinished_here(source: OrmAdapter, target: OrmAdapter) -> None:
    state = await source.load_run("r")
    error = {"type": "CopyUnfinishedError", "message": "…"}
    failed = RunState.model_validate({**state.model_dump(), "status": "failed", "error": error})
    await append(source, failed)


@pytest.mark.parametrize("stage", [other_run, other_copy_went_on, deleted_there, unfinished_here])
@pytest.mark.parametrize("pair", [("memory", "memory"), ("sqlite", "postgresql")], indirect=True)
async def test_another_run_is_left_as_it_is(pair: Pair, stage: Any):
    """Where the target has another run of the id, went on with its copy or deleted it, or the source's own is
    not whole, the error names the run, the target's stays, and all else is copied."""
    source, target = pair
    await append(source, new_run("r"), "a")
    await stage(source, target)
    before = (await snapshot(target)).get("r")
    await append(source, new_run("fine"), "b")
    with pytest.raises(CopyConflictError, match="Run r was not copied") as caught:
        await StoreCopy(source, target).run()
    assert list(caught.value.refused) == ["r"]
    after = await snapshot(target)
    assert after.get("r") == before
    assert after["fine"] == (await snapshot(source))["fine"]


async def test_other_messages_under_the_same_state_are_found(pair: Pair):
    """A target that has lost or changed a message of an equal state is told by the comparison."""
    source, target = pair
    await append(source, new_run("r"), "a")
    await StoreCopy(source, target).run()

    async def history(real: Any, *args: Any) -> list[Message]:
        found = await real(*args)
        return [message.model_copy(update={"text": "b"}) for message in found]

    target.hooks["get_history"] = history
    with pytest.raises(CopyConflictError, match="Run r has other messages"):
        await StoreCopy(source, target).run()
    unseen = await StoreCopy(source, target, compare=False).run()
    assert (unseen.complete, unseen.compared) == (None, False)


async def test_another_value_of_a_document_is_replaced_only_on_request(pair: Pair):
    """A memory that the target has otherwise is left as it is and named; `replace_documents` takes ours."""
    source, target = pair
    await source.put_document("memory", "user:ann/likes", b'"tea"', tag=None)
    await target.put_document("memory", "user:ann/likes", b'"coffee"', tag=None)
    with pytest.raises(CopyConflictError, match="memory/user:ann/likes"):
        await StoreCopy(source, target).run()
    kept = await target.get_document("memory", "user:ann/likes")
    await StoreCopy(source, target, replace_documents=True).run()
    taken = await target.get_document("memory", "user:ann/likes")
    assert (kept and kept.value, taken and taken.value) == (b'"coffee"', b'"tea"')


async def test_a_second_copy_takes_what_changed_since(pair: Pair):
    """The recipe for a move: of a memory that changed after the first copy, a second one with
    `replace_documents` brings the new value, and finds all the same; without it is a conflict."""
    source, target = pair
    tag = await source.put_document("memory", "user:ann/visits", b"1", tag=None)
    await StoreCopy(source, target).run()
    await source.put_document("memory", "user:ann/visits", b"2", tag=tag)
    with pytest.raises(CopyConflictError, match="memory/user:ann/visits"):
        await StoreCopy(source, target).run()
    assert (await StoreCopy(source, target, replace_documents=True).run()).complete
    assert await snapshot(target) == await snapshot(source)


async def test_the_head_of_a_session_goes_on(pair: Pair):
    """The head of a session that has more runs now replaces the one that was copied before, unless the
    target's own session has gone on."""
    source, target = pair
    here = PromptHandler(model="scripted:echo", orm=source)
    there = PromptHandler(model="scripted:echo", orm=target)
    await here.handle_prompt("one", session_id="s")
    await StoreCopy(source, target).run()
    await here.handle_prompt("two", session_id="s")
    await StoreCopy(source, target).run()
    assert await snapshot(target) == await snapshot(source)
    await there.handle_prompt("three, there", session_id="s")
    await here.handle_prompt("three", session_id="s")
    with pytest.raises(CopyConflictError, match="memory/session-head/"):
        await StoreCopy(source, target).run()


async def test_the_text_of_a_reply_under_way_stays_behind(pair: Pair):
    """A document that shows a growing reply is not copied: nobody would remove it."""
    source, target = pair
    await source.put_document("cache", "live/r", b"{}", tag=None)
    await StoreCopy(source, target).run()
    assert await target.list_documents("cache") == []


async def deleted_by_user(source: OrmAdapter, target: OrmAdapter) -> None:
    await StoreCopy(source, target).run()
    await delete_user(target, "ann")


async def another_there(source: OrmAdapter, target: OrmAdapter) -> None:
    await append(target, new_run("r"), "another")


@pytest.mark.parametrize("stage", [deleted_by_user, another_there])
async def test_files_and_memory_of_a_refused_run_stay_behind(pair: Pair, stage: Any):
    """What belongs to a run that the target has deleted, or has otherwise, is not brought there."""
    source, target = pair
    await append(source, new_run("r", user_id="ann", status="done"), "a")
    await source.put_document("files", "r/abc", b"private", tag=None)
    await source.put_document("memory", "run:r/k", b"1", tag=None)
    await source.put_document("memory", "user:bob/k", b"1", tag=None)
    await stage(source, target)
    with pytest.raises(CopyConflictError) as caught:
        await StoreCopy(source, target).run()
    assert list(caught.value.refused) == ["r"]
    assert await target.list_documents("files") == []
    assert await target.list_documents("memory") == ["user:bob/k"]


@pytest.mark.parametrize("commits", [1, 2])
@pytest.mark.parametrize("pair", [("memory", "memory"), ("sqlite", "files")], indirect=True)
async def test_attachments_of_a_refused_run_stay_behind(pair: Pair, commits: int):
    """Of a run that the target has deleted no attachment is brought there, also where the run has but one
    commit, in which they have to come first; none is counted."""
    source, target = pair
    data = b"private"
    sha256 = hashlib.sha256(data).hexdigest()
    file = Attachment(name="a", media_type="text/plain", size=len(data), sha256=sha256)
    await source.put_document("files", f"r/{sha256}", data, tag=None)
    await source.save_run(
        new_run("r", version=1, message_count=1), [Message(seq=0, role="user", attachments=[file])]
    )
    if commits == 2:
        await append(source, await source.load_run("r"), "more")
    await append(target, new_run("r"), "another")
    await target.delete_run("r")
    written: list[str] = []

    async def put(real: Any, collection: Any, key: str, *args: Any, **options: Any) -> Any:
        written.append(key)
        return await real(collection, key, *args, **options)

    target.hooks["put_document"] = put
    copying = StoreCopy(source, target)
    with pytest.raises(CopyConflictError, match="deleted a run of this id"):
        await copying.run()
    assert len(written) == (1 if commits == 1 else 0)
    assert await target.list_documents("files") == []
    assert copying.report.copied.documents == 0


async def test_a_document_that_the_source_lost_is_not_counted_as_equal(pair: Pair):
    """A memory that the source deletes after it was copied is in no count of the comparison."""
    source, target = pair
    tag = await source.put_document("memory", "user:ann/k", b"1", tag=None)
    read: list[str] = []

    async def get(real: Any, collection: Any, key: str) -> Any:
        read.append(key)
        if len(read) == 2:
            await source.put_document(collection, key, None, tag=tag)
        return await real(collection, key)

    source.hooks["get_document"] = get
    report = await StoreCopy(source, target).run()
    assert (len(read), report.copied.documents, report.equal.documents) == (2, 1, 0)


def damage(place: str, kind: str, text: str) -> int:
    """Put this in the place of every stored text of that kind of run `bad`; returns how many there were."""
    if place.startswith("sqlite:"):
        statement = f"UPDATE {kind} SET body = ? WHERE run_id = 'bad'"
        with closing(sqlite3.connect(place.removeprefix("sqlite:///"))) as database, database:
            return database.execute(statement, (text,)).rowcount
    needle = b'"seq"' if kind == "messages" else b'"run_id"'
    changed = 0
    for path in (Path(place.removeprefix("files://")) / "runs" / "bad").rglob("*"):
        if path.is_file() and needle in path.read_bytes():
            path.write_bytes(path.read_bytes().replace(needle, b"{broken"))
            changed += 1
    return changed


@pytest.mark.parametrize("kind", ["run_states", "messages"])
@pytest.mark.parametrize("store", ["sqlite", "files"])
async def test_a_damaged_run_is_named_and_all_else_is_copied(url_of: Any, store: str, kind: str):
    """A state or a message that the source can't read refuses its run, by id; the copy is not complete."""
    place = url_of(store, "source")
    source, target = open_store(place), open_store(url_of("sqlite", "target"))
    for run_id in ("one", "bad", "two"):
        await append(source, new_run(run_id), "a", "b")
    await source.put_document("memory", "k", b"1", tag=None)
    assert damage(place, kind, "{broken") > 0
    copying = StoreCopy(source, target)
    with pytest.raises(CopyConflictError, match="Run bad was not copied: the source can't read it"):
        await copying.run()
    assert (list(copying.report.refused), copying.report.complete) == (["bad"], False)
    assert sorted(run.run_id for run in (await target.list_runs()).runs) == ["one", "two"]
    assert (copying.report.equal.runs, copying.report.equal.documents) == (2, 1)
    await source.aclose()
    await target.aclose()


@pytest.mark.parametrize("value", [b"\xff", b"{}", b"[1]", b'{"recent": 5}', b'{"recent": null}'])
async def test_a_damaged_head_of_a_session_is_left_and_named(pair: Pair, value: bytes):
    """A session's head in the target that can't be read is a conflict like any other value."""
    source, target = pair
    await source.put_document("memory", "session-head/s", b'{"recent": ["r"]}', tag=None)
    await target.put_document("memory", "session-head/s", value, tag=None)
    with pytest.raises(CopyConflictError) as caught:
        await StoreCopy(source, target).run()
    assert list(caught.value.refused) == ["memory/session-head/s"]


async def test_a_run_that_another_copy_writes_is_named(pair: Pair):
    """Where the target refuses each commit of a run because something else was first, the run is named."""
    source, target = pair
    state = await append(source, new_run("r"), "a")
    await StoreCopy(source, target).run()
    await append(source, state, "b")
    tried = failing_at(target, 1, ConflictError())
    with pytest.raises(CopyConflictError, match="Run r was not copied: something else"):
        await StoreCopy(source, target).run()
    assert len(tried) == 5
