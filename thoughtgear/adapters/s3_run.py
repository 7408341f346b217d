"""Runs in the S3 store: how a commit works, and what may happen meanwhile.

    runs/<name>/head                 the state and the tail of the transcript; every commit replaces it
    runs/<name>/<born>/p…, s…        folded messages: pages of 32, segments of 256 and 2,048 (`s3_segments`)
    runs/<name>/<born>/b<id>         a big message
    index/…, open/…                  markers, by which runs are listed (`s3_index`)

A commit is one conditional PUT of the head: `If-None-Match: *` creates it, `If-Match` replaces the very
object that the writer has seen. Nothing else decides anything. Pages and big messages are never changed,
and written before the head that names them. `born` is drawn anew at each creation, so that nothing of a run
that was deleted is ever taken for the new one's. Every head names its last commits by ids drawn at random:
no two heads have equal bytes, an ETag never comes back.

Interleavings of writers A and B, a deleter D and a reader R (any of them may die between two steps):

- A and B put on top of the same head: S3 lets one. The other gets 412 (or 409, and tries again, and gets
  412).
- A's put is done and the answer lost. It is sent again, by botocore or by a proxy, and gets 412: A reads
  the head and finds its commit's id there, also under the commits of others, also in a tombstone: A has
  won. Not there: A has lost, for good, because the ETag that A's request names can't come back. A head that
  is as before (a server that keeps answering 409): A puts again.
- A's put is not answered at all: `StoreUnavailableError`. It may still be done, later than that, but only
  as long as nobody else commits: who commits again on the same head meets it, or shuts it out.
- Page k may be written once a head with all of its messages is committed: from then on it has only one
  possible content, those messages, within this `born`. A and B both write it: the same bytes; the second
  one gets 412. A dies after the page: it stays, and the next writer finds it. The head drops the messages
  in a commit that follows the page, so they are in the head, or in the page, or (for a while) in both.
- Segments are written from what a committed head names, as pages are: A and B may both bind one, A may die
  after it, and it counts once a head says so.
- R reads a head, and the pages and segments that it names: they are there, and don't change. One that isn't:
  D was here. R reads the head again.
- A big message is written before its commit, under a name drawn at random. The commit loses: A removes it.
  A dies before that: it stays, named by nobody, until the run is deleted.
- D puts the tombstone in the place of the head, conditionally: from here on the run is gone, and every
  other put on the head that it replaced fails. Then D removes what stands under `born`. D dies: the next
  deletion goes on from the tombstone, which keeps the names, also when it has expired.
- A writes a page or a segment after D has removed them all: A's put of the head then fails, and A removes it.
- D finds a head that can't be read: its tombstone names no `born`, and D removes whatever it lists below the
  run while the tombstone stands. What is listed then was not written for a run that came after it.
- C creates over an expired tombstone: by its ETag, so only one of many does. A late D that has seen the old
  run removes what stands under the old `born`, and nothing of the new run's.
- Markers are written before the head that names them, and removed after the one that doesn't, or after the
  tombstone. Their names are drawn anew, so that nobody removes another's. Dying between leaves one too
  many: the list reads the head, which names another, and passes it over.
- A process is killed, or a caller cancelled, between two requests: all of the above, by the order of the
  steps. A request that was sent is awaited.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeGuard
from uuid import uuid4

from thoughtgear.adapters.records import TOMBSTONE_SECONDS, wrong_count
from thoughtgear.adapters.s3_bucket import Bucket, together
from thoughtgear.adapters.s3_head import (
    APART_BYTES,
    COMMITS,
    PAGE,
    DamagedHeadError,
    Head,
    HeadCache,
    decode_head,
    object_name,
    reference,
    referred,
)
from thoughtgear.adapters.s3_segments import Segments, part_key
from thoughtgear.errors import ConflictError, StoreError, StoreUnavailableError

TRIES = 5
"""How often a commit is put on a head that does not change."""

DELETE_TRIES = 100


@dataclass(frozen=True)
class Commit:
    """What a commit makes on top of version `base`: a version with its state and the lines from seq `first`
    on; where the run stands in the lists; whether it has ended."""

    run_id: str
    version: int
    base: int
    first: int
    state: bytes
    lines: Sequence[bytes]
    listed: str
    over: bool


class Runs:
    """The runs of a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._segments = Segments(bucket)
        self._cache = HeadCache()

    async def head(self, run_id: str) -> Head | None:
        """Return the newest head; None for an absent or a deleted run."""
        found = await self._read(object_name(run_id))
        return found if _alive(found) else None

    async def peek(self, name: str) -> Head | None:
        """Return the head of that name, and leave the cache to the runs that are worked on."""
        found = await self._fetch(name)
        return found if _alive(found) else None

    async def commit(self, commit: Commit) -> None:
        """Put the next head. Raises `ConflictError` and `StoreError`."""
        name, commit_id = object_name(commit.run_id), uuid4().hex
        head = await self._predecessor(name, commit)
        _check(head, commit)
        for _ in range(TRIES):
            draft = _draft(head, commit, commit_id)
            await self._write_around(name, head, draft, commit)
            if _alive(head):
                draft = replace(draft, bound=await self._segments.bind(_below(name, head.born), head))
            newest = await self._replace(name, head, draft)
            if newest is not None and commit_id in newest.commits:
                await self._close(head, draft)
                return
            try:
                _check(newest, commit)
            except StoreError:
                await self._clean_up(name, head, draft, newest)
                raise
            head = newest
        raise StoreUnavailableError("The server refuses a commit and does not say for which other one.")

    async def _predecessor(self, name: str, commit: Commit) -> Head | None:
        known = self._cache.get(name)
        if _alive(known) and (known.version, known.count) == (commit.base, commit.first):
            return known
        # A creation expects nothing: if there is something, the put will fail and tell.
        return await self._read(name) if commit.base else None

    async def _replace(self, name: str, head: Head | None, draft: Head) -> Head | None:
        """Put the draft in the place of the head, and return what stands there now."""
        etag = await self._bucket.put(_head_key(name), draft.encode(), head.etag if head else None)
        if etag is None:
            return await self._read(name)
        done = replace(draft, etag=etag)
        self._cache.put(name, done)
        return done

    async def _write_around(self, name: str, head: Head | None, draft: Head, commit: Commit) -> None:
        """Write the pages, big messages and markers that the draft relies on and the head does not."""
        below = _below(name, draft.born)
        objects = {_marker: b"" for _marker in _markers(draft) if _marker not in _markers(head)}
        if _alive(head):
            pages = head.full_pages()
            objects |= {below + part_key((PAGE, number)): b"\n".join(lines) for number, lines in pages}
        written = draft.tail[len(draft.tail) - len(commit.lines) :]
        for line, stands in zip(commit.lines, written, strict=True):
            if (apart := referred(stands)) is not None:
                objects[below + apart] = line
        # What is there already has these very bytes.
        await together(self._bucket.put(key, body, None) for key, body in objects.items())

    async def _close(self, head: Head | None, draft: Head) -> None:
        """Remove the marker of a run that has just ended. One that stays costs the list a look."""
        if _alive(head) and head.opening and not draft.opening:
            with suppress(StoreError):
                await self._bucket.delete([_open_marker(head)])

    async def _clean_up(self, name: str, head: Head | None, draft: Head, newest: Head | None) -> None:
        """Remove what a commit that has lost wrote, as far as nobody else may name it."""
        below, old = _below(name, draft.born), head.tail if head else ()
        apart = [referred(line) for line in draft.tail if line not in old]
        keys = [below + each for each in apart if each is not None]
        keys += [key for key in _markers(draft) if key not in (*_markers(head), *_markers(newest))]
        with suppress(StoreError):
            await self._bucket.delete(keys)
            if _alive(head) and not (_alive(newest) and newest.born == draft.born):
                await self._bucket.delete_below(below)

    async def history(self, run_id: str, after: int, limit: int | None) -> list[bytes]:
        """Return the messages above `after`: the head is read, then what holds them, all at once."""
        name = object_name(run_id)
        head = await self._read(name)
        while _alive(head) and limit != 0:
            end = head.count if limit is None else min(head.count, after + 1 + limit)
            found = await self._segments.lines(_below(name, head.born), head, after + 1, end)
            if found is not None:
                return found
            before, head = head, await self._read(name)
            if _alive(head) and head.born == before.born:
                raise StoreError("A page or a message of a run is missing in the bucket, or damaged.")
        return []

    async def delete(self, run_id: str) -> bool:
        """Bury a run and remove all that belongs to it. Return False where there was none."""
        name = object_name(run_id)
        tombstone = await self._bury(name)
        if tombstone is None:
            return False
        if not tombstone.born:
            await self._sweep(name, tombstone)
            return True
        await self._bucket.delete_below(_below(name, tombstone.born))
        await self._bucket.delete([_index_marker(tombstone), _open_marker(tombstone)])
        return True

    async def _sweep(self, name: str, tombstone: Head) -> None:
        """Remove what a damaged head did not name. Not what is found when the tombstone is expired: that may
        be a new run's."""
        for folder in (f"runs/{name}/", "index/", "open/"):
            after = ""
            while found := await self._bucket.list(folder, after):
                if _expired(tombstone):
                    return
                keys = [each.key for each in found]
                await self._bucket.delete([key for key in keys if _belongs(key, name)])
                after = keys[-1]

    async def _bury(self, name: str) -> Head | None:
        """Return the tombstone that stands, from now on or already. None: there is no run to bury."""
        for _ in range(DELETE_TRIES):
            head = await self._standing(name)
            # An expired one stands, too: the deletion that made it may have died before it was complete.
            if head is None or head.deleted_until is not None:
                return head
            tombstone = head.buried(int(time.time()) + TOMBSTONE_SECONDS)
            # An answer that was lost shows itself when the head is read again.
            if await self._bucket.put(_head_key(name), tombstone.encode(), head.etag) is not None:
                return tombstone
        raise StoreUnavailableError("The run changes faster than it can be deleted.")

    async def _standing(self, name: str) -> Head | None:
        """Return the head, readable or not."""
        try:
            return await self._read(name)
        except DamagedHeadError:
            stored = await self._bucket.get(_head_key(name))
            return Head.unread(stored.etag) if stored else None

    async def _read(self, name: str) -> Head | None:
        head = await self._fetch(name)
        self._cache.put(name, head)
        return head

    async def _fetch(self, name: str) -> Head | None:
        known = self._cache.get(name)
        stored = await self._bucket.get(_head_key(name), known.etag if known else None)
        if stored is None:
            return None
        return known if known and known.etag == stored.etag else decode_head(stored)


