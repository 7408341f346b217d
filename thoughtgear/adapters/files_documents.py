"""Documents in the files store: one file each, replaced as a whole under a lock.

documents/<collection>/<first part of the key>/<key>     a line with the key and the tag, then the bytes

The first part is what stands before the first slash, so that the documents of a run share a folder.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from thoughtgear.adapters.disk import Disk, file_name, key_of, names_in, sync_folder
from thoughtgear.errors import ConflictError, StoreError
from thoughtgear.protocols import Document

_log = logging.getLogger("thoughtgear")


class Documents:
    """All collections. All methods block."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def get(self, collection: str, key: str) -> Document | None:
        """Return a document, or None."""
        return self._read(self._disk.folder(*_place(collection, key)) / file_name(key))

    def put(self, collection: str, key: str, value: bytes | None, tag: str | None) -> str | None:
        """Compare the tag and write, or raise `ConflictError`."""
        names = _place(collection, key)
        with self._disk.lock("/".join(names)):
            path = self._disk.folder(*names) / file_name(key)
            current = self._read(path)
            if (current.tag if current else None) != tag:
                raise ConflictError
            if value is None:
                self._remove(path)
                return None
            fresh = uuid4().hex
            if not path.parent.exists():
                self._disk.make_folder(*names)
            head = json.dumps({"key": key, "tag": fresh}).encode() + b"\n"
            self._disk.replace(path, [head, value])
            return fresh

    def _remove(self, path: Path) -> None:
        if path.exists():
            path.unlink()
            sync_folder(path.parent)

    def remove_below(self, collection: str, head: str) -> None:
        """Remove every document whose key begins with `head` and a slash."""
        names = _place(collection, f"{head}/")
        with self._disk.lock("/".join(names)):
            self._disk.discard(self._disk.folder(*names))

    def remove_older(self, collection: str, name: str, moment: float) -> bool:
        """Remove the folder of that name, unless it holds a document that was written after the moment.
        Returns whether it is gone."""
        names = ("documents", file_name(collection), name)
        with self._disk.lock("/".join(names)):
            path = self._disk.folder(*names)
            if any((path / each).lstat().st_mtime > moment for each in names_in(path)):
                return False
            self._disk.discard(path)
            return True

    def keys(self, collection: str, prefix: str, after: str, limit: int) -> list[str]:
        """Return keys in order. Only the folders that the prefix allows are read."""
        head, slash, _ = prefix.partition("/")
        base = "documents", file_name(collection)
        names = [file_name(head)] if slash else names_in(self._disk.folder(*base))
        keys = [key for name in names for key in self._keys_in(self._disk.folder(*base, name))]
        return sorted(key for key in keys if key.startswith(prefix) and key > after)[: max(limit, 0)]

    def _keys_in(self, folder: Path) -> list[str]:
        keys = [key_of(name) or self._key_inside(folder / name) for name in names_in(folder)]
        return [key for key in keys if key is not None]

    def _key_inside(self, path: Path) -> str | None:
        try:
            found = self._read(path)
        except StoreError as exc:  # one document does not hide the others
            _log.warning("a list leaves out %s: %s", path.name, exc)
            return None
        return found.key if found else None

    def _read(self, path: Path) -> Document | None:
        with suppress(FileNotFoundError), self._disk.open(path) as file:
            key, tag = _head(file.readline())
            return Document(key, file.read(), tag)
        return None


def _head(line: bytes) -> tuple[str, str]:
    """Return the key and the tag of a document. Raises `StoreError`."""
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        head = json.loads(line)
        key, tag = head["key"], head["tag"]
        if isinstance(key, str) and isinstance(tag, str):
            return key, tag
    raise StoreError("A document of this store is damaged: its first line is no header.")


def _place(collection: str, key: str) -> tuple[str, str, str]:
    head, slash, _ = key.partition("/")
    return "documents", file_name(collection), file_name(head if slash else "")
