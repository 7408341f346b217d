"""What a copy did."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    same in both stores; `compared` says whether all of it was looked at. `changing` are the runs and
    documents that changed in the source as often as they were copied: copy again. `refused` says by run id,
    or by collection and key, why something was left as it is in the target.
    """

    copied: Count = field(default_factory=Count)
    equal: Count = field(default_factory=Count)
    changing: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    compared: bool = False

    @property
    def complete(self) -> bool | None:
        """Whether the target has all that the source has. None: nobody knows, since nothing was compared."""
        if self.changing or self.refused:
            return False
        return True if self.compared else None
