"""What a copy did, and who watches it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass
class Count:
    """Runs, their messages, documents, and the bytes of documents."""

    runs: int = 0
    messages: int = 0
    documents: int = 0
    document_bytes: int = 0


@dataclass
class CopyReport:
    """What a copy did.

    `copied` is what this call wrote. `equal` is what was compared at the end, byte for byte, and found the
    same in both stores; nothing is compared where that was not wanted. `changing` are the runs and documents
    that changed in the source as often as they were copied: copy again. `refused` says by run id, or by
    collection and key, why something was left as it is in the target.
    """

    copied: Count = field(default_factory=Count)
    equal: Count = field(default_factory=Count)
    changing: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether the target has all that the source has, as far as this call looked."""
        return not (self.changing or self.refused)


class Watcher(Protocol):
    """Who is told how far a copy is."""

    def begin(self, stage: str, total: int | None) -> None:
        """A stage begins: its name, and how many steps it takes where that is known."""
        ...

    def step(self, count: int = 1) -> None:
        """Steps of this stage are done."""
        ...


class Unwatched:
    """Nobody watches."""

    def begin(self, stage: str, total: int | None) -> None:
        """Nothing."""

    def step(self, count: int = 1) -> None:
        """Nothing."""
