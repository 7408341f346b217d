"""Where a reader of a run stands: what it gives back to go on from there, in whatever process."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256

from thoughtgear.errors import InvalidInputError

WHOLE = 999_999_999
"""More events than a message has."""

_FORM = re.compile(
    r"(?P<run>[0-9a-f]{8})-"
    r"(?P<seq>\d{1,9})\.(?P<part>\d{1,9})"
    r"(?:~(?P<iteration>\d{1,9})\.(?P<version>\d{1,9})\.(?P<letters>\d{1,9})\.(?P<digest>[0-9a-f]{8}))?"
    r"(?:!(?P<end>\d{1,9}))?",
    re.ASCII,
)

_HASHES = {"run", "digest"}


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
    version of the run whose end was told, 0 where none was. `run` tells one run's cursors from another's."""

    run: str
    seq: int = -1
    part: int = 0
    said: Said | None = None
    end: int = 0

    @classmethod
    def first(cls, run_id: str) -> Cursor:
        """Return the cursor of a reader who knows nothing of a run."""
        return cls(_digest(run_id))

    @classmethod
    def past(cls, run_id: str, seq: int) -> Cursor:
        """Return the cursor of a reader who knows the messages up to `seq` already (-1: none)."""
        return cls(_digest(run_id), seq, WHOLE) if seq >= 0 else cls.first(run_id)

    @classmethod
    def read(cls, text: str | None, run_id: str) -> Cursor:
        """Read what `str` made; nothing is the beginning. Raises `InvalidInputError`, also for a cursor of
        another run."""
        if not text:
            return cls.first(run_id)
        found = _FORM.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise InvalidInputError("This is no cursor: give that of the last event, or none.")
        if found["run"] != _digest(run_id):
            raise InvalidInputError(
                f"This cursor is of another run than {run_id}: give one of its own, or none."
            )
        given = found.groupdict()
        numbers = {key: int(value) for key, value in given.items() if value and key not in _HASHES}
        said = None
        if given["digest"]:
            said = Said(numbers["iteration"], numbers["version"], numbers["letters"], given["digest"])
        return cls(given["run"], numbers["seq"], numbers["part"], said, numbers.get("end", 0))

    def __str__(self) -> str:
        """Letters that a URL and a header may have."""
        said = self.said
        growing = f"~{said.iteration}.{said.version}.{said.letters}.{said.digest}" if said else ""
        return f"{self.run}-{self.seq}.{self.part}{growing}" + (f"!{self.end}" if self.end else "")


def _digest(text: str) -> str:
    return sha256(text.encode(errors="replace")).hexdigest()[:8]
