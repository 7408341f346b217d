"""The reply while it is being made: what a reader is told before the reply is saved.

It is a document that is overwritten a few times a second, only for runs that somebody reads or whose starter
asked for it (`stream=True`). Losing it loses nothing: the transcript has the reply.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from pydantic import BaseModel, ValidationError

from thoughtgear.errors import ConflictError, InvalidInputError, RunNotFoundError, StoreError
from thoughtgear.protocols import Document, OrmAdapter

LIVE = "live/"
"""What the keys of these documents begin with, in `cache`."""

INTERVAL = 0.25
"""Seconds between two writes of the growing text, at the least."""

RATE = 64_000
"""Letters per second that are written at the most: a long text is written less often."""

PAGE = 500
"""Keys that are listed at once."""

log = logging.getLogger("thoughtgear")


def pause_after(letters: int) -> float:
    """Seconds until a text of that length is written again; before that there is nothing to read either."""
    return max(INTERVAL, letters / RATE)


class LiveText(BaseModel):
    """The text so far. A later attempt has begun at a higher `version` of the run; its text begins anew."""

    iteration: int
    version: int
    text: str


def _key(run_id: str) -> str:
    return f"{LIVE}{run_id}"


def _parsed(document: Document | None) -> LiveText | None:
    """The text, or None for one that is damaged: it is overwritten."""
    with suppress(ValidationError):
        return LiveText.model_validate_json(document.value) if document else None
    return None


async def read(store: OrmAdapter, run_id: str) -> LiveText | None:
    """Return what the model has said so far in the iteration under way, or None."""
    return _parsed(await store.get_document("cache", _key(run_id)))


async def forget(store: OrmAdapter, run_id: str) -> None:
    """Remove the document of a run that is over, also while an attempt that does not know it writes."""
    while (document := await store.get_document("cache", _key(run_id))) is not None:
        with suppress(ConflictError):
            await store.put_document("cache", _key(run_id), None, tag=document.tag)


async def sweep(store: OrmAdapter) -> int:
    """Remove the text of runs that are over or gone, where whoever ended them died before it did so. Returns
    how many there were; one whose run can't be read stays. Raises `StoreError`."""
    swept, after = 0, ""
    while keys := await store.list_documents("cache", LIVE, after=after, limit=PAGE):
        for run_id in (key.removeprefix(LIVE) for key in keys):
            if await _ended(store, run_id):
                await forget(store, run_id)
                swept += 1
        after = keys[-1]
    return swept


async def _ended(store: OrmAdapter, run_id: str) -> bool:
    try:
        return (await store.load_run(run_id)).over
    except (RunNotFoundError, InvalidInputError):
        return True
    except StoreError as exc:
        if exc.retryable:
            raise
        return False


class LiveWriter:
    """Writes the growing text of one reply, beside the reply: it is never waited for.

    It stops for good when a later attempt writes, and when the run is over or deleted. For that it looks at
    the run once, after its first write, and again whenever the document was gone. So either the writer sees
    the end, or it wrote before the end, and `forget` comes after that.
    """

    def __init__(self, store: OrmAdapter, run_id: str, iteration: int, version: int) -> None:
        self._store, self._run_id = store, run_id
        self._iteration, self._version = iteration, version
        self._pieces: list[str] = []
        self._letters = self._written = 0
        self._tag: str | None = None
        self._known = self._checked = self._stopped = False
        self._writing: asyncio.Task[None] | None = None

    def add(self, piece: str, *, wanted: bool = True) -> None:
        """Add a piece. Nothing is written as long as nobody wants it."""
        self._pieces.append(piece)
        self._letters += len(piece)
        if wanted and not self._stopped and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(self._keep_up())

    async def aclose(self) -> None:
        """Write no more, and return when nothing is being written."""
        self._stopped = True
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait((self._writing,))

    async def _keep_up(self) -> None:
        while self._written < self._letters and not self._stopped:
            try:
                await self.flush()
            except StoreError as exc:  # the store is away: nothing is lost
                log.debug("the live text can't be written: %s", exc, extra={"run_id": self._run_id})
            except Exception as exc:  # an adapter may raise anything: the reply is worth more
                self._stopped = True
                name, extra = type(exc).__name__, {"run_id": self._run_id}
                log.warning("the live text is written no more in this reply: %s", name, extra=extra)
            await asyncio.sleep(pause_after(self._letters))

    async def flush(self) -> None:
        """Write what there is. Raises `StoreError`."""
        if not self._known and not await self._may_write():
            self._stopped = True
        if self._stopped:
            return
        self._pieces = ["".join(self._pieces)]
        text = LiveText(iteration=self._iteration, version=self._version, text=self._pieces[0])
        value = text.model_dump_json().encode()
        try:
            self._tag = await self._store.put_document("cache", _key(self._run_id), value, tag=self._tag)
        except ConflictError:  # somebody else's, or it is gone: look what it is, next time
            self._known = False
            return
        self._written = len(text.text)
        if not self._checked:
            await self._check()

    async def _may_write(self) -> bool:
        """Look what is there, and say whether it is to be replaced."""
        document = await self._store.get_document("cache", _key(self._run_id))
        self._known, self._tag = True, document.tag if document else None
        self._checked = self._checked and document is not None
        other = _parsed(document)
        return other is None or (other.iteration, other.version) <= (self._iteration, self._version)

    async def _check(self) -> None:
        try:
            over = (await self._store.load_run(self._run_id)).over
        except RunNotFoundError:
            over = True
        if over:
            await forget(self._store, self._run_id)
        self._stopped, self._checked = over, True
