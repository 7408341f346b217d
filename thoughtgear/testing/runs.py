"""What a store does with runs: commits, transcripts, lists and deletion."""

from __future__ import annotations

from typing import Any

import pytest

from thoughtgear.errors import (
    ConflictError,
    InvalidInputError,
    NewerFormatError,
    RunNotFoundError,
    StoreError,
)
from thoughtgear.models import CallRecord, Claim, InboxItem, Message, RunState, ToolCall, ToolResult, Usage
from thoughtgear.protocols import OrmAdapter
from thoughtgear.testing.case import (
    StoreCase,
    append,
    assert_absent,
    assert_standing,
    follow_up,
    new_run,
)


class RunClauses(StoreCase):
    """Commits and transcripts."""

    async def test_an_absent_run_is_not_found(self, store: OrmAdapter) -> None:
        """Loading a run that was never created raises RunNotFoundError."""
        with pytest.raises(RunNotFoundError):
            await store.load_run("absent")
        assert await store.get_history("absent") == []

    async def test_a_created_run_is_loaded_as_it_was(self, store: OrmAdapter) -> None:
        """Every field of a state comes back, nested records and time stamps included."""
        call = ToolCall(id="1.0", name="add", arguments={"a": [1, 2.5, None, "é"]})
        state = new_run(
            metadata={"team": "blue", "nested": {"n": 1}},
            ledger=[CallRecord(call=call, status="started", policy="at_most_once")],
            inbox=[InboxItem(request_id="q", text="hello")],
            claim=Claim(epoch=3, owner="me", deadline=1.5),
            usage=Usage(input_tokens=5),
            output="a\nb",
        )
        await assert_standing(store, await append(store, state, "first"), "first")

    async def test_messages_come_back_as_they_were(self, store: OrmAdapter) -> None:
        """A message keeps its calls, results, usage and time."""
        calls = [ToolCall(id="1.0", name="f", arguments="not json")]
        result = ToolResult(call_id="1.0", name="f", status="unknown", content="?")
        said = [
            Message(seq=0, role="assistant", tool_calls=calls, usage=Usage(output_tokens=1), model="m"),
            Message(seq=1, role="tool", tool_result=result, iteration=1),
        ]
        state = new_run("r", version=1, message_count=2)
        await store.save_run(state, said)
        assert await store.get_history("r") == said

    async def test_a_commit_may_have_no_or_many_messages(self, store: OrmAdapter) -> None:
        """A commit appends what it has, in order, also nothing."""
        state = await append(store, new_run(), "a", "b", "c")
        state = await append(store, state)
        state = await append(store, state, "d", "e")
        await assert_standing(store, state, "a", "b", "c", "d", "e")

    async def test_a_stale_writer_writes_nothing(self, store: OrmAdapter) -> None:
        """A commit on top of an older version is a conflict, whatever it brings."""
        old = await append(store, new_run(), "a")
        state = await append(store, old, "b")
        for texts in ([], ["x"], ["x", "y"]):
            with pytest.raises(ConflictError):
                await append(store, old, *texts)
        await assert_standing(store, state, "a", "b")

    async def test_a_version_can_not_be_skipped(self, store: OrmAdapter) -> None:
        """A commit that leaves a version out is a conflict."""
        state = await append(store, new_run(), "a")
        ahead, messages = follow_up(state.model_copy(update={"version": 2}), "b")
        with pytest.raises(ConflictError):
            await store.save_run(ahead, messages)
        await assert_standing(store, state, "a")

    async def test_a_run_is_created_once(self, store: OrmAdapter) -> None:
        """A second creation is a conflict and leaves the first one as it is."""
        state = await append(store, new_run("once"), "a")
        with pytest.raises(ConflictError):
            await append(store, new_run("once"), "b")
        await assert_standing(store, state, "a")

    async def test_an_absent_run_can_not_be_updated(self, store: OrmAdapter) -> None:
        """A commit of version 2 to a run that is not there is a conflict and creates nothing."""
        with pytest.raises(ConflictError):
            await append(store, new_run("absent", version=1), "a")
        await assert_absent(store, "absent")

    @pytest.mark.parametrize(
        ("seqs", "count"),
        [([2], 3), ([0], 1), ([0, 1], 2), ([1, 3], 4), ([2, 1], 3), ([1, 1], 3), ([], 2), ([1], 5)],
    )
    async def test_seqs_have_no_gap_and_no_overlap(
        self, store: OrmAdapter, seqs: list[int], count: int
    ) -> None:
        """Messages that do not continue the transcript are a StoreError that is no conflict."""
        state = await append(store, new_run(), "a")
        wrong = state.model_copy(update={"version": 2, "message_count": count})
        with pytest.raises(StoreError) as caught:
            await store.save_run(wrong, [Message(seq=seq, role="user") for seq in seqs])
        assert not isinstance(caught.value, ConflictError)
        await assert_standing(store, state, "a")

    async def test_a_transcript_begins_at_zero(self, store: OrmAdapter) -> None:
        """A creation whose first message is not seq 0 is refused and creates nothing."""
        with pytest.raises(StoreError):
            await append(store, new_run("late", message_count=3), "a")
        await assert_absent(store, "late")

    async def test_history_is_read_in_pages(self, store: OrmAdapter) -> None:
        """`after` and `limit` cut the transcript exactly, wherever they fall."""
        state = await append(store, new_run(), *"abc")
        state = await append(store, state, *"defg")
        for after in range(-1, 8):
            for limit in (None, 0, 1, 3, 100):
                page = await store.get_history(state.run_id, after, limit)
                assert "".join(message.text for message in page) == "abcdefg"[after + 1 :][:limit]

    async def test_a_long_transcript_stays_in_order(self, store: OrmAdapter) -> None:
        """After 200 commits every message is there once, and each page begins where it should."""
        state = new_run()
        for number in range(200):
            state = await append(store, state, *([f"{number}"] * (number % 3)))
        expected = [f"{number}" for number in range(200) for _ in range(number % 3)]
        await assert_standing(store, state, *expected)
        for after in (0, 60, 63, 64, 126, 190, 198):
            page = await store.get_history(state.run_id, after, 7)
            assert [message.text for message in page] == expected[after + 1 : after + 8]

    async def test_unknown_fields_survive(self, store: OrmAdapter) -> None:
        """A field that this version does not know is loaded and saved again."""
        state = RunState.model_validate(
            {"run_id": "r", "novel": {"deep": [1]}, "version": 1, "message_count": 1}
        )
        said = Message.model_validate({"seq": 0, "role": "user", "mood": "fine"})
        await store.save_run(state, [said])
        await append(store, await store.load_run("r"))
        assert (await store.load_run("r")).model_dump()["novel"] == {"deep": [1]}
        assert (await store.get_history("r"))[0].model_dump()["mood"] == "fine"

    async def test_a_newer_format_is_refused(self, store: OrmAdapter) -> None:
        """A record of a newer format raises a retryable NewerFormatError, loaded or listed."""
        await append(store, new_run("new", format=99, status="done"), "a")
        with pytest.raises(NewerFormatError) as caught:
            await store.load_run("new")
        assert caught.value.retryable
        with pytest.raises(NewerFormatError):
            await store.list_runs()

    async def test_what_goes_in_is_a_copy(self, store: OrmAdapter) -> None:
        """Changing a state or a message after the commit changes nothing in the store."""
        state, messages = follow_up(new_run(metadata={"tags": ["a"]}), "text")
        kept = state.model_copy(deep=True)
        await store.save_run(state, messages)
        state.metadata["tags"].append("b")
        messages[0].text = "changed"
        await assert_standing(store, kept, "text")

    async def test_what_comes_out_is_a_copy(self, store: OrmAdapter) -> None:
        """Changing what was loaded or listed changes nothing in the store."""
        state = await append(store, new_run(metadata={"tags": []}), "text")
        (await store.load_run(state.run_id)).metadata["tags"].append("x")
        (await store.list_runs()).runs[0].metadata["tags"].append("x")
        (await store.get_history(state.run_id))[0].text = "changed"
        await assert_standing(store, state, "text")

    async def test_a_big_message_is_kept(self, store: OrmAdapter) -> None:
        """A text of five megabytes comes back whole."""
        text = "0123456789abcdé\n" * 320_000
        state = await append(store, new_run(), text, "small")
        await assert_standing(store, state, text, "small")

    async def test_any_text_is_kept(self, store: OrmAdapter) -> None:
        """NUL, line ends of all sorts, quotes and characters beyond 16 bits come back."""
        texts = ["\0", "a\r\nb\u2028c\u0085", "'\"\\%_;--", "\U0001d54a🙂\ufeff", "\ud7ff\ue000", ""]
        state = await append(store, new_run(), *texts)
        await assert_standing(store, state, *texts)

    @pytest.mark.parametrize("kind", ["objects", "lists", "digits"])
    async def test_what_could_not_be_read_back_is_refused(self, store: OrmAdapter, kind: str) -> None:
        """Values that JSON parsers stop at raise InvalidInputError, in a state and in a message, and nothing
        is written; a little less is kept."""
        kept = {"value": _extreme(kind, 150)}
        state = await append(store, new_run("kept", metadata=kept), "a")
        await assert_standing(store, state, "a")
        refused = {"value": _extreme(kind, 5_000 if kind == "digits" else 200)}
        calls = [ToolCall(id="1.0", name="f", arguments=refused)]
        with pytest.raises(InvalidInputError):
            await append(store, new_run("state", metadata=refused), "a")
        with pytest.raises(InvalidInputError):
            await append(store, state.model_copy(update={"ledger": [CallRecord(call=calls[0])]}))
        with pytest.raises(InvalidInputError):
            await store.save_run(
                new_run("message", version=1, message_count=1),
                [Message(seq=0, role="assistant", tool_calls=calls)],
            )
        for run_id in ("state", "message"):
            await assert_absent(store, run_id)
        await assert_standing(store, state, "a")

    async def test_a_part_of_a_transcript_is_named_by_numbers(self, store: OrmAdapter) -> None:
        """A seq or a limit of another type raises InvalidInputError, also of an absent run; numbers that no
        transcript reaches are no error."""
        odd: Any = store
        await append(store, new_run("r"), "a", "b")
        for run_id in ("r", "absent"):
            for wrong in ("0", None, 1.5, b"0", [0], {"$gt": 0}, True):
                with pytest.raises(InvalidInputError):
                    await odd.get_history(run_id, after=wrong)
            for wrong in ("1", 1.5, [1], False):
                with pytest.raises(InvalidInputError):
                    await odd.get_history(run_id, limit=wrong)
        assert len(await store.get_history("r", after=-(2**70), limit=2**70)) == 2
        assert await store.get_history("r", after=2**70) == []
        assert await store.get_history("r", limit=-(2**70)) == []

    @pytest.mark.parametrize("expected", ["0", 0.0, b"0", True], ids=repr)
    async def test_an_expected_version_is_a_number(self, store: OrmAdapter, expected: Any) -> None:
        """An expected version of another type raises InvalidInputError, and nothing is written."""
        with pytest.raises(InvalidInputError):
            await store.save_run(new_run("r", version=1, message_count=0), [], expected=expected)
        await assert_absent(store, "r")

    async def test_text_that_is_not_unicode_is_refused(self, store: OrmAdapter) -> None:
        """A lone surrogate raises InvalidInputError and nothing is written."""
        with pytest.raises(InvalidInputError):
            await append(store, new_run("r"), "\ud800")
        await assert_absent(store, "r")

    @pytest.mark.parametrize("other", ["Run", "run.", "run-", "run_", "ru", "r%n", "r" * 128])
    async def test_run_ids_do_not_run_together(self, store: OrmAdapter, other: str) -> None:
        """Ids that differ in a capital, a dot or a wildcard are different runs."""
        one, two = await append(store, new_run("run"), "a"), await append(store, new_run(other), "b")
        await store.delete_run("absent")
        await assert_standing(store, one, "a")
        await assert_standing(store, two, "b")
        await store.delete_run("run")
        await assert_standing(store, two, "b")

    async def test_a_deleted_run_is_gone(self, store: OrmAdapter) -> None:
        """Deletion takes the state, the messages and the place in the list."""
        kept = await append(store, new_run("kept"), "a")
        await append(store, new_run("gone"), "b")
        await store.delete_run("gone")
        await assert_absent(store, "gone")
        await assert_standing(store, kept, "a")

    async def test_a_deleted_run_takes_its_files_along(self, store: OrmAdapter) -> None:
        """Documents in `files` under the run's id go with it; all others stay."""
        await append(store, new_run("run-1"), "a")
        kept = ["run-1", "run-10/x", "run-0/x", "run-1.x/y"]
        for key in ["run-1/a", "run-1/b/c", *kept]:
            await store.put_document("files", key, b"x", tag=None)
        await store.put_document("cache", "run-1/a", b"x", tag=None)
        await store.delete_run("run-1")
        assert await store.list_documents("files") == sorted(kept)
        assert await store.list_documents("cache") == ["run-1/a"]

    async def test_a_tombstone_keeps_late_writers_out(self, store: OrmAdapter) -> None:
        """Neither the next version nor a new creation brings a deleted run back."""
        state = await append(store, new_run("gone"), "a")
        await store.delete_run("gone")
        for late in (state, new_run("gone")):
            with pytest.raises(ConflictError):
                await append(store, late, "b")
        await assert_absent(store, "gone")

    async def test_deleting_again_completes_a_deletion(self, store: OrmAdapter) -> None:
        """A file of a deleted run, which a deletion that died or a late writer left, goes when the run is
        deleted again; other files stay, and the tombstone keeps writers out."""
        state = await append(store, new_run("gone"), "a")
        await store.delete_run("gone")
        for key in ("gone/x", "gone-not/x"):
            await store.put_document("files", key, b"x", tag=None)
        await store.delete_run("gone")
        assert await store.list_documents("files") == ["gone-not/x"]
        for late in (state, new_run("gone")):
            with pytest.raises(ConflictError):
                await append(store, late, "late")

    async def test_deleting_again_does_nothing(self, store: OrmAdapter) -> None:
        """Deleting an absent run leaves no tombstone, deleting one twice no trace."""
        await store.delete_run("fresh")
        state = await append(store, new_run("fresh"), "a")
        await assert_standing(store, state, "a")
        await store.delete_run("fresh")
        await store.delete_run("fresh")
        await assert_absent(store, "fresh")


def _extreme(kind: str, size: int) -> Any:
    if kind == "digits":
        return 10**size
    value: Any = 1
    for _ in range(size):
        value = {"a": value} if kind == "objects" else [value]
    return value
