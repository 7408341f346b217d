"""A whole store: first copied, then compared.

Runs come before documents, so that the target never names a run that it does not have yet. What changes in
the source meanwhile is found when the two are compared, and copied again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from thoughtgear.batches import Unwatched, Watcher, all_runs, each, insist
from thoughtgear.errors import ConflictError, CopyConflictError, RunNotFoundError
from thoughtgear.models import RunState
from thoughtgear.protocols import Collection, OrmAdapter
from thoughtgear.transfer.documents import GONE, DocumentCopier, owner_of
from thoughtgear.transfer.reading import unread_run
from thoughtgear.transfer.report import CopyReport
from thoughtgear.transfer.runs import RunCopier, same

T = TypeVar("T")

COLLECTIONS: tuple[Collection, ...] = ("files", "memory", "cache")

ROUNDS = 3
"""How often a run or document that changes meanwhile is copied again."""


class StoreCopy:
    """Copies the runs and documents of a store into another one, then compares the two.

    What the target has already is not written again: after an interruption, or when the source has gone on, a
    second copy does what is left. Other runs and documents of the target stay, and so does what is deleted in
    the source after it was copied. A run that is not over is copied as it stands, claim and version included,
    and whoever drives it can go on with either; see to it that nobody goes on with both.

    `compare`: read both stores at the end, and compare what the source has, byte for byte.
    `replace_documents`: take the source's value where the target has another one under the same key. Without,
    and always with runs, what is different there is left as it is. `report` says at any time what was done.
    """

    def __init__(
        self,
        source: OrmAdapter,
        target: OrmAdapter,
        *,
        compare: bool = True,
        replace_documents: bool = False,
        watcher: Watcher | None = None,
    ) -> None:
        self.report = CopyReport()
        self._source, self._target, self._compares = source, target, compare
        self._watcher = watcher or Unwatched()
        self._runs = RunCopier(source, target, self.report.copied)
        self._documents = [
            DocumentCopier(source, target, name, self.report.copied, replace_documents)
            for name in COLLECTIONS
        ]
        self._found: dict[str, int] = {}

    async def run(self) -> CopyReport:
        """Copy, compare, and return the report. Raises `CopyConflictError` at the end where the target has
        something else under the same id, or one of the two can't read a record, and any other `StoreError` at
        once: nothing is lost by then."""
        await self._copy()
        if self._compares:
            await self._compare()
        if self.report.refused:
            raise CopyConflictError(refused=self.report.refused)
        return self.report

    async def _copy(self) -> None:
        await self._stage("copy", "runs", self._source_runs(), self._bring_run)
        for copier in self._documents:
            await self._stage(
                "copy", copier.collection, copier.lacking(), partial(self._bring_document, copier)
            )

    async def _compare(self) -> None:
        await self._stage("compare", "runs", self._source_runs(), self._compare_run)
        for copier in self._documents:
            await self._stage(
                "compare", copier.collection, copier.keys(), partial(self._compare_document, copier)
            )
        self.report.compared = True

    async def _source_runs(self) -> AsyncIterator[RunState]:
        """Yield the runs of the source; those that it can't read are refused."""
        damaged: dict[str, str] = {}
        async for state in all_runs(self._source, damaged=damaged):
            yield state
        for run_id, why in damaged.items():
            self.report.refused.setdefault(run_id, unread_run(run_id, "source", why))

    async def _stage(
        self, verb: str, what: str, items: AsyncIterator[T], work: Callable[[T], Awaitable[Any]]
    ) -> None:
        self._watcher.begin(f"{verb} {what}", self._found.get(what))
        done = 0

        async def step(item: T) -> None:
            nonlocal done
            await work(item)
            done += 1
            self._watcher.step()

        await each(items, step)
        self._found[what] = done

    @contextmanager
    def _naming(self, name: str, what: str) -> Iterator[None]:
        """Note what was left as it is, so that all else is copied."""
        try:
            yield
        except CopyConflictError as exc:
            self.report.refused.update(exc.refused)
        except ConflictError:
            self.report.refused[name] = (
                f"{what} was not copied: something else, perhaps another copy, writes it in the target; "
                "copy again when that has ended."
            )

    async def _bring_run(self, state: RunState) -> bool:
        with self._naming(state.run_id, f"Run {state.run_id}"):
            try:
                return await insist(partial(self._runs.bring, state))
            except RunNotFoundError:
                await self._runs.remove_unfinished(state.run_id)
        return False

    async def _compare_run(self, state: RunState) -> None:
        with self._naming(state.run_id, f"Run {state.run_id}"):
            await self._compare_again(state)

    async def _compare_again(self, state: RunState) -> None:
        run_id = state.run_id
        for _ in range(ROUNDS):
            if run_id in self.report.refused:
                return
            if await insist(partial(self._runs.equal, state)):
                self.report.equal.runs += 1
                self.report.equal.messages += state.message_count
                return
            newest = await self._runs.newest(run_id)
            if newest is None:
                return
            if not await self._bring_run(newest) and same(newest, state):
                self.report.refused.setdefault(run_id, f"Run {run_id} has other messages in the target.")
            state = newest
        self.report.changing.append(f"run {run_id}")

    async def _bring_document(self, copier: DocumentCopier, key: str) -> bool:
        """Returns whether the target should have it."""
        owner, name = owner_of(copier.collection, key), f"{copier.collection}/{key}"
        with self._naming(name, f"The document {name}"):
            if owner is not None and not await self._has_our(owner):
                return False
            await insist(partial(copier.bring, key))
        return True

    async def _has_our(self, run_id: str) -> bool:
        """Whether the target has this run from us: what it has deleted stays deleted, and another run of that
        id gets nothing of ours."""
        if run_id in self.report.refused:
            return False
        return await insist(partial(self._runs.there, run_id)) is not None

    async def _compare_document(self, copier: DocumentCopier, key: str) -> None:
        name = f"{copier.collection}/{key}"
        with self._naming(name, f"The document {name}"):
            await self._compare_value(copier, key, name)

    async def _compare_value(self, copier: DocumentCopier, key: str, name: str) -> None:
        for _ in range(ROUNDS):
            if name in self.report.refused:
                return
            size = await insist(partial(copier.equal, key))
            if size == GONE:
                return
            if size is not None:
                self.report.equal.documents += 1
                self.report.equal.document_bytes += size
                return
            if not await self._bring_document(copier, key):
                return
        self.report.changing.append(f"document {name}")
