"""The reader of server-sent events: bytes in, events out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event: its name (empty when it has none) and its data."""

    name: str
    data: str


class EventTooLargeError(Exception):
    """One event is over the limit."""


class EventReader:
    """Cuts a byte stream into events, wherever the network cut it.

    It splits bytes and not text, because U+2028 may stand in the JSON of an event and ends no line there.
    Comments, ids and retry times are dropped. An event of more than `most_bytes`, or a line that doesn't end,
    raises `EventTooLargeError` as soon as it is.
    """

    def __init__(self, most_bytes: int = 8 * 1024 * 1024) -> None:
        self._most_bytes = most_bytes
        self._rest = bytearray()
        self._size = 0
        self._ends_in_cr = False
        self._first_line = True
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Take the next bytes; yield every event that they complete."""
        if self._ends_in_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._ends_in_cr = False
        if not chunk:
            return
        self._ends_in_cr = chunk.endswith(b"\r")
        self._rest += chunk
        if b"\n" in chunk or b"\r" in chunk:
            lines = self._rest.splitlines(keepends=True)
            whole = lines[-1].endswith((b"\n", b"\r"))
            self._rest = bytearray() if whole else lines.pop()
            for line in lines:
                yield from self._line(line.rstrip(b"\r\n"))
        self._check(len(self._rest))

    def finish(self) -> Iterator[Event]:
        """Yield what stands unfinished at the end: some servers leave the last blank line out."""
        rest, self._rest = self._rest, bytearray()
        yield from self._line(rest)
        yield from self._line(b"")

    def _check(self, more: int) -> None:
        if self._size + more > self._most_bytes:
            raise EventTooLargeError

    def _line(self, line: bytes | bytearray) -> Iterator[Event]:
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            yield from self._dispatch()
            return
        field, _, value = line.partition(b":")
        text = value.removeprefix(b" ").decode("utf-8", "replace")
        if field == b"data":
            self._check(len(line))
            self._size += len(line)
            self._data.append(text)
        elif field == b"event":
            self._name = text

    def _dispatch(self) -> Iterator[Event]:
        name, data = self._name, self._data
        self._name, self._data, self._size = "", [], 0
        if data:
            yield Event(name, "\n".join(data))
