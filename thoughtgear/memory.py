"""What tools remember: JSON values by key, for a user, a session or a run."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from contextlib import suppress
from hashlib import sha256
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import quote

from thoughtgear.errors import (
    ConfigurationError,
    ConflictError,
    InvalidInputError,
    LimitExceededError,
    StoreError,
    StoreUnavailableError,
)
from thoughtgear.protocols import Document, OrmAdapter

VALUE_BYTES = 1_000_000
KEY_BYTES = 300
_SCOPE_BYTES = 200
_TRIES = 50
_PAGE = 1000
_SYNC_SECONDS = 120.0

Scope = Literal["user", "session", "run"]
"""Whose a memory is."""

_T = TypeVar("_T")


class Whose(Protocol):
    """What has the ids of a run: its state, or the context of a tool."""

    run_id: str
    session_id: str | None
    user_id: str | None


class Memory:
    """JSON values by key within one scope, such as `user:ann`; no scope sees another's keys.

    Keys are 1 to 300 bytes of text without control characters. Values are what `json` can write, up to
    1,000,000 bytes; tuples come back as lists. In async tools the methods are awaited; plain tools, which
    run in a thread, use `sync`. A store's errors (`StoreError`) come through.
    """

    def __init__(self, store: OrmAdapter, scope: str) -> None:
        self._store = store
        self._scope = scope_prefix(scope)
        self._loop: asyncio.AbstractEventLoop | None = None
        with suppress(RuntimeError):
            self._loop = asyncio.get_running_loop()

    def at(self, scope: str) -> Memory:
        """Return the memory of another scope in the same store."""
        other = Memory(self._store, scope)
        other._loop = self._loop  # a plain function asks in a thread, where there is none
        return other

    @property
    def sync(self) -> SyncMemory:
        """The same memory for a plain function in a thread."""
        return SyncMemory(self, self._loop)

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value, or `default`."""
        found = await self._find(key)
        return default if found is None else _decoded(found)

    async def put(self, key: str, value: Any) -> None:
        """Store a value; the last writer wins. Raises `InvalidInputError`, `LimitExceededError`."""
        data = _encoded(value)
        await self._swap(key, lambda found: data)

    async def delete(self, key: str) -> None:
        """Forget a key; an absent one is fine."""
        await self._swap(key, lambda found: None)

    async def update(self, key: str, change: Callable[[Any], Any], default: Any = None) -> Any:
        """Replace the value by `change(value)` with no other write in between, and return it.

        `change` starts from `default` where the key is absent, and is called again when another writer
        was faster, so it must have no effects of its own. Raises `ConflictError` after 50 such losses.
        """
        made: list[Any] = []

        def again(found: Document | None) -> bytes:
            made[:] = [change(default if found is None else _decoded(found))]
            return _encoded(made[0])

        await self._swap(key, again)
        return made[0]

    async def keys(self, prefix: str = "") -> list[str]:
        """Return the keys that begin with `prefix`, sorted by code point."""
        start, after, found = self._scope + prefix, "", list[str]()
        while True:
            page = await self._store.list_documents("memory", start, after=after, limit=_PAGE)
            found += [key.removeprefix(self._scope) for key in page]
            if len(page) < _PAGE:
                return found
            after = page[-1]

    async def _find(self, key: str) -> Document | None:
        return await self._store.get_document("memory", self._scope + _checked(key))

    async def _swap(self, key: str, make: Callable[[Document | None], bytes | None]) -> None:
        for attempt in range(_TRIES):
            found = await self._find(key)
            value = make(found)
            if found is None and value is None:
                return
            try:
                await self._store.put_document(
                    "memory", self._scope + key, value, tag=found.tag if found else None
                )
                return
            except ConflictError:
                # Spreads writers that keep meeting: each waits a random time, longer every round.
                await asyncio.sleep(random.uniform(0, min(0.2, 0.002 * 2**attempt)))  # noqa: S311  (no secret)
        raise ConflictError("This key of the memory is written by too many at once; try again later.")


