"""A store in a folder, for the processes of one host. How a commit works: `files_run`."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

from thoughtgear.adapters.disk import Disk, file_name, key_of, names_in, sync_folder
from thoughtgear.adapters.files_documents import Documents
from thoughtgear.adapters.files_run import RunFolder
from thoughtgear.adapters.layout import LAYOUT
from thoughtgear.adapters.options import first, folder, switch
from thoughtgear.adapters.records import (
    ALL_RUNS,
    TOMBSTONE_SECONDS,
    Position,
    check_commit,
    check_key,
    check_place,
    check_range,
    check_span,
    check_value,
    decode_listed,
    decode_message,
    decode_state,
    encode,
    leave_out,
    page_of,
    read_cursor,
)
from thoughtgear.adapters.threads import Threads
from thoughtgear.errors import ConfigurationError, RunNotFoundError, StoreError, StoreUnavailableError
from thoughtgear.locations import Location, on_this_host
from thoughtgear.models import Message, RunState
from thoughtgear.protocols import Collection, Document, Reach, RunFilter, RunPage, SchemaUpgrade

T = TypeVar("T")
_STORE = "files"
_THREADS = 4
_RIGHT_URL = "Use files:///absolute/folder."


_log = logging.getLogger("thoughtgear")


def _until(disk: Disk, tombstone: Path) -> float:
    """Until when a tombstone stands: where it is damaged, a day from when it was written."""
    with disk.open(tombstone) as file:
        try:
            return int(file.read(20))
        except ValueError:
            return os.fstat(file.fileno()).st_mtime + TOMBSTONE_SECONDS


class FilesAdapter:
    """Keeps runs and documents as files. For file systems with hard links, `flock` and a durable `fsync`:
    a local disk, not a network share."""

    reach: Reach = "host"

    def __init__(self, root: Path, *, create: bool = True) -> None:
        self._disk = Disk(root)
        self._create = create
        self._documents = Documents(self._disk)
        self._threads = Threads("thoughtgear-files", _THREADS)
        self._ready = self._swept = False

    @classmethod
    def from_url(cls, url: str) -> FilesAdapter:
        """Make a store from `files:///folder?option=value`; `%20` is a space, as in any URL."""
        scheme, separator, rest = url.partition("://")
        path, _, query = rest.partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        if scheme != "files" or not separator or not path.startswith("/") or "path" in options:
            raise ConfigurationError(f"This store URL is not one of a folder. {_RIGHT_URL}")
        return cls.from_dict({"path": unquote(path, errors="surrogateescape"), **options})

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> FilesAdapter:
        """Make a store from `{"path": …}`, and `create` beside it: whether to make it where there is none."""
        unknown = set(settings) - {"path", "create"}
        if unknown:
            raise ConfigurationError(f"A files store has no setting {first(unknown)}; it has path, create.")
        path = folder(settings, f"A files store needs the path of a folder. {_RIGHT_URL}")
        return cls(path.resolve(), create=switch(settings, "create", True))

    @property
    def location(self) -> Location:
        """Where the folder is."""
        return on_this_host("files", self._disk.root)

    async def load_run(self, run_id: str) -> RunState:
        check_key(run_id)
        found = await self._run(lambda: RunFolder(self._disk, run_id).newest())
        if found is None:
            raise RunNotFoundError(f"There is no run {run_id} in this store.")
        return decode_state(found[1])

    async def save_run(
        self, state: RunState, messages: Sequence[Message], *, expected: int | None = None
    ) -> None:
        base, first = check_commit(state, messages, expected)
        body, bodies = encode(state), [encode(message) for message in messages]
        run_id, version = state.run_id, state.version

        def commit() -> None:
            if not base:
                self._clear(file_name(run_id))
            RunFolder(self._disk, run_id).commit(version, base, first, body, bodies)

        await self._run(commit, writes=True)

    async def list_runs(
        self, where: RunFilter = ALL_RUNS, *, after: str | None = None, limit: int = 100
    ) -> RunPage:
        start = read_cursor(_STORE, after, limit)
        return await self._run(lambda: self._list(where, start, limit))

    def _list(self, where: RunFilter, start: Position | None, limit: int) -> RunPage:
        names = names_in(self._disk.folder("runs"))
        damaged: dict[str, str] = {}
        states = (self._listed(name, damaged) for name in names)
        chosen = (state for state in states if state and where.matches(state))
        return page_of(chosen, start, limit, _STORE, damaged)

    def _listed(self, name: str, damaged: dict[str, str]) -> RunState | None:
        run_id = key_of(name) or name
        try:
            found = RunFolder.named(self._disk, name).newest()
        except StoreUnavailableError:
            raise
        except StoreError as exc:  # one run does not hide the others
            leave_out(run_id, exc, damaged)
            return None
        return None if found is None else decode_listed(found[1], run_id, damaged)

    async def delete_run(self, run_id: str) -> None:
        check_key(run_id)
        await self._run(lambda: self._delete(run_id), writes=True)

    def _delete(self, run_id: str) -> None:
        run = RunFolder(self._disk, run_id)
        with self._disk.lock("deletes"):
            if not run.tombstone.exists():
                if run.newest() is None:
                    return
                until = int(time.time()) + TOMBSTONE_SECONDS
                self._disk.replace(run.tombstone, [b"%d\n" % until])
            self._disk.discard(run.path)
        self._documents.remove_below("files", run_id)

    def _clear(self, name: str) -> None:
        """Remove an expired tombstone, and before it what a deleter may have left of the run."""
        run = RunFolder.named(self._disk, name)
        if not run.tombstone.exists():
            return
        with self._disk.lock("deletes"), suppress(FileNotFoundError):
            if _until(self._disk, run.tombstone) <= time.time():
                self._disk.discard(run.path)
                run.tombstone.unlink()
                sync_folder(run.tombstone.parent)

    def _sweep(self, name: str) -> None:
        """Clear an expired tombstone, and before it the files of the run. Where some are younger than the
        deletion, a new run of that id may be about to begin with them: then both stay."""
        tombstone = RunFolder.named(self._disk, name).tombstone
        with suppress(FileNotFoundError):
            until = _until(self._disk, tombstone)
            deleted = until - TOMBSTONE_SECONDS + 1  # written in whole seconds
            if until <= time.time() and self._documents.remove_older("files", name, deleted):
                self._clear(name)

    async def get_history(self, run_id: str, after: int = -1, limit: int | None = None) -> list[Message]:
        above, count = check_span(run_id, after, limit)
        lines = await self._run(lambda: RunFolder(self._disk, run_id).history(above, count))
        return [decode_message(line) for line in lines]

    async def get_document(self, collection: Collection, key: str) -> Document | None:
        check_place(collection, key)
        return await self._run(lambda: self._documents.get(collection, key))

    async def put_document(
        self, collection: Collection, key: str, value: bytes | None, *, tag: str | None
    ) -> str | None:
        check_place(collection, key)
        data = check_value(value, tag)
        return await self._run(lambda: self._documents.put(collection, key, data, tag), writes=True)

    async def list_documents(
        self, collection: Collection, prefix: str = "", *, after: str = "", limit: int = 1000
    ) -> list[str]:
        limit = check_range(collection, prefix, after, limit)
        return await self._run(lambda: self._documents.keys(collection, prefix, after, limit))

    async def upgrade(self) -> SchemaUpgrade:
        """Make the store where there is none. Raises `SchemaVersionError` for one of another version."""
        return await self._threads.run(lambda: self._translating(self._make))

    def _make(self) -> SchemaUpgrade:
        before = LAYOUT if self._disk.made else None
        self._disk.prepare(create=True)
        self._open_to_write()
        return SchemaUpgrade(before, LAYOUT)

    async def aclose(self) -> None:
        """End the threads; closing twice is fine."""
        self._threads.close()

    async def _run(self, call: Callable[[], T], *, writes: bool = False) -> T:
        return await self._threads.run(lambda: self._translating(lambda: self._prepared(call, writes)))

    def _translating(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except OSError as exc:
            raise StoreUnavailableError(f"The folder {self._disk.root} failed: {exc.strerror}.") from exc

    def _prepared(self, call: Callable[[], T], writes: bool) -> T:
        """Where the store may not be made, nothing is swept before the first write: who only looks leaves the
        folder as it is."""
        if not self._ready:
            self._disk.prepare(create=self._create)
            self._ready = True
        if not self._swept and (writes or self._create):
            self._open_to_write()
        return call()

    def _open_to_write(self) -> None:
        self._disk.open_to_write()
        for name in names_in(self._disk.folder("tombstones")):
            self._sweep(name)
        self._swept = True
