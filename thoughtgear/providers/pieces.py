"""What every provider's replies are read with: values that may be of any type, JSON that comes in pieces."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_TOKENS = 2**53 - 1
"""What a count can be; a larger number, which not every store and language can hold, is cut to it."""

_LONE = re.compile(r"[\ud800-\udfff]")
_MARKS = re.compile(r'\\(?:.|$)|["{}]', re.DOTALL)


@dataclass
class JsonObject:
    """The text of a JSON object, in pieces. It is followed as it comes: to parse it again for every piece
    would take the square of its length."""

    pieces: list[str] = field(default_factory=list)
    whole: bool = False
    _depth: int = 0
    _quoted: bool = False
    _escape: str = ""

    def __bool__(self) -> bool:
        return bool(self.pieces)

    def add(self, piece: str) -> None:
        """Take the next piece. `whole` is true from the closing brace of the object to the next brace."""
        if piece:
            self.pieces.append(piece)
            text, self._escape = self._escape + piece, ""
            for mark in _MARKS.findall(text):
                self._mark(mark)

    def _mark(self, mark: str) -> None:
        if mark[0] == "\\":
            self._escape = "\\" if mark == "\\" else ""
        elif mark == '"':
            self._quoted = not self._quoted
        elif not self._quoted:
            self._depth += 1 if mark == "{" else -1
            self.whole = mark == "}" and self._depth == 0

    def text(self) -> str:
        return "".join(self.pieces)


def count(counts: Any, name: str) -> int:
    """Return a number of tokens; what the server leaves out, or is none, is 0."""
    value = counts.get(name) if isinstance(counts, Mapping) else None
    if not isinstance(value, int | float) or not value > 0:
        return 0
    return int(min(value, MOST_TOKENS))


def text_of(value: Any) -> str:
    """Return a text; nothing for what is none."""
    return value if isinstance(value, str) else ""


def json_text(value: Any) -> str:
    """Return the JSON of what was read from JSON. A lone surrogate stays the escape that it was."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() or _LONE.search(text) is None else json.dumps(value)


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping; an empty one for what is none."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the mappings of a list; nothing for what is none."""
    return (item for item in value if isinstance(item, Mapping)) if isinstance(value, list) else iter(())
