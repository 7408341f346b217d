"""Tools that let the model remember things from one run to the next: `remember`, `recall` and `forget`.

    PromptHandler(tools=[*memory_tools("user")], …)

All that is remembered for a user or a session is one document: an update loses nothing to another run, and a
search is one read. Code finds it under `remembered` in `ctx.memory_of(scope)`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, get_args

from pydantic import AwareDatetime, Field, ValidationError

from thoughtgear.errors import ConfigurationError, LimitExceededError, NewerFormatError, StoreError
from thoughtgear.models import FORMAT, Record, now
from thoughtgear.tools import Tool, ToolContext, tool

MemoryScope = Literal["user", "session"]

DOCUMENT = "remembered"
"""The key in the scope's memory under which all of it lies."""

KEY_BYTES = 200
VALUE_BYTES = 4_000
ENTRIES = 200
"""What is remembered at the most: a key and a value as JSON has them, and how many."""

RECALL_BYTES = 8_000
"""What `recall` returns at the most; one entry fits always."""


class Note(Record):
    """One thing that is remembered."""

    value: str
    saved_at: AwareDatetime


class Notes(Record):
    """All that is remembered in a scope, by key."""

    format: int = FORMAT
    entries: dict[str, Note] = Field(default_factory=dict)


def memory_tools(scope: MemoryScope = "user", *, limit: int = 20) -> list[Tool]:
    """Return the tools `remember`, `recall` and `forget` for what belongs to the run's user or session.

    `recall` returns at most `limit` entries and 8,000 bytes. In a run that has no such id each call is an
    error that says so to the model. Raises `ConfigurationError`.
    """
    if scope not in get_args(MemoryScope):
        raise ConfigurationError(f"The scope of memory tools is one of {get_args(MemoryScope)}.")
    if limit < 1:
        raise ConfigurationError("recall returns one entry at least: limit is 1 or more.")
    where = "about this user, in all their conversations" if scope == "user" else "in this conversation"
    return [_remember(scope, where), _recall(scope, where, limit), _forget(scope, where)]


def _remember(scope: MemoryScope, where: str) -> Tool:
    @tool(description=f"Remember something {where}. It replaces what was remembered under the same key.")
    async def remember(key: str, value: str, ctx: ToolContext) -> str:
        """Remember something.

        Args:
            key: A short name to find it by, such as "favourite colour".
            value: What to remember, complete enough to be understood later.
        """
        _check("key", key, KEY_BYTES)
        _check("value", value, VALUE_BYTES)
        note = Note(value=value, saved_at=now())

        def put(notes: Notes) -> None:
            if key not in notes.entries and len(notes.entries) >= ENTRIES:
                raise LimitExceededError(
                    f"{ENTRIES} things are remembered and no more fit: forget one first."
                )
            notes.entries[key] = note

        await _update(ctx, scope, put)
        return f"Remembered as {key!r}."

    return remember


def _recall(scope: MemoryScope, where: str, limit: int) -> Tool:
    @tool(description=f"Recall what was remembered {where}: by words or, without any, what is newest.")
    async def recall(ctx: ToolContext, query: str = "") -> dict[str, Any] | str:
        """Recall something.

        Args:
            query: Words that are in the key or the value; empty for what is newest.
        """
        entries = _read(await ctx.memory_of(scope).get(DOCUMENT)).entries
        found = _search(entries, query)
        return _shown(found, limit) if found else _nothing(entries, limit)

    return recall


def _forget(scope: MemoryScope, where: str) -> Tool:
    @tool(description=f"Forget something that was remembered {where}.")
    async def forget(key: str, ctx: ToolContext) -> str:
        """Forget something.

        Args:
            key: The key under which it was remembered.
        """
        if key not in _read(await ctx.memory_of(scope).get(DOCUMENT)).entries:
            return f"Nothing is remembered as {key!r}."
        await _update(ctx, scope, lambda notes: notes.entries.pop(key, None))
        return f"Forgot {key!r}."

    return forget


def _check(what: str, text: str, limit: int) -> None:
    size = _size(text) - 2  # the quotes
    if not text.strip() or size > limit:
        raise LimitExceededError(f"A {what} has 1 to {limit} bytes, this one {size}.")


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


async def _update(ctx: ToolContext, scope: MemoryScope, change: Callable[[Notes], object]) -> None:
    def changed(stored: Any) -> Any:
        notes = _read(stored)
        change(notes)
        return notes.model_dump(mode="json")

    await ctx.memory_of(scope).update(DOCUMENT, changed)


def _read(stored: Any) -> Notes:
    """Raises `NewerFormatError`, and `StoreError` for what `remember` did not write."""
    try:
        notes = Notes() if stored is None else Notes.model_validate(stored)
    except ValidationError:  # it quotes the text
        raise StoreError(f"What lies under {DOCUMENT!r} was not written by remember.") from None
    if notes.format > FORMAT:
        raise NewerFormatError
    return notes


def _search(entries: dict[str, Note], query: str) -> list[tuple[str, Note]]:
    """Return the entries that have words of the query, those with most of them first, then the newest; before
    all others the one whose key it is."""
    query = query.strip().casefold()
    words = set(re.findall(r"\w+", query) or query.split())

    def rank(item: tuple[str, Note]) -> tuple[bool, int, datetime]:
        key, note = item
        text = f"{key}\n{note.value}".casefold()
        return key.casefold() == query, sum(word in text for word in words), note.saved_at

    ranked = sorted(entries.items(), key=rank, reverse=True)
    return [item for item in ranked if not words or any(rank(item)[:2])]


def _shown(found: list[tuple[str, Note]], limit: int) -> dict[str, Any]:
    """As many entries as fit, and how many there are besides."""
    shown: list[dict[str, str]] = []
    size = 100  # what stands around the entries
    for key, note in found[:limit]:
        entry = {"key": key, "value": note.value, "saved_at": note.saved_at.isoformat(timespec="seconds")}
        size += _size(entry) + 1
        if shown and size > RECALL_BYTES:
            break
        shown.append(entry)
    more = len(found) - len(shown)
    return {"entries": shown, **({"more": f"{more} more; ask with other words to see them"} if more else {})}


def _nothing(entries: dict[str, Note], limit: int) -> str:
    if not entries:
        return "Nothing is remembered yet."
    newest = list(dict(_search(entries, "")))
    more = f" and {len(newest) - limit} more" if len(newest) > limit else ""
    return f"Nothing is remembered about that. Remembered are: {', '.join(newest[:limit])}{more}."
