"""What every adapter does to records alike: JSON, the checks of a commit, keys, filters and cursors."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from thoughtgear.errors import ConflictError, InvalidInputError, NewerFormatError, StoreError
from thoughtgear.models import FORMAT, Message, Record, RunState
from thoughtgear.protocols import Collection, RunFilter, RunPage

TOMBSTONE_SECONDS = 24 * 3600
"""How long a deleted run can't be created again."""

MAX_KEY_BYTES = 512
COLLECTIONS: tuple[Collection, ...] = get_args(Collection)
_log = logging.getLogger("thoughtgear")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
ALL_RUNS = RunFilter()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_MAX_DEPTH = 200
_MAX_DIGITS = 4300
"""What pydantic's parser reads; it writes more."""
_MAX_NUMBER = 2**62
"""What every database has room for."""

MOST = 2**31 - 2
"""What a limit is cut to: one more is a number that every driver takes."""

Position = tuple[int, str]
"""Where a run stands in `list_runs`: microseconds since 1970 and its id."""

R = TypeVar("R", bound=Record)


def encode(record: Record) -> str:
    """Return the record as one line of JSON. Raises `InvalidInputError` for text that is not Unicode, and for
    values that are nested too deep or numbers that are too long to be read back."""
    try:
        body = record.model_dump_json()
    except (PydanticSerializationError, UnicodeEncodeError) as exc:
        raise InvalidInputError(
            f"A {type(record).__name__} can't be written as JSON: it holds a lone surrogate "
            "or a value that JSON has no form for."
        ) from exc
    # Most records are too flat and too short to meet a limit of the parser: they need not be parsed.
    if body.count("{") + body.count("[") > _MAX_DEPTH or len(body) > _MAX_DIGITS:
        _check_readable(type(record), body)
    return body


def _check_readable(kind: type[Record], body: str) -> None:
    try:
        kind.model_validate_json(body)
    except ValidationError:  # it quotes the text
        raise InvalidInputError(
            f"A {kind.__name__} can't be read back from JSON: values nest at most {_MAX_DEPTH} deep, "
            f"and whole numbers have at most {_MAX_DIGITS} digits."
        ) from None


def decode_state(data: str | bytes) -> RunState:
    """Read a state. Raises `NewerFormatError`, or `StoreError` for a damaged record."""
    state = _decode(RunState, data)
    if state.format > FORMAT:
        raise _newer(state.format)
    return state


def decode_listed(data: str | bytes, run_id: str, damaged: dict[str, str]) -> RunState | None:
    """Read a state of a list, or note in `damaged` that it can't be read and return None: one record does not
    hide the others. Raises `NewerFormatError`."""
    try:
        return decode_state(data)
    except NewerFormatError:
        raise
    except StoreError as exc:
        leave_out(run_id, exc, damaged)
    return None


def leave_out(run_id: str, why: StoreError, damaged: dict[str, str]) -> None:
    """Note, and log, that a list leaves out this run."""
    damaged[run_id] = str(why)
    _log.warning("list_runs leaves out run %s: %s", run_id, why, extra={"run_id": run_id})


def decode_message(data: str | bytes) -> Message:
    """Read a message. Raises `StoreError` for a damaged record."""
    return _decode(Message, data)


def _decode(kind: type[R], data: str | bytes) -> R:
    try:
        return kind.model_validate_json(data)
    except (ValidationError, UnicodeEncodeError):
        # A newer format may not validate at all. The pydantic error quotes the text: it goes no further.
        found = _format_of(data)
    if found > FORMAT:
        raise _newer(found)
    raise StoreError(f"A stored {kind.__name__} is damaged: it is not the JSON of one.")


def _format_of(data: str | bytes) -> int:
    try:
        found = json.loads(data).get("format", 0)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return 0
    return found if isinstance(found, int) else 0


def _newer(found: int) -> NewerFormatError:
    return NewerFormatError(f"A record has format {found}, this version reads up to {FORMAT}: upgrade it.")


def check_commit(
    state: RunState, messages: Sequence[Message], expected: int | None = None
) -> tuple[int, int]:
    """Return the version and the `message_count` that the store must stand at. Raises `StoreError` for a gap
    in the seqs, and for a commit that does not go forward."""
    check_key(state.run_id)
    expected = state.version - 1 if expected is None else _check_whole(expected, "An expected version")
    if state.version >= _MAX_NUMBER or state.message_count >= _MAX_NUMBER:
        raise StoreError("A commit's version and number of messages are below 2**62.")
    if not 0 <= expected < state.version:
        raise StoreError("A commit makes version 1 or a later one, on top of a lower one or of none.")
    first = state.message_count - len(messages)
    if first < 0 or [message.seq for message in messages] != list(range(first, state.message_count)):
        raise StoreError("The messages of a commit must be the last ones of the transcript, without gaps.")
    return expected, first


def wrong_count(stored: int, expected: int) -> StoreError:
    """The error for messages that do not begin where the stored transcript ends."""
    return StoreError(f"The transcript has {stored} messages; the commit begins at {expected}.")