def _alive(head: Head | None) -> TypeGuard[Head]:
    return head is not None and head.deleted_until is None


def _expired(head: Head) -> bool:
    return head.deleted_until is not None and head.deleted_until <= time.time()


def _check(head: Head | None, commit: Commit) -> None:
    """Check that the commit comes right after the head."""
    if head is not None and head.deleted_until is not None and not _expired(head):
        raise ConflictError
    version, count = (head.version, head.count) if _alive(head) else (0, 0)
    if version != commit.base:
        raise ConflictError
    if count != commit.first:
        raise wrong_count(count, commit.first)


def _draft(head: Head | None, commit: Commit, commit_id: str) -> Head:
    """Return the head that the commit makes: the tail without its full pages, and the new messages."""
    base = head if _alive(head) else Head.unborn()
    dropped = len(base.full_pages()) * PAGE
    lines = [line if len(line) <= APART_BYTES else reference(f"b{uuid4().hex}") for line in commit.lines]
    return Head(
        born=base.born,
        version=commit.version,
        count=commit.first + len(lines),
        folded=base.folded + dropped,
        commits=(commit_id, *base.commits)[:COMMITS],
        listed=commit.listed,
        opening="" if commit.over else base.opening or uuid4().hex[:16],
        state=commit.state,
        tail=(*base.tail[dropped:], *lines),
    )


def _head_key(name: str) -> str:
    return f"runs/{name}/head"


def _below(name: str, born: str) -> str:
    return f"runs/{name}/{born}/"


def _belongs(key: str, name: str) -> bool:
    """Whether it is an object of that run, or a marker of it, and not the head."""
    return key != _head_key(name) and (key.startswith(f"runs/{name}/") or f"-{name}+" in key)


def _markers(head: Head | None) -> list[str]:
    if not _alive(head):
        return []
    return [_index_marker(head), _open_marker(head)] if head.opening else [_index_marker(head)]


def _index_marker(head: Head) -> str:
    return f"index/{head.listed}+{head.born}"


def _open_marker(head: Head) -> str:
    return f"open/{head.listed}+{head.opening}"
