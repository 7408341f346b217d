"""The folder that the demonstration reads: capped, and only what lies in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

MOST_FILES = 2_000
READ_BYTES = 200_000
"""How much of one file is read."""

SKIPPED = frozenset(("node_modules", "__pycache__", "venv", "site-packages", "build", "dist", "target"))
"""Folders of what others made, or a build."""


@dataclass(frozen=True)
class FoundFile:
    """A file and the name that it goes by: relative, and printable whatever the disk holds."""

    name: str
    path: Path
    size: int


class Folder:
    """The regular files under a folder, in order of their names; hidden and generated ones are left out."""

    def __init__(self, root: Path, most: int = MOST_FILES) -> None:
        self.root, self._most = root, most

    @cached_property
    def files(self) -> list[FoundFile]:
        """At most 2,000 files."""
        found: list[FoundFile] = []
        for path in self._walk():
            if len(found) == self._most:
                break
            try:
                size = path.stat().st_size
            except OSError:
                continue
            found.append(FoundFile(_printable(path.relative_to(self.root)), path, size))
        return found

    @property
    def cut(self) -> bool:
        """Whether there may be more files than were looked at."""
        return len(self.files) == self._most

    def find(self, name: str) -> FoundFile:
        """Return the file of that name. Raises `LookupError`: so nothing outside of the folder is read."""
        for file in self.files:
            if file.name == name:
                return file
        raise LookupError(f"There is no file {name!r} in the list of files.")

    def _walk(self) -> Iterator[Path]:
        for where, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if name not in SKIPPED and not name.startswith("."))
            for name in sorted(names):
                path = Path(where, name)
                if not name.startswith(".") and path.is_file() and not path.is_symlink():
                    yield path


def read_text(file: FoundFile) -> str | None:
    """Return the beginning of the file as text; None for binary data and what can't be read."""
    try:
        with file.path.open("rb") as opened:
            data = opened.read(READ_BYTES)
    except OSError:
        return None
    if b"\0" in data:
        return None
    text = data.decode("utf-8", "replace")
    return None if text.count("\ufffd") > len(text) // 20 + 1 else text


def _printable(path: Path) -> str:
    """Escape what can't be shown or encoded: line breaks, control characters, bytes that are no UTF-8."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in path.as_posix()
    )
