"""The ledger: what the fake model and the fake tools did, told by themselves and not by the library."""

from __future__ import annotations

import errno
import json
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

Note = dict[str, Any]


@dataclass(frozen=True)
class Ledger:
    """A file of JSON lines that every process of a proof appends to. It survives whoever writes to it."""

    path: Path
    _held: list[str] = field(default_factory=list)
    _read: list[Note] = field(default_factory=list)

    def note(self, kind: str, **facts: Any) -> None:
        """Append a line. One write to a file opened for appending: lines of processes don't mix. What a disk
        refuses that a fault has filled comes with the next line."""
        self._held.append(json.dumps({"kind": kind, "time": time.time(), "pid": os.getpid(), **facts}) + "\n")
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, "".join(self._held).encode())
            self._held.clear()
        except OSError as exc:
            if exc.errno != errno.EFBIG:
                raise
        finally:
            os.close(descriptor)

    def notes(self, kind: str, **facts: Any) -> list[Note]:
        """The lines of a kind that have these facts, in the order in which they were written."""
        return [note for note in self.all() if note["kind"] == kind and facts.items() <= note.items()]

    def counts(self, kind: str, fact: str) -> Counter[Any]:
        """How many lines of a kind there are for each value of a fact."""
        return Counter(note[fact] for note in self.notes(kind))

    def all(self) -> list[Note]:
        """Every line so far. What was read is not read again."""
        if self.path.exists():
            with self.path.open() as file:
                lines = islice(file, len(self._read), None)
                self._read.extend(json.loads(line) for line in lines if line.endswith("\n"))
        return self._read