class SyncMemory:
    """A `Memory` for plain functions that run in a thread: the same methods, not awaited.

    Each call runs in the event loop in which the memory was made, and blocks the thread meanwhile.
    """

    def __init__(self, memory: Memory, loop: asyncio.AbstractEventLoop | None) -> None:
        self._memory = memory
        self._loop = loop

    def get(self, key: str, default: Any = None) -> Any:
        """See `Memory.get`."""
        return self._run(lambda: self._memory.get(key, default))

    def put(self, key: str, value: Any) -> None:
        """See `Memory.put`."""
        self._run(lambda: self._memory.put(key, value))

    def delete(self, key: str) -> None:
        """See `Memory.delete`."""
        self._run(lambda: self._memory.delete(key))

    def update(self, key: str, change: Callable[[Any], Any], default: Any = None) -> Any:
        """See `Memory.update`; `change` is called in the event loop."""
        return self._run(lambda: self._memory.update(key, change, default))

    def keys(self, prefix: str = "") -> list[str]:
        """See `Memory.keys`."""
        return self._run(lambda: self._memory.keys(prefix))

    def _run(self, start: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        if self._loop is None:
            raise ConfigurationError("memory.sync needs a memory that was made in an event loop.")
        if self._in_loop():
            raise ConfigurationError("memory.sync is for plain functions; in async code, await the memory.")
        work = start()
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as exc:
            work.close()
            raise StoreUnavailableError("The memory's event loop is gone: the run has ended here.") from exc
        try:
            return future.result(_SYNC_SECONDS)
        except (CancelledError, TimeoutError) as exc:
            future.cancel()
            raise StoreUnavailableError("The memory did not answer; the outcome is unknown.") from exc

    def _in_loop(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False


def scope_of(whose: Whose, scope: Scope) -> str | None:
    """Return the name of a run's scope, such as `user:ann`, or None where the run has no such id.

    As everywhere, one user's session is never another's, whatever the session is called.
    """
    value: str | None = getattr(whose, f"{scope}_id")
    if value is None:
        return None
    if scope == "session" and whose.user_id is not None:
        return f"user-session:{json.dumps([whose.user_id, value])}"
    return f"{scope}:{value}"


def sessions_prefix(user_id: str) -> str:
    """Return what the keys of all sessions of a user begin with, but for those whose names are so long that a
    hash stands for them."""
    return _quoted(f"user-session:{json.dumps([user_id])[:-1]}, ")


def scope_prefix(scope: str) -> str:
    """Return what the keys of a scope begin with. Percent-encoding leaves no `/` and no `#`: the first `/`
    ends the scope, `#` marks a hash."""
    if not scope:
        raise InvalidInputError("The scope of a memory must not be empty.")
    readable = _quoted(scope)
    if len(readable) <= _SCOPE_BYTES:
        return f"{readable}/"
    return f"#{sha256(_encode(scope)).hexdigest()}/"


def _quoted(scope: str) -> str:
    return quote(_encode(scope), safe=":@")


def _encode(scope: str) -> bytes:
    return scope.encode("utf-8", "surrogatepass")


def _checked(key: str) -> str:
    if not isinstance(key, str) or not key or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in key):
        raise InvalidInputError("A key of the memory must be a text, not empty, without control characters.")
    try:
        size = len(key.encode())
    except UnicodeEncodeError as exc:
        raise InvalidInputError("A key of the memory must be valid Unicode.") from exc
    if size > KEY_BYTES:
        raise LimitExceededError(f"A key of the memory has at most {KEY_BYTES} bytes; this one has {size}.")
    return key


def _decoded(found: Document) -> Any:
    try:
        return json.loads(found.value)
    except (ValueError, RecursionError):  # the error holds the text
        raise StoreError("A value of the memory is damaged: it is no JSON.") from None


def _encoded(value: Any) -> bytes:
    try:
        data = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidInputError(f"A value of the memory must be JSON: {type(exc).__name__}.") from exc
    if len(data) > VALUE_BYTES:
        raise LimitExceededError(
            f"A value of the memory has at most {VALUE_BYTES} bytes; this one has {len(data)}."
        )
    return data
