"""Where a reader of a run stands: what it gives back to go on from there, in whatever process."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256

from thoughtgear.errors import InvalidInputError

WHOLE = 999_999_999
"""More events than a message has."""

_FORM = re.compile(
    r"(?P<seq>\d{1,9})\.(?P<part>\d{1,9})"
    r"(?:~(?P<iteration>\d{1,9})\.(?P<version>\d{1,9})\.(?P<letters>\d{1,9})\.(?P<digest>[0-9a-f]{8}))?"
    r"(?:!(?P<end>\d{1,9}))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Said:
    """How much of a reply that is not saved yet was told: `letters` of what the attempt that began at
    `version` says in `iteration`. `digest` tells whether another text begins with the same ones."""

    iteration: int
    version: int
    letters: int
    digest: str

    @classmethod
    def of(cls, iteration: int, version: int, text: str) -> Said:
        return cls(iteration, version, len(text), _digest(text))

    def begins(self, text: str) -> bool:
        """Whether `text` begins with what was told."""
        return len(text) >= self.letters and _digest(text[: self.letters]) == self.digest


@dataclass(frozen=True)
class Cursor:
    """`part` events of message `seq` were told, and all before it; beyond it what is `said`. `end` is the
    version of the run whose end was told, 0 where none was."""

    seq: int = -1
    part: int = 0
    said: Said | None = None
    end: int = 0

    @classmethod
    def past(cls, seq: int) -> Cursor:
        """Return the cursor of a reader who knows the messages up to `seq` already (-1: none)."""
        return cls(seq, WHOLE) if seq >= 0 else cls()

    @classmethod
    def read(cls, text: str | None) -> Cursor:
        """Read what `str` made; nothing is the beginning. Raises `InvalidInputError`."""
        if not text:
            return cls()
        found = _FORM.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise InvalidInputError("This is no cursor: give that of the last event, or none.")
        given = found.groupdict()
        numbers = {key: int(value) for key, value in given.items() if value and key != "digest"}
        said = None
        if given["digest"]:
            said = Said(numbers["iteration"], numbers["version"], numbers["letters"], given["digest"])
        return cls(numbers["seq"], numbers["part"], said, numbers.get("end", 0))

    def __str__(self) -> str:
        """Letters that a URL and a header may have."""
        said = self.said
        growing = f"~{said.iteration}.{said.version}.{said.letters}.{said.digest}" if said else ""
        return f"{self.seq}.{self.part}{growing}" + (f"!{self.end}" if self.end else "")


def _digest(text: str) -> str:
    return sha256(text.encode(errors="replace")).hexdigest()[:8]
