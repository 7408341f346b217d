"""What a store costs beside time: its requests and their bytes, counted from outside of its code.

A server's store speaks through a proxy that counts what goes over the wire. SQLite says itself which
statements it runs; of the files store the files are counted that it opens and makes.
"""

from __future__ import annotations

import asyncio
import io
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from thoughtgear.adapters.files import FilesAdapter
from thoughtgear.adapters.sql import SqlAdapter
from thoughtgear.adapters.sql_statement import DRIVER
from thoughtgear.protocols import OrmAdapter


@dataclass
class Reading:
    """Requests, and bytes in both directions."""

    requests: int = 0
    bytes: int = 0

    def since(self, before: Reading) -> Reading:
        return Reading(self.requests - before.requests, self.bytes - before.bytes)


class Meter(Protocol):
    """Counts for one kind of store. `watch` begins with a store that was just opened."""

    unit: str

    async def watch(self, store: OrmAdapter) -> None: ...

    def read(self) -> Reading: ...


class NoMeter:
    """For a store that asks nobody."""

    unit = "none"

    async def watch(self, store: OrmAdapter) -> None:
        pass

    def read(self) -> Reading:
        return Reading()


class StatementMeter:
    """Counts SQLite's statements, the bytes of their text with all values, and those of the rows found."""

    unit = "statements"

    def __init__(self) -> None:
        self._count = Reading()

    async def watch(self, store: OrmAdapter) -> None:
        assert isinstance(store, SqlAdapter)
        await store._database.read(lambda connection: self._listen(connection.info[DRIVER]))

    def read(self) -> Reading:
        return Reading(self._count.requests, self._count.bytes)

    def _listen(self, connection: sqlite3.Connection) -> None:
        connection.set_trace_callback(self._asked)
        connection.row_factory = self._answered

    def _asked(self, statement: str) -> None:
        self._count.requests += 1
        self._count.bytes += len(statement.encode())

    def _answered(self, _cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> tuple[Any, ...]:
        self._count.bytes += sum(len(str(value)) for value in row)
        return row


class FileMeter:
    """Counts files that are read and made, and the bytes in them."""

    unit = "files"

    def __init__(self) -> None:
        self._count = Reading()

    async def watch(self, store: OrmAdapter) -> None:
        assert isinstance(store, FilesAdapter)
        disk = store._disk
        really_open, really_write = disk.open, disk._written

        def opened(path: Path) -> IO[bytes]:
            with really_open(path) as file:
                self._count.requests += 1
                return io.BufferedReader(_CountedFile(os.dup(file.fileno()), self._count))

        @contextmanager
        def written(chunks: Iterable[bytes]) -> Iterator[Path]:
            with really_write(chunks) as path:
                self._count.requests += 1
                self._count.bytes += path.stat().st_size
                yield path

        vars(disk).update(open=opened, _written=written)

    def read(self) -> Reading:
        return Reading(self._count.requests, self._count.bytes)


class _CountedFile(io.FileIO):
    """A file that adds up what is read of it."""

    def __init__(self, descriptor: int, count: Reading) -> None:
        super().__init__(descriptor)
        self._count = count

    def readinto(self, buffer: Any) -> int:
        size = super().readinto(buffer) or 0
        self._count.bytes += size
        return size

    def readall(self) -> bytes:
        data = super().readall() or b""
        self._count.bytes += len(data)
        return data


class WireMeter:
    """A proxy before 127.0.0.1:port, in a thread of its own. A request is whatever a client sends on a
    connection until the server answers there."""

    unit = "requests"

    def __init__(self, port: int) -> None:
        self._target = port
        self._count = Reading()
        self._loop = asyncio.new_event_loop()
        self._clients: dict[asyncio.Task[Any], list[asyncio.StreamWriter]] = {}
        self.port = 0

    async def watch(self, store: OrmAdapter) -> None:
        pass

    def read(self) -> Reading:
        return Reading(self._count.requests, self._count.bytes)

    def __enter__(self) -> WireMeter:
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def _serve(self, started: threading.Event) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main(started))

    async def _main(self, started: threading.Event) -> None:
        self._ended = asyncio.Event()
        server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._ended.wait()
        server.close()
        for ends in self._clients.values():
            for end in ends:
                end.close()
        await asyncio.gather(*self._clients)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up, down = await asyncio.open_connection("127.0.0.1", self._target)
        task, answered = asyncio.current_task(), [True]
        assert task is not None
        self._clients[task] = [down, writer]
        ways = self._pump(reader, down, answered, asks=True), self._pump(up, writer, answered, asks=False)
        await asyncio.gather(*ways)
        del self._clients[task]

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, answered: list[bool], *, asks: bool
    ) -> None:
        with suppress(OSError):
            while data := await source.read(2**16):
                self._count.bytes += len(data)
                self._count.requests += asks and answered[0]
                answered[0] = not asks
                target.write(data)
                await target.drain()
        target.close()  # the other way ends by that