def check_key(key: str) -> str:
    """Return the key. Raises `InvalidInputError` for an empty, too long or unprintable one, and for what is
    no text."""
    if not isinstance(key, str):
        raise InvalidInputError("A key is a text.")
    try:
        size = len(key.encode())
    except UnicodeEncodeError as exc:
        raise InvalidInputError("A key must be valid Unicode.") from exc
    if not 0 < size <= MAX_KEY_BYTES:
        raise InvalidInputError(f"A key has 1 to {MAX_KEY_BYTES} bytes, this one {size}.")
    if _CONTROL.search(key):
        raise InvalidInputError("A key must not hold control characters.")
    return key


def check_collection(collection: Collection) -> None:
    """Raises `InvalidInputError` where there is no collection of that name."""
    if not (isinstance(collection, str) and collection in COLLECTIONS):
        raise InvalidInputError(f"There is no such collection; there are {', '.join(COLLECTIONS)}.")


def check_place(collection: Collection, key: str) -> None:
    """Check where a document is. Raises `InvalidInputError`."""
    check_collection(collection)
    check_key(key)


def check_value(value: bytes | None, tag: str | None) -> bytes | None:
    """Return a copy of a document's value, to be put over the one with that tag. Raises `InvalidInputError`
    for what is not bytes and for a tag that is no text, and `ConflictError` for a tag that no store gives."""
    if tag is not None and not isinstance(tag, str):
        raise InvalidInputError(
            f"A tag is the text that a write gave, or None; this is {type(tag).__name__}."
        )
    if tag is not None and not (tag.isascii() and tag.isprintable()):
        raise ConflictError
    if value is None:
        return None
    if not isinstance(value, bytes | bytearray | memoryview):
        raise InvalidInputError(f"A document is bytes, this is {type(value).__name__}: encode it.")
    return bytes(value)


def check_range(collection: Collection, prefix: str, after: str, limit: int) -> int:
    """Check what `list_documents` is given, and return how many keys it returns at the most. Raises
    `InvalidInputError` for text that is not Unicode, and for what is no text or no number."""
    check_collection(collection)
    if not (isinstance(prefix, str) and isinstance(after, str)):
        raise InvalidInputError("A prefix, and a key to go on after, are texts.")
    try:
        (prefix + after).encode()
    except UnicodeEncodeError as exc:
        raise InvalidInputError("A prefix, and a key to go on after, must be valid Unicode.") from exc
    return _within(0, _check_whole(limit, "A limit"), MOST)


def check_span(run_id: str, after: int, limit: int | None) -> tuple[int, int]:
    """Check what `get_history` is given; return the seq above which it begins, -1 for the first message, and
    how many messages it returns at the most. Raises `InvalidInputError`."""
    check_key(run_id)
    count = MOST if limit is None else _check_whole(limit, "A limit")
    return _within(-1, _check_whole(after, "The seq to go on after"), MOST), _within(0, count, MOST)


def _check_whole(number: int, what: str) -> int:
    if not isinstance(number, int) or isinstance(number, bool):
        raise InvalidInputError(f"{what} is a whole number, this is {type(number).__name__}.")
    return number


def _within(least: int, number: int, most: int) -> int:
    return min(max(number, least), most)


def position(state: RunState) -> Position:
    """Return where the run stands in `list_runs`."""
    created = state.created_at
    aware = created if created.tzinfo else created.replace(tzinfo=UTC)
    return (aware - EPOCH) // timedelta(microseconds=1), state.run_id


def page_of(
    states: Iterable[RunState], after: Position | None, limit: int, store: str, damaged: Mapping[str, str]
) -> RunPage:
    """Return one page, newest first, of runs that are all at hand."""
    beyond = [state for state in states if after is None or position(state) < after]
    return cut_page(sorted(beyond, key=position, reverse=True), limit, store, damaged)


def cut_page(runs: list[RunState], limit: int, store: str, damaged: Mapping[str, str]) -> RunPage:
    """Return the first `limit` of sorted runs, and a cursor when there are more."""
    if len(runs) <= limit:
        return RunPage(runs, damaged=damaged)
    return RunPage(runs[:limit], write_cursor(store, position(runs[limit - 1])), damaged)


def write_cursor(store: str, at: Position) -> str:
    """Return the cursor that continues after `at`: opaque, and of this kind of store only."""
    body = json.dumps([store, *at]).encode()
    return base64.urlsafe_b64encode(zlib.crc32(body).to_bytes(4) + body).decode()


def read_cursor(store: str, cursor: str | None, limit: int) -> Position | None:
    """Check the arguments of `list_runs` and return where it continues. Raises `InvalidInputError`."""
    if not 1 <= _check_whole(limit, "A limit") <= MOST:
        raise InvalidInputError(f"A page has 1 to {MOST} runs.")
    if cursor is None:
        return None
    if not isinstance(cursor, str):
        raise InvalidInputError(f"A cursor is the text that a page gave, this is {type(cursor).__name__}.")
    try:
        raw = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True)
        name, created, run_id = json.loads(raw[4:])
        check_key(run_id)
        known = type(created) is int and abs(created) < _MAX_NUMBER
    except (binascii.Error, UnicodeError, ValueError, TypeError, AttributeError, RecursionError) as exc:
        raise InvalidInputError("This cursor is not one of list_runs.") from exc
    if not known or raw[:4] != zlib.crc32(raw[4:]).to_bytes(4) or name != store:
        raise InvalidInputError("This cursor is of another store.")
    return created, run_id
