"""Documents: one collection copied, and compared.

What the target has under the same key and with another value is the source's older value, or its own: nobody
can tell. So it is left as it is, unless this copy wrote it or the caller says that nobody else has. Of the
heads of sessions one can tell: a newer one goes on from the last run of an older one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

from thoughtgear.batches import key_pages
from thoughtgear.errors import CopyConflictError, InvalidInputError
from thoughtgear.ids import check_run_id
from thoughtgear.live import LIVE
from thoughtgear.protocols import Collection, Document, OrmAdapter
from thoughtgear.sessions import HEADS, recent_runs
from thoughtgear.summaries import is_summary
from thoughtgear.transfer.reading import reading_document
from thoughtgear.transfer.report import Count

GONE = -1
"""In place of a size: there is nothing to compare any more."""


class DocumentCopier:
    """Copies the documents of one collection from one store to another."""

    def __init__(
        self, source: OrmAdapter, target: OrmAdapter, collection: Collection, copied: Count, replace: bool
    ) -> None:
        self._source, self._target, self.collection = source, target, collection
        self._copied, self._replace = copied, replace
        self._written: dict[str, str | None] = {}

    async def keys(self) -> AsyncIterator[str]:
        """Yield the keys of the source, less the text of replies under way, which is gone with its reply, and
        summaries: the target may have deleted what they tell of, or have its own, and buys what it lacks."""
        async for page in key_pages(self._source, self.collection):
            for key in page:
                if not _stays_behind(self.collection, key):
                    yield key

    async def lacking(self) -> AsyncIterator[str]:
        """Yield the keys that may need to be copied. A file is named by its content: one that is there is
        the same."""
        if self.collection != "files":
            async for key in self.keys():
                yield key
            return
        after = ""
        async for page in key_pages(self._source, self.collection):
            there = await self._there(after, page[-1])
            for key in page:
                if key not in there and not _stays_behind(self.collection, key):
                    yield key
            after = page[-1]

    async def _there(self, after: str, last: str) -> set[str]:
        """Return the keys of the target above `after`, up to `last`."""
        found: set[str] = set()
        async for page in key_pages(self._target, self.collection, after=after):
            found.update(key for key in page if key <= last)
            if page[-1] >= last:
                break
        return found

    async def bring(self, key: str) -> bool:
        """Give the target the document as the source has it. Returns whether that took anything. Raises
        `CopyConflictError`. To be called again after a fault."""
        ours = await self._read(self._source, "source", key)
        theirs = await self._read(self._target, "target", key)
        if ours is None or (theirs is not None and theirs.value == ours.value):
            return False
        if theirs is not None and not self._may_replace(ours, theirs):
            name = f"{self.collection}/{key}"
            raise CopyConflictError(refused={name: f"The document {name} has another value in the target."})
        tag = await self._target.put_document(
            self.collection, key, ours.value, tag=theirs.tag if theirs else None
        )
        if self.collection != "files":
            self._written[key] = tag
        self._copied.documents += 1
        self._copied.document_bytes += len(ours.value)
        return True

    async def equal(self, key: str) -> int | None:
        """Return the size of the document where both stores have the same one, `GONE` where the source has it
        no longer; else None."""
        ours = await self._read(self._source, "source", key)
        if ours is None:
            return GONE
        theirs = await self._read(self._target, "target", key)
        return len(ours.value) if theirs is not None and theirs.value == ours.value else None

    async def _read(self, store: OrmAdapter, which: str, key: str) -> Document | None:
        with reading_document(f"{self.collection}/{key}", which):
            return await store.get_document(self.collection, key)

    def _may_replace(self, ours: Document, theirs: Document) -> bool:
        written = theirs.key in self._written and self._written[theirs.key] == theirs.tag
        head = self.collection == "memory" and theirs.key.startswith(HEADS)
        return written or self._replace or (head and _is_older(theirs, ours))


def _stays_behind(collection: Collection, key: str) -> bool:
    return key.startswith(LIVE) if collection == "cache" else collection == "files" and is_summary(key)


def owner_of(collection: Collection, key: str) -> str | None:
    """Return the id of the run that a document belongs to; None where it belongs to no run."""
    head, slash, _ = key.partition("/")
    if collection == "memory":
        run, _, head = head.partition(":")
        slash = slash if run == "run" else ""
    elif collection != "files":
        return None
    with suppress(InvalidInputError):
        return check_run_id(head) if slash else None
    return None


def _is_older(one: Document, other: Document) -> bool:
    """Whether one head of a session is an older one than the other: that goes on from the last run of it. Of
    a damaged one nobody can tell."""
    before, after = recent_runs(one), recent_runs(other)
    return before is not None and after is not None and (not before or before[-1] in after)
