"""Runs in MongoDB: a document for the state and the newest messages, and one for each older message.

    run_states: {_id: run id, inc, commit, version, message_count, status, handler, session_id, user_id,
                 created_at, body | apart, base, tail: [{seq, body | apart}, ...], tail_bytes}
                {_id: run id, inc, expires_at}                            a tombstone
    messages:   {_id: "<run id>\\n<inc>\\n<seq, ten digits>", body | apart}

`body` is JSON text, never a tree of BSON: unknown fields, any number and any key are kept as they are.
`apart` refers to chunks (see `mongodb_chunks`), written before the commit that refers to them. `inc` is a
fresh id of each creation, `commit` one of each commit.

A commit is one update of one document, filtered by version and message count: it sets state and version, and
pushes its messages to the tail. Nothing else makes a version. When the tail is long it is flushed: its
messages are inserted into `messages` (the same by whomever; one that is there stays), then trimmed: one
update, filtered by `inc` and `base`, that raises `base` and pulls what lies below it. Always: what is below
`base` is in `messages`, acknowledged by a majority; the rest is in the tail. A flush changes no version, a
commit no base, so neither stops the other, and it does not matter which process flushes.

Interleavings of writers A and B, flushers F and G, a reader R and a deleter D (any may die on the way):

- A and B commit the same version: one document, one filter, one winner. The other has written nothing but
  chunks that nobody refers to, and removes them.
- A's commit is done and its acknowledgement lost: the driver sends it again where the server recognises the
  repetition. Where the server does not, the filter fails and A finds its own `commit`: A has won. An
  outcome that stays unknown is StoreUnavailableError.
- A dies after the commit, before the flush; or F dies before the trim: the tail is long, and the next commit
  by anyone flushes it, once more, with the same content.
- F and G flush at once: the same documents. The first trim raises `base`; the filter of the other fails.
  G may have flushed further than F trimmed: what lies from `base` on is in both places, and the tail counts.
- A commits between F's look and F's trim: the trim pulls by seq, and A's messages are above.
- R reads the run first, then `messages` below the base it saw. What it saw below `base` was there before and
  stays; what it saw in the tail it has. (The other way round, a flush and a trim between the two steps would
  hide messages.) So R has exactly the transcript of the moment of its first step.
- A replaces a state that lies apart, and removes the old chunks before R has them: R reads the run again.
- D makes the run a tombstone (from here on it is gone: no filter of a commit or a trim fits), then removes
  messages, chunks and files. R finds messages missing, and then no run. D dies on the way: deleting again
  completes it.
- F flushes after D has removed the messages: its trim fails, it finds no run, and removes what it wrote. If F
  dies before that, the messages stay; nobody sees them, as a run that is created again has another `inc`.
- An expired tombstone is removed by the server, or by a creator, which first removes the messages of that
  `inc` and then the tombstone, if it is still the same. Two creators: the insert has one winner.
- D, frozen for longer than its tombstone lasts, removes the files of the run that was created meanwhile.
  Its messages and chunks have another `inc`.

Documents are refused by the server above 16 MB. A state is in the document up to 1 MB, and the messages of a
commit up to 1 MB together; a tail of 256 KB is flushed. Where flushes failed so often that the tail has 8 MB,
a commit's filter does not fit until it has flushed first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError

from thoughtgear.adapters.mongodb_chunks import Chunks, Database, below
from thoughtgear.adapters.records import TOMBSTONE_SECONDS, Position, leave_out, wrong_count
from thoughtgear.errors import ConflictError, StoreError
from thoughtgear.protocols import RunFilter

TAIL_MESSAGES = 64
TAIL_BYTES = 256 * 2**10
MESSAGE_BYTES = 64 * 2**10
"""What a message may have to be stored in the tail."""
COMMIT_BYTES = 2**20
"""What the state, and the messages of a commit together, may have to be stored in the run's document."""

FULL_BYTES = 8 * 2**20
"""A tail of this size takes no further messages."""
ENTRY_BYTES = 128
"""What an entry of the tail takes beside its body."""

