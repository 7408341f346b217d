"""A run in the files store: a folder of commits, and pages into which old commits are folded.

    runs/<id>/c000000000065     the 65th commit: header, state, its new messages
    runs/<id>/pages/000000000   the commits 1 to 64, folded: header with each one's id and count, messages
    tombstones/<id>             the run is deleted, whatever the folder holds

Commits are numbered 1, 2, 3, … The number is the version, but for a run that was copied: versions were left
out there, so that a header says which one its commit made.

The commit of number n reads the header of n-1 (absent, or not of the expected version: conflict), writes a
temporary file, fsyncs it, links it to c<n> (there: conflict) and fsyncs the folder. The newest commit file
is never folded. Blocks of 64 commits are fixed, and block k may be folded once commit 64(k+1)+1 is there. So
page k has only one possible content, and *its existence is the mark* `folded_through`: it is durable before a
commit of its block is removed, and it is never removed before the run is.

Interleavings of writers A, B and a folder F (any of them may die between two steps):

- A and B link c<n>: the file system lets one. The other's conflict is final, as it has written nothing.
- A sleeps before its link; B commits n, ..., m; F folds the block of n and removes c<n>; A's link succeeds.
  After its link A looks for the page: it is there, and holds B's commit id for n. A has lost.
- A links c<n> first and sleeps before that look; F folds A's own commit. The page holds A's id. A has won.
- No page after the link: nobody has ever removed c<n>, so the link was the first one. A has won.
- A late c<n> is never taken for a commit: readers believe a commit file only if, *after* reading it, its
  block has no page; else they read the page. Its number is below the newest one, always.
- Two folders: both write the same bytes; one links. A folder that read a late c<n> began before the page was
  there and finds it when it links. Each fsyncs the folders before it removes anything.
- F dies before the link: a temporary file, swept later. After it: leftover commits, ignored, and removed by
  the fold of a later commit. A power failure may bring removed commits back: the same case.
- A reader lists the folder while commits come and go: it may miss the newest, never all that were there
  before it began, unless a whole block was folded meanwhile; it then meets a missing file or a page and
  lists again.
- A deleter writes the tombstone (from here on the run is gone), then moves the folder away. A writer looks
  for the tombstone after its link: found, its commit is void. An expired tombstone still counts until
  someone has, under the lock, first removed what the folder holds and then the tombstone.
"""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from thoughtgear.adapters.disk import Disk, file_name, sync_folder
from thoughtgear.adapters.records import wrong_count
from thoughtgear.errors import ConflictError, StoreError, StoreUnavailableError

BLOCK = 64
FOLD_EVERY = 16
"""Commits between two looks for something to fold: one that a crash left is not left for long."""

_RESCANS = 1000

_NAME = re.compile(r"c[0-9]{12,18}")
_COMMIT = {"id": str, "version": int, "first": int, "count": int}
_PAGE = {"first": int, "commits": list}
"""What the headers of the two kinds of files have."""

Header = dict[str, Any]
Line = tuple[int, bytes]
"""A message as stored, with its seq."""


class RunGoneError(Exception):
    """The run was deleted while it was read."""


def block_of(number: int) -> int:
    return (number - 1) // BLOCK


