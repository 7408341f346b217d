"""The reply while it is being made: what `run` shows before the reply is saved.

It is a document that is overwritten a few times a second, only for runs whose starter asked for it
(`stream=True`). Losing it loses nothing: the transcript has the reply.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass

from thoughtgear.errors import ConflictError, RunNotFoundError, StoreError
from thoughtgear.protocols import OrmAdapter

LIVE = "live/"
"""What the keys of these documents begin with, in `cache`."""

INTERVAL = 0.15
"""Seconds between two writes of the growing text."""


@dataclass(frozen=True)
class LiveText:
    """The text so far. A new attempt has another `epoch`, and its text begins anew."""

    iteration: int
    epoch: int
    text: str


def _key(run_id: str) -> str:
    return f"{LIVE}{run_id}"


async def read(store: OrmAdapter, run_id: str) -> LiveText | None:
    """Return what the model has said so far in the iteration under way, or None."""
    document = await store.get_document("cache", _key(run_id))
    return LiveText(**json.loads(document.value)) if document else None


async def forget(store: OrmAdapter, run_id: str) -> None:
    """Remove the document of a run that is over, also while an attempt that does not know it writes."""
    while (document := await store.get_document("cache", _key(run_id))) is not None:
        with suppress(ConflictError):
            await store.put_document("cache", _key(run_id), None, tag=document.tag)


class LiveWriter:
    """Writes the growing text of one reply.

    It stops for good when a newer attempt writes, and when the run is over or deleted. For that it looks at
    the run once, after its first write, and again whenever the document was gone. So either the writer sees
    the end, or it wrote before the end, and `forget` comes after that.
    """

    def __init__(self, store: OrmAdapter, run_id: str, iteration: int, epoch: int) -> None:
        self._store, self._run_id = store, run_id
        self._iteration, self._epoch = iteration, epoch
        self._pieces: list[str] = []
        self._stopped = self._checked = False
        self._written_at = time.monotonic()

    async def add(self, piece: str) -> None:
        """Add a piece; most calls only remember it."""
        if self._stopped:
            return
        self._pieces.append(piece)
        if time.monotonic() - self._written_at < INTERVAL:
            return
        with suppress(StoreError):  # another attempt writes, or the store is away: nothing is lost
            await self._write()
        self._written_at = time.monotonic()

    async def _write(self) -> None:
        known = await self._store.get_document("cache", _key(self._run_id))
        if known is not None and self._is_older_than(LiveText(**json.loads(known.value))):
            self._stopped = True
            return
        self._pieces = ["".join(self._pieces)]
        text = self._pieces[0]
        value = json.dumps({"iteration": self._iteration, "epoch": self._epoch, "text": text}).encode()
        self._checked = self._checked and known is not None
        await self._store.put_document("cache", _key(self._run_id), value, tag=known.tag if known else None)
        if not self._checked:
            await self._check()

    def _is_older_than(self, other: LiveText) -> bool:
        return (self._iteration, self._epoch) < (other.iteration, other.epoch)

    async def _check(self) -> None:
        try:
            over = (await self._store.load_run(self._run_id)).over
        except RunNotFoundError:
            over = True
        if over:
            await forget(self._store, self._run_id)
        self._stopped, self._checked = over, True