_DUPLICATE = 11000
_SEARCHED = ("status", "handler", "session_id", "user_id")
_COUNTED = ("version", "message_count", "base", "tail_bytes")
_OF_THE_LIVING = (*_COUNTED, *_SEARCHED, "commit", "created_at", "body", "apart", "tail")
_ALIVE = {"expires_at": None}

Row = dict[str, Any]
Listed = tuple[Position, str | bytes | None]


@dataclass(frozen=True)
class Commit:
    """A commit as it goes in. `base` is the version that it comes on top of, `first` the seq of its first
    message, `searched` is for `list_runs`."""

    run_id: str
    version: int
    base: int
    first: int
    searched: Mapping[str, Any]
    body: str
    messages: Sequence[str]
    id: str = field(default_factory=lambda: uuid4().hex)

    @property
    def filter(self) -> Row:
        expected = {"_id": self.run_id, "version": self.base, "message_count": self.first}
        return {**expected, "tail_bytes": {"$lt": FULL_BYTES}}


@dataclass(frozen=True)
class _Placed:
    """What a commit writes, after the decision what goes apart."""

    fields: Row
    entries: list[Row]

    @property
    def apart(self) -> list[Any]:
        return [row.get("apart") for row in (self.fields, *self.entries)]


class Runs:
    """The runs of a database."""

    def __init__(self, database: Database) -> None:
        self._runs = database["run_states"]
        self._messages = database["messages"]
        self._files = database["files"]
        self._chunks = Chunks(database)

    async def state(self, run_id: str) -> str | bytes | None:
        """Return the JSON of the state, or None."""
        shown = {"body": 1, "apart": 1, "commit": 1}
        seen = None
        while run := await self._runs.find_one({"_id": run_id, **_ALIVE}, shown):
            bodies = await self._chunks.bodies([run]) if "body" in run else None
            if bodies is not None:
                found: str | bytes = bodies[0]
                return found
            if run.get("commit") == seen:
                raise _damaged(run_id)
            seen = run.get("commit")
        return None

    async def listed(
        self, where: RunFilter, start: Position | None, limit: int, damaged: dict[str, str]
    ) -> list[Listed]:
        """Return places and states, newest first. A run that was deleted meanwhile has no state, and neither
        has one that can't be read, which is noted in `damaged`."""
        order, shown = [("created_at", -1), ("_id", -1)], {"created_at": 1, "body": 1}
        query = self._runs.find(_conditions(where, start), shown).sort(order).limit(limit)
        rows = await query.batch_size(limit).to_list()
        return [
            ((row["created_at"], row["_id"]), row.get("body") or await self._apart(row["_id"], damaged))
            for row in rows
        ]

    async def _apart(self, run_id: str, damaged: dict[str, str]) -> str | bytes | None:
        try:
            return await self.state(run_id)
        except StoreError as exc:
            leave_out(run_id, exc, damaged)
        return None

    async def commit(self, commit: Commit) -> None:
        """Write the next version. Raises `ConflictError` and `StoreError`."""
        if commit.base:
            await self._update(commit)
        elif commit.first:
            await self._stands(commit)
        else:
            await self._create(commit)

    async def _create(self, commit: Commit) -> None:
        incarnation = uuid4().hex
        placed = await self._place(commit, incarnation)
        run = {"_id": commit.run_id, "inc": incarnation, **placed.fields, "base": 0, "tail": placed.entries}
        run["tail_bytes"] = _size(placed.entries)
        while not await self._insert(run):
            if await self._stands(commit, placed):
                break
        await self._flush_long(commit, 0, run["tail_bytes"])

    async def _insert(self, run: Row) -> bool:
        try:
            await self._runs.insert_one(run)
        except DuplicateKeyError:
            await self._remove_expired(run["_id"])
            return False
        return True

    async def _remove_expired(self, run_id: str) -> None:
        expired = {"_id": run_id, "expires_at": {"$lte": datetime.now(UTC)}}
        tombstone = await self._runs.find_one(expired, {"inc": 1})
        if tombstone is not None:
            await self._messages.delete_many({"_id": below(_prefix(tombstone))})
            await self._runs.delete_one({**expired, "inc": tombstone["inc"]})

    async def _update(self, commit: Commit) -> None:
        placed = await self._place(commit, None)
        size = _size(placed.entries)
        push = {"$push": {"tail": {"$each": placed.entries}}, "$inc": {"tail_bytes": size}}
        change, shown = {"$set": placed.fields, **push}, {"base": 1, "tail_bytes": 1, "apart": 1}
        while (before := await self._runs.find_one_and_update(commit.filter, change, shown)) is None:
            if await self._stands(commit, placed):
                return
            await self.flush(commit.run_id)
        await self._chunks.drop([before.get("apart")])
        await self._flush_long(commit, before["base"], before["tail_bytes"] + size)

    async def _stands(self, commit: Commit, placed: _Placed | None = None) -> bool:
        """Say why a commit found nothing to change. True: it is there, and was sent again to a server that
        does not recognise that. False: only a full tail, or an expired tombstone, was in its way. Else raise,
        and leave nothing of it."""
        shown = {"commit": 1, "version": 1, "message_count": 1}
        run = await self._runs.find_one({"_id": commit.run_id}, shown)
        if run is not None and run.get("commit") == commit.id:
            return True
        version, count = (run.get("version"), run.get("message_count", 0)) if run else (0, 0)
        if version == commit.base and count == commit.first:
            return False
        await self._chunks.drop(placed.apart if placed else [])
        raise ConflictError if version != commit.base else wrong_count(count, commit.first)

    async def _place(self, commit: Commit, incarnation: str | None) -> _Placed:
        state = await self._placed(commit, commit.body, COMMIT_BYTES, incarnation)
        room, entries = COMMIT_BYTES, []
        for seq, body in enumerate(commit.messages, commit.first):
            row = await self._placed(commit, body, min(room, MESSAGE_BYTES), incarnation)
            room -= _size([row])
            entries.append({"seq": seq, **row})
        fields = {"commit": commit.id, "version": commit.version, **commit.searched, "apart": None, **state}
        return _Placed({**fields, "message_count": commit.first + len(entries)}, entries)

    async def _placed(self, commit: Commit, body: str, room: int, incarnation: str | None) -> Row:
        data = body.encode()
        if len(data) <= room:
            return {"body": body}
        if incarnation is None:
            run = await self._runs.find_one({"_id": commit.run_id, **_ALIVE}, {"inc": 1})
            if run is None:
                raise ConflictError
            incarnation = run["inc"]
        place = f"runs/{commit.run_id}\n{incarnation}\n{uuid4().hex}"
        return {"body": None, "apart": await self._chunks.put(place, data)}

    async def _flush_long(self, commit: Commit, base: int, tail_bytes: int) -> None:
        """Flush a long tail. A failure is left to a later commit: this one is acknowledged and stands."""
        count = commit.first + len(commit.messages) - base
        if count >= TAIL_MESSAGES or tail_bytes >= TAIL_BYTES:
            with suppress(PyMongoError):
                await self.flush(commit.run_id)

    async def flush(self, run_id: str) -> None:
        """Write the tail to `messages`, then trim it."""
        run = await self._runs.find_one({"_id": run_id, **_ALIVE}, {"inc": 1, "base": 1, "tail": 1})
        if run is None or not run["tail"]:
            return
        prefix, base = _prefix(run), run["base"] + len(run["tail"])
        rows = [{"_id": _message_id(prefix, each["seq"]), **_content(each)} for each in run["tail"]]
        await self._write_messages(rows)
        trim = {
            "$set": {"base": base},
            "$inc": {"tail_bytes": -_size(run["tail"])},
            "$pull": {"tail": {"seq": {"$lt": base}}},
        }
        same = {"_id": run_id, "inc": run["inc"]}
        trimmed = await self._runs.update_one({**same, "base": run["base"]}, trim)
        if not trimmed.matched_count and not await self._runs.find_one({**same, **_ALIVE}, {"_id": 1}):
            await self._messages.delete_many({"_id": below(prefix)})

    async def _write_messages(self, rows: list[Row]) -> None:
        try:
            await self._messages.insert_many(rows, ordered=False)
        except BulkWriteError as exc:
            # What is there already was written by another flush, with the same content, before the trim.
            errors = exc.details or {}
            codes = {error["code"] for error in errors.get("writeErrors", ())}
            if codes != {_DUPLICATE} or errors.get("writeConcernErrors"):
                raise

    async def history(self, run_id: str, after: int, limit: int | None) -> list[str | bytes]:
        """Return the JSON of the messages above `after`."""
        shown = {"inc": 1, "base": 1, "message_count": 1, "tail": 1}
        seen = None
        while run := await self._runs.find_one({"_id": run_id, **_ALIVE}, shown):
            end = run["message_count"] if limit is None else min(after + 1 + limit, run["message_count"])
            rows = await self._flushed(run, after, min(end, run["base"]))
            rows += [each for each in run["tail"] if after < each["seq"] < end]
            bodies = await self._chunks.bodies(rows)
            if bodies is not None and len(bodies) == max(end - after - 1, 0):
                return bodies
            if run["inc"] == seen:
                raise _damaged(run_id)
            seen = run["inc"]
        return []

    async def _flushed(self, run: Row, after: int, end: int) -> list[Row]:
        if after + 1 >= end:
            return []
        prefix = _prefix(run)
        ids = {"$gte": _message_id(prefix, after + 1), "$lt": _message_id(prefix, end)}
        query = self._messages.find({"_id": ids}).sort("_id")
        return await query.batch_size(end - after).to_list()

    async def delete(self, run_id: str) -> None:
        """Make the run a tombstone, and remove what belongs to it."""
        until = datetime.now(UTC) + timedelta(seconds=TOMBSTONE_SECONDS)
        change = {"$set": {"expires_at": until}, "$unset": dict.fromkeys(_OF_THE_LIVING, "")}
        run = await self._runs.find_one_and_update({"_id": run_id, **_ALIVE}, change, {"inc": 1})
        if run is None:  # absent, or left half deleted
            run = await self._runs.find_one({"_id": run_id, "expires_at": {"$ne": None}}, {"inc": 1})
        if run is None:
            return
        await self._messages.delete_many({"_id": below(_prefix(run))})
        await self._chunks.drop_below(f"runs/{_prefix(run)}")
        await self._files.delete_many({"_id": below(f"{run_id}/")})
        await self._chunks.drop_below(f"files/{run_id}/")


def _size(rows: Sequence[Row]) -> int:
    return sum(ENTRY_BYTES + len((row["body"] or "").encode()) for row in rows)


def _content(row: Row) -> Row:
    return {name: row[name] for name in ("body", "apart") if name in row}


def _prefix(run: Row) -> str:
    return f"{run['_id']}\n{run['inc']}\n"


def _message_id(prefix: str, seq: int) -> str:
    return f"{prefix}{seq:010d}"


def _damaged(run_id: str) -> StoreError:
    return StoreError(f"The run {run_id} is damaged: messages or chunks of it are missing.")


def _conditions(where: RunFilter, start: Position | None) -> Row:
    # $eq takes whatever comes as a value, never as an operator. Tombstones have no created_at.
    wanted = {name: getattr(where, name) for name in _SEARCHED}
    query: Row = {name: {"$eq": value} for name, value in wanted.items() if value is not None}
    if start is None:
        return {**query, "created_at": {"$exists": True}}
    created, run_id = start
    older = [{"created_at": {"$lt": created}}, {"created_at": created, "_id": {"$lt": run_id}}]
    return {**query, "created_at": {"$lte": created}, "$or": older}
