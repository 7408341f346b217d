"""One run: copied in pages, made what it is by the last of them, and compared.

Until then the target has it as a failed run, which nothing drives, with the error `CopyUnfinishedError`. A
run that is not done says in `copied` which version of it the copy wrote. As long as that is its version,
nobody has gone on with it in the target: an unfinished copy goes on from there, and so does one of a run that
has gone on in the source. Anything else is somebody else's, and is left as it is.

The copy ends at the version of its original, because a driver that was told a version takes a store that
answers with a lower one for a store that has lost commits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import pairwise

from thoughtgear.batches import find_run
from thoughtgear.errors import ConflictError, CopyConflictError, StoreError
from thoughtgear.models import UNFINISHED_COPY, Claim, Message, RunError, RunState
from thoughtgear.protocols import OrmAdapter
from thoughtgear.transfer.reading import reading_run
from thoughtgear.transfer.report import Count

PAGE = 128
"""Messages in one commit of a copy; as many are in memory."""

UNFINISHED = RunError(
    type=UNFINISHED_COPY,
    message="This run is being copied into this store; the same copy again ends it.",
)

_OF_A_PROMPT = ("created_at", "handler", "session_id", "user_id", "prompt_sha256")


class RunCopier:
    """Copies runs from one store to another."""

    def __init__(self, source: OrmAdapter, target: OrmAdapter, copied: Count) -> None:
        self._source, self._target, self._copied = source, target, copied
        self._brought: dict[str, list[int]] = {}

    async def bring(self, state: RunState) -> bool:
        """Make the run in the target what it is in the source. Returns whether that took anything.

        Raises `CopyConflictError` where the target has another run of this id, or has gone on with its own
        copy, or has deleted it within the last day; `RunNotFoundError` where the source deletes it meanwhile.
        To be called again after a fault.
        """
        there = await self.there(state.run_id)
        if there is not None and same(there, state) and there.copied in (None, there.version):
            return False
        if state.unfinished_copy:
            raise _conflict(
                state.run_id, "the source has an unfinished copy of it, which has to be ended first"
            )
        if there is not None and not _continues(there, state):
            raise _conflict(state.run_id, "the target has another run of this id, or went on with its copy")
        await self._write(state, there)
        return True

    async def equal(self, state: RunState) -> bool:
        """Whether the target has this run, with the same state and the same messages."""
        there = await self.there(state.run_id)
        if there is None or not same(there, state):
            return False
        for after in range(-1, state.message_count - 1, PAGE):
            with reading_run(state.run_id, "source"):
                ours = await self._source.get_history(state.run_id, after, PAGE)
            with reading_run(state.run_id, "target"):
                theirs = await self._target.get_history(state.run_id, after, PAGE)
            if [each.model_dump_json() for each in ours] != [each.model_dump_json() for each in theirs]:
                return False
        return True

    async def newest(self, run_id: str) -> RunState | None:
        """Return the run as the source has it now, or None. Raises `CopyConflictError` for a damaged one."""
        with reading_run(run_id, "source"):
            return await find_run(self._source, run_id)

    async def there(self, run_id: str) -> RunState | None:
        """Return the run as the target has it, or None. Raises `CopyConflictError` for a damaged one."""
        with reading_run(run_id, "target"):
            return await find_run(self._target, run_id)

    async def _write(self, state: RunState, there: RunState | None) -> None:
        count, base = (there.message_count, there.version) if there else (0, 0)
        for version, size in _commits(state, count, base):
            messages = await self._read(state, count, size)
            files = _files_of(state.run_id, messages)
            if files and not base and version > 1:
                # A target that refuses the run is asked before it gets any of the files.
                await self._commit(_unfinished(state, version - 1, 0), [], 0)
                base = version - 1
            await self._bring_files(state.run_id, files)
            count += len(messages)
            last = version == state.version
            draft = _finished(state) if last else _unfinished(state, version, count)
            await self._commit(draft, messages, base)
            base = version
            self._count(state.run_id, messages)
        self._copied.runs += 1

    def _count(self, run_id: str, messages: Sequence[Message]) -> None:
        sizes = self._brought.pop(run_id, [])
        self._copied.messages += len(messages)
        self._copied.documents += len(sizes)
        self._copied.document_bytes += sum(sizes)

    async def _read(self, state: RunState, first: int, size: int) -> list[Message]:
        if not size:
            return []
        with reading_run(state.run_id, "source"):
            messages = await self._source.get_history(state.run_id, first - 1, size)
        if len(messages) < size:
            await self._source.load_run(state.run_id)  # it was deleted meanwhile
            raise StoreError(f"Messages of run {state.run_id} are missing in the source.")
        return messages

    async def _commit(self, draft: RunState, messages: Sequence[Message], base: int) -> None:
        try:
            await self._target.save_run(draft, messages, expected=base)
        except ConflictError:
            if base or await find_run(self._target, draft.run_id):
                raise
            # What a run of one commit had to bring before it was refused goes as its tombstone's.
            await self._target.delete_run(draft.run_id)
            self._brought.pop(draft.run_id, None)
            raise _conflict(draft.run_id, "the target deleted a run of this id within the last day") from None

    async def _bring_files(self, run_id: str, keys: Iterable[str]) -> None:
        """Copy these files, before the run speaks of them. One is in memory at a time."""
        for key in keys:
            with reading_run(run_id, "source"):
                document = await self._source.get_document("files", key)
            if document is not None:
                with suppress(ConflictError):
                    await self._target.put_document("files", key, document.value, tag=None)
                    self._brought.setdefault(run_id, []).append(len(document.value))

    async def remove_unfinished(self, run_id: str) -> None:
        """Delete what was copied of a run that was deleted in the source before its copy was whole."""
        there = await find_run(self._target, run_id)
        if there is not None and there.unfinished_copy:
            await self._target.delete_run(run_id)


def _files_of(run_id: str, messages: Sequence[Message]) -> set[str]:
    return {f"{run_id}/{file.sha256}" for message in messages for file in message.attachments}


def same(one: RunState, other: RunState) -> bool:
    """Whether two states are equal but for what a copy notes of itself."""
    texts = {state.model_dump_json(exclude={"copied"}) for state in (one, other)}
    return len(texts) == 1


def _continues(there: RunState, state: RunState) -> bool:
    """Whether the target's run is what a copy left there of this one, and the source has gone on."""
    untouched = there.copied == there.version < state.version and there.message_count <= state.message_count
    return untouched and all(getattr(there, name) == getattr(state, name) for name in _OF_A_PROMPT)


def _commits(state: RunState, count: int, base: int) -> list[tuple[int, int]]:
    """Return version and number of messages of each commit that is left: at least one, the last of the
    run's own version."""
    left = state.message_count - count
    commits = max(1, min(-(-left // PAGE), state.version - base))
    ends = [left * number // commits for number in range(commits + 1)]
    sizes = [end - start for start, end in pairwise(ends)]
    return list(zip(range(state.version - commits + 1, state.version + 1), sizes, strict=True))


def _finished(state: RunState) -> RunState:
    """A run that failed or was cancelled may be retried, and then goes on, here or in the source."""
    return state.model_copy(update={"copied": None if state.status == "done" else state.version})


def _unfinished(state: RunState, version: int, count: int) -> RunState:
    """What the target has until the copy is whole: a run that is over, so that nothing drives it."""
    return state.model_copy(
        update={
            "version": version,
            "copied": version,
            "message_count": count,
            "status": "failed",
            "error": UNFINISHED,
            "output": None,
            "ledger": [],
            "inbox": [],
            "claim": Claim(epoch=state.claim.epoch),
        }
    )


def _conflict(run_id: str, why: str) -> CopyConflictError:
    return CopyConflictError(refused={run_id: f"Run {run_id} was not copied: {why}."})