class RunFolder:
    """One run on disk. All methods block."""

    def __init__(self, disk: Disk, run_id: str) -> None:
        self._at(disk, file_name(run_id))

    @classmethod
    def named(cls, disk: Disk, name: str) -> RunFolder:
        """The run whose folder has that name."""
        folder = cls.__new__(cls)
        folder._at(disk, name)
        return folder

    def _at(self, disk: Disk, name: str) -> None:
        self._disk = disk
        self._names = ("runs", name)
        self.path = disk.folder("runs", name)
        self.pages = disk.folder("runs", name, "pages")
        self.tombstone = disk.folder("tombstones") / name

    def commit(self, version: int, base: int, first: int, state: str, messages: Sequence[str]) -> None:
        """Write a version on top of version `base`; `first` is the seq of its first message. Raises
        `ConflictError` and `StoreError`."""
        commit_id = uuid4().hex
        header = {"id": commit_id, "version": version, "first": first, "count": first + len(messages)}
        number = self._number_after(base, first)
        if number == 1:
            self._disk.make_folder(*self._names)
        chunks = [line.encode() + b"\n" for line in (json.dumps(header), state, *messages)]
        if not self._link(number, chunks) or not self._stands(number, commit_id):
            raise ConflictError
        if number > BLOCK and number % FOLD_EVERY == 1:
            # The commit is durable; a fold that fails is made up for by a later one.
            with suppress(OSError, RunGoneError):
                self.fold_below(number)

    def _number_after(self, base: int, first: int) -> int:
        """Return the number of the commit that comes after version `base`."""
        if self.tombstone.exists():
            raise ConflictError
        number, count = 1, 0
        if base:
            number, header = self._find(base)
            number, count = number + 1, header["count"]
        elif self.newest() is not None:
            raise ConflictError
        if count != first:
            # A writer that is stale as well learns the more important thing.
            if self._commit_path(number).exists():
                raise ConflictError
            raise wrong_count(count, first)
        return number

    def _find(self, version: int) -> tuple[int, Header]:
        """Return the number and the header of the commit that made a version, if it may be the newest one.
        Raises `ConflictError`."""
        found = self._made(version, version) or self._made(max(self._numbers(), default=0), version)
        if found is None:
            raise ConflictError
        return found

    def _made(self, number: int, version: int) -> tuple[int, Header] | None:
        with suppress(FileNotFoundError):
            header = self._commit_header(number)
            if header["version"] == version and not self._page_path(block_of(number)).exists():
                return number, header
        return None

    def _link(self, number: int, chunks: list[bytes]) -> bool:
        try:
            return self._disk.create(self._commit_path(number), chunks)
        except FileNotFoundError:  # the folder was moved away by a deleter
            return False

    def _stands(self, number: int, commit_id: str) -> bool:
        page = self._page_header(block_of(number))
        if page is not None:
            place = (number - 1) % BLOCK
            return bool(page["commits"][place][0] == commit_id)
        return not self.tombstone.exists()

    def newest(self) -> tuple[int, bytes] | None:
        """Return the number of the newest commit and its state, or None where there is no run."""
        for _ in range(_RESCANS):
            numbers = self._numbers()
            if not numbers and not self._any_page():
                return None
            found = self._state_of(max(numbers, default=0))
            if self.tombstone.exists():
                return None
            if found is not None:
                return max(numbers), found
        raise StoreUnavailableError("The run changes faster than it can be read.")

    def _state_of(self, number: int) -> bytes | None:
        try:
            with self._disk.open(self._commit_path(number)) as file:
                file.readline()
                state = file.readline()
        except FileNotFoundError:
            return None
        return None if self._page_path(block_of(number)).exists() else state

    def _numbers(self) -> list[int]:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.path) as entries:
            return [int(entry.name[1:]) for entry in entries if _NAME.fullmatch(entry.name)]
        return []

    def _any_page(self) -> bool:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.pages) as entries:
            return any(True for _ in entries)
        return False

    def history(self, after: int, limit: int | None) -> list[bytes]:
        """Return the messages above `after`: only the files that hold them are read, and a few headers."""
        newest = self.newest()
        if newest is None or limit == 0:
            return []
        last = newest[0]
        with suppress(RunGoneError):
            start = bisect_left(range(1, last + 1), after + 2, key=self._count_at) + 1
            return list(self._messages(start, last, after, limit))
        return []

    def _messages(self, start: int, last: int, after: int, limit: int | None) -> Iterator[bytes]:
        left = limit
        for block in range(block_of(start), block_of(last) + 1):
            for seq, line in self._lines(block, start, last):
                if seq <= after:
                    continue
                if left == 0:
                    return
                left = None if left is None else left - 1
                yield line

    def _lines(self, block: int, start: int, last: int) -> list[Line]:
        lines = self._page_lines(block)
        if lines is not None:
            return lines
        with suppress(FileNotFoundError):
            numbers = range(max(start, block * BLOCK + 1), min(last, (block + 1) * BLOCK) + 1)
            lines = [line for number in numbers for line in self._commit_lines(number)]
        folded = self._page_lines(block)
        lines = lines if folded is None else folded
        if lines is None:
            raise RunGoneError
        return lines

    def _count_at(self, number: int) -> int:
        block, place = block_of(number), (number - 1) % BLOCK
        page = self._page_header(block)
        if page is None:
            count = None
            with suppress(FileNotFoundError):
                count = int(self._commit_header(number)["count"])
            page = self._page_header(block)
            if page is None and count is not None:
                return count
        if page is None:
            raise RunGoneError
        return int(page["commits"][place][1])

    def fold_below(self, number: int) -> None:
        """Fold every complete block below the one of `number`, and remove what is folded."""
        numbers = self._numbers()
        for block in sorted({block_of(each) for each in numbers}):
            if block < block_of(number):
                self._fold(block)
                for each in numbers:
                    if block_of(each) == block:
                        self._commit_path(each).unlink(missing_ok=True)

    def _fold(self, block: int) -> None:
        self._disk.make_folder(*self._names, "pages")
        if self._page_header(block) is None:
            self._write_page(block)
        # Another folder may have linked the page and died: it has to be durable before a commit goes.
        sync_folder(self.pages)

    def _write_page(self, block: int) -> None:
        numbers = range(block * BLOCK + 1, (block + 1) * BLOCK + 1)
        try:
            headers = [self._commit_header(number) for number in numbers]
            commits = [[header["id"], header["count"]] for header in headers]
            page = {"block": block, "first": headers[0]["first"], "commits": commits}
            bodies = (line for number in numbers for _, line in self._commit_lines(number))
            self._disk.create(self._page_path(block), _chunks(page, bodies))
        except FileNotFoundError:
            if self._page_header(block) is None:
                raise RunGoneError from None

    def _commit_path(self, number: int) -> Path:
        return self.path / f"c{number:012d}"

    def _page_path(self, block: int) -> Path:
        return self.pages / f"{block:09d}"

    def _commit_header(self, number: int) -> Header:
        with self._disk.open(self._commit_path(number)) as file:
            return _header(file, _COMMIT)

    def _commit_lines(self, number: int) -> list[Line]:
        with self._disk.open(self._commit_path(number)) as file:
            first = int(_header(file, _COMMIT)["first"])
            file.readline()
            return list(enumerate(file, first))

    def _page_header(self, block: int) -> Header | None:
        with suppress(FileNotFoundError), self._disk.open(self._page_path(block)) as file:
            header = _header(file, _PAGE)
            if len(header["commits"]) != BLOCK:
                raise StoreError("A page of this store is damaged: it has not all its commits.")
            return header
        return None

    def _page_lines(self, block: int) -> list[Line] | None:
        with suppress(FileNotFoundError), self._disk.open(self._page_path(block)) as file:
            return list(enumerate(file, int(_header(file, _PAGE)["first"])))
        return None


def _header(file: IO[bytes], kind: Mapping[str, type]) -> Header:
    try:
        header = json.loads(file.readline())
    except (ValueError, RecursionError):  # the error holds the line
        header = None
    if not _whole(header, kind):
        raise StoreError("A file of this store is damaged: its first line is no header.")
    found: Header = header
    return found


def _whole(header: Any, kind: Mapping[str, type]) -> bool:
    typed = isinstance(header, dict) and all(type(header.get(name)) is kind[name] for name in kind)
    return typed and all(
        isinstance(each, list) and [type(part) for part in each] == [str, int]
        for each in header.get("commits", ())
    )


def _chunks(header: Header, lines: Iterator[bytes]) -> Iterator[bytes]:
    yield json.dumps(header).encode() + b"\n"
    yield from lines
