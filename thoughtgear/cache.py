"""The results of cached tools: what a tool gave is used again until it is too old.

An entry is a document of `cache` under the hash of whatever the result depends on. Losing one loses nothing;
a fault of the store costs a call its cached result, never more: the tool runs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from pydantic import AwareDatetime, ValidationError

from thoughtgear.errors import ConflictError
from thoughtgear.models import FORMAT, Record, now
from thoughtgear.protocols import OrmAdapter
from thoughtgear.tools import Tool

PREFIX = "tool/"
"""What the keys of cached results begin with, in the collection `cache`."""

PAGE = 500

log = logging.getLogger("thoughtgear")


def key_of(
    user_id: str | None,
    handler: str,
    tool: Tool,
    limit_bytes: int,
    given: Mapping[str, Any] | str,
    arguments: Mapping[str, Any],
) -> str:
    """Return the key of a result: hashes, neither long nor telling.

    `given` is what the model sent, `arguments` what that was validated to. `limit_bytes` is what the result
    was cut to: under another limit it would be another one.
    """
    parts = [user_id, handler, tool.name, tool.version, limit_bytes, *_canonical(given, arguments)]
    return prefix_of(user_id) + sha256(json.dumps(parts).encode()).hexdigest()


def prefix_of(user_id: str | None) -> str:
    """Return what the keys of a user's results begin with, or of those that belong to no user."""
    return f"{PREFIX}{sha256(json.dumps(user_id).encode()).hexdigest()[:16]}/"


def _canonical(given: Mapping[str, Any] | str, arguments: Mapping[str, Any]) -> tuple[str, str]:
    """The arguments in one spelling. Validated ones that are no plain JSON count as the model gave them:
    their own JSON may leave out what tells them apart (a secret, an excluded field)."""
    try:
        return "validated", json.dumps(arguments, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return "given", json.dumps(given, sort_keys=True)


class Entry(Record):
    """A cached result as it is stored."""

    format: int = FORMAT
    content: str
    saved_at: AwareDatetime
    expires_at: AwareDatetime

    @property
    def expired(self) -> bool:
        return self.expires_at <= now()


class Slot:
    """The place of one call's result. Its methods raise nothing but a cancellation: faults go to the log.

    `lasts` is how long the tool's results may be used now. `label` says in the log whose result it is.
    """

    def __init__(self, store: OrmAdapter, key: str, lasts: timedelta, label: str) -> None:
        self._store, self._key, self._lasts, self._label = store, key, lasts, label
        self._tag: str | None = None
        self._known = False

    async def find(self) -> str | None:
        """Return the result that is there, if it can be used."""
        try:
            document = await self._store.get_document("cache", self._key)
        except Exception as exc:
            self._warn("read", exc)
            return None
        self._known = True
        if document is None:
            return None
        self._tag = document.tag
        entry = _read(document.value)
        return entry.content if entry is not None and self._usable(entry) else None

    async def keep(self, content: str) -> None:
        """Keep a result for the next call in place of what `find` saw. Of two at once the first stays."""
        if not self._known:
            return
        saved = now()
        entry = Entry(content=content, saved_at=saved, expires_at=_later(saved, self._lasts))
        try:
            with suppress(ConflictError):
                value = entry.model_dump_json().encode()
                await self._store.put_document("cache", self._key, value, tag=self._tag)
        except Exception as exc:
            self._warn("kept", exc)

    def _usable(self, entry: Entry) -> bool:
        """A tool whose results last shorter than they did counts as it is now. A clock that was set back
        makes nothing last for ever."""
        age = abs(now() - entry.saved_at)
        return entry.format <= FORMAT and not entry.expired and age < self._lasts

    def _warn(self, what: str, exc: Exception) -> None:
        log.warning("a cached result of %s could not be %s: %s", self._label, what, type(exc).__name__)


def _later(moment: datetime, span: timedelta) -> datetime:
    try:
        return moment + span
    except OverflowError:
        return datetime.max.replace(tzinfo=moment.tzinfo)


def _read(value: bytes) -> Entry | None:
    """Return the entry, or None for a damaged one."""
    try:
        return Entry.model_validate_json(value)
    except ValidationError:
        return None


async def sweep(store: OrmAdapter, step: Callable[[int], object] | None = None) -> int:
    """Delete the cached results that have expired or are damaged, and return how many that were.

    Those of a newer format stay, and so does what is replaced meanwhile. `step` is told how many more have
    been looked at. One read per result: a large cache takes a while. Raises `StoreError`.
    """
    swept, after = 0, ""
    while keys := await store.list_documents("cache", PREFIX, after=after, limit=PAGE):
        for key in keys:
            swept += await _sweep(store, key)
        after = keys[-1]
        if step is not None:
            step(len(keys))
    return swept


async def _sweep(store: OrmAdapter, key: str) -> bool:
    document = await store.get_document("cache", key)
    if document is None:
        return False
    entry = _read(document.value)
    if entry is not None and (entry.format > FORMAT or not entry.expired):
        return False
    try:
        await store.put_document("cache", key, None, tag=document.tag)
    except ConflictError:
        return False
    return True
