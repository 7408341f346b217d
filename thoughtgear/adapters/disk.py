"""Durable steps on a POSIX file system: create once, replace, lock; private modes, no symlink followed."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.parse import unquote_to_bytes
from uuid import uuid4

from thoughtgear.adapters.layout import LAYOUT, check_layout, no_store
from thoughtgear.errors import ConfigurationError, StoreError, StoreUnavailableError

LOCK_SECONDS = 30.0
LOCK_FILES = 64
STALE_SECONDS = 3600.0
MAX_NAME = 180
FOLDERS = ("tmp", "trash", "locks", "runs", "tombstones", "documents")
_ESCAPED = re.compile(rb"[^a-z0-9_.-]|^\.")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def file_name(key: str) -> str:
    """Return a file name that stands for the key alone, also where capitals do not count. A long one is a
    hash, from which `key_of` gets nothing back."""
    raw = key.encode()
    name = _ESCAPED.sub(lambda match: b"=%02x" % match[0][0], raw).decode() or "="
    return name if len(name) <= MAX_NAME else f"=h{hashlib.sha256(raw).hexdigest()}"


def key_of(name: str) -> str | None:
    """Return the key of a file name; None for a hashed one, and for a file that is not of this store."""
    if name == "=":
        return ""
    with suppress(ValueError):  # not UTF-8
        key = unquote_to_bytes(name.replace("=", "%")).decode()
        return key if file_name(key) == name else None
    return None


class Disk:
    """The root folder. Folders are made with mode 0700, files with 0600. What is being written stands in
    `tmp` and what is being deleted in `trash`; both are emptied of what a crash left."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def made(self) -> bool:
        """Whether a store is there."""
        return (self.root / "layout").exists()

    def prepare(self, *, create: bool = True) -> None:
        """Look whether the store is there, which changes nothing, or make it where it may be made. Raises
        `ConfigurationError` and `SchemaVersionError`."""
        if create:
            self._make_root()
            self.make_folder("tmp")
            self.create(self.root / "layout", [b"%d\n" % LAYOUT])
        elif not self.made:
            what = f"{self.root} is no store" if self.root.exists() else f"There is no store {self.root}"
            raise no_store(what)
        self._check_layout()

    def open_to_write(self) -> None:
        """Make the folders, and remove what a crash has left of a write or a deletion."""
        for name in FOLDERS:
            self.make_folder(name)
        self._sweep()

    def _make_root(self) -> None:
        absent = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        with suppress(FileExistsError, NotADirectoryError):
            for folder in reversed(absent):  # one by one: `parents` would leave the others to the umask
                folder.mkdir(mode=0o700, exist_ok=True)
                sync_folder(folder.parent)
        if not self.root.is_dir():
            raise ConfigurationError(f"{self.root} is not a folder.")

    def _check_layout(self) -> None:
        with self.open(self.root / "layout") as file:
            found = file.read(20).decode("ascii", "replace").strip()
        check_layout(found, str(self.root), "folder")

    def _sweep(self) -> None:
        for entry in os.scandir(self.folder("tmp")):
            with suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime < time.time() - STALE_SECONDS:
                    Path(entry.path).unlink()
        for entry in os.scandir(self.folder("trash")):
            shutil.rmtree(entry.path, ignore_errors=True)

    def folder(self, *names: str) -> Path:
        """Return a folder below the root. Raises `StoreError` where a symlink stands in its way."""
        path = self.root
        for name in names:
            path = path / name
            try:
                if stat.S_ISLNK(path.lstat().st_mode):
                    raise StoreError(f"{path} is a symlink: this store follows none.")
            except (FileNotFoundError, NotADirectoryError):
                continue
        return path

    def make_folder(self, *names: str) -> Path:
        """Make a folder, durably."""
        path = self.folder(*names)
        for depth in range(1, len(names) + 1):
            step = self.root.joinpath(*names[:depth])
            fresh = depth == len(names)  # another process may have made it and not synced it yet
            with suppress(FileExistsError):
                step.mkdir(mode=0o700)
                fresh = True
            if fresh:
                sync_folder(step.parent)
        return path

    def open(self, path: Path) -> IO[bytes]:
        """Open a file to read it. Raises `FileNotFoundError`, and `StoreError` for a symlink."""
        try:
            return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
        except OSError as exc:
            if exc.errno == errno.ELOOP:
                raise StoreError(f"{path} is a symlink: this store follows none.") from exc
            raise

    def create(self, path: Path, chunks: Iterable[bytes]) -> bool:
        """Create a file, whole and durable, or return False where there is one."""
        with self._written(chunks) as temporary:
            try:
                os.link(temporary, path, follow_symlinks=False)
            except FileExistsError:
                return False
            sync_folder(path.parent)
            return True

    def replace(self, path: Path, chunks: Iterable[bytes]) -> None:
        """Create a file or put it in the place of the one there: readers see the old or the new."""
        with self._written(chunks) as temporary:
            temporary.rename(path)
            sync_folder(path.parent)

    @contextmanager
    def _written(self, chunks: Iterable[bytes]) -> Iterator[Path]:
        path = self.folder("tmp") / uuid4().hex
        try:
            with os.fdopen(os.open(path, _NEW, 0o600), "wb") as file:
                file.writelines(chunks)
                file.flush()
                os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)

    def discard(self, path: Path) -> None:
        """Make a folder vanish in one step, then free it. Absent: nothing happens."""
        aside = self.folder("trash") / uuid4().hex
        try:
            path.rename(aside)
        except FileNotFoundError:
            return
        sync_folder(path.parent)
        shutil.rmtree(aside, ignore_errors=True)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Exclude other threads and processes; a dead process holds nothing. Raises
        `StoreUnavailableError` after half a minute."""
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % LOCK_FILES
        path = self.folder("locks") / f"{number}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _acquire(fd, path)
            yield
        finally:
            os.close(fd)


def _acquire(fd: int, path: Path) -> None:
    until, pause = time.monotonic() + LOCK_SECONDS, 0.0005
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as exc:
            if time.monotonic() > until:
                raise StoreUnavailableError(f"Another process holds {path} for too long.") from exc
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder, less the symlinks; none where there is no such folder."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        return [entry.name for entry in entries if not entry.is_symlink()]
    return []


def sync_folder(path: Path) -> None:
    """Make what was created in, renamed into or removed from the folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
