"""A TCP proxy before a server of MongoDB's protocol: it loses or withholds replies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable


class Proxy:
    """Forwards between clients and 127.0.0.1:port, in a thread of its own.

    `lose` names commands whose next reply gets lost: the server has done its work, and the connection to the
    client is cut. `lost` are the names of those that were. Between the two, `then` is called.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = threading.Event()
        self._open.set()
        self.port = 0
        self.lose: list[bytes] = []
        self.lost: list[bytes] = []
        self.then: Callable[[], None] | None = None
        self.withheld = threading.Event()

    def __enter__(self) -> Proxy:
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,))
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def withhold(self, command: bytes) -> None:
        """From the next reply to this command on, let nothing through to that client until `release`."""
        self._held = command
        self._open.clear()

    def release(self) -> None:
        self._open.set()

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
        for task in self._tasks:
            task.cancel()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up, down = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        asked: list[bytes] = [b""]
        tasks = [
            asyncio.create_task(self._requests(reader, down, asked)),
            asyncio.create_task(self._replies(up, writer, asked)),
        ]
        self._tasks.update(tasks)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for end in (down, writer):
            end.close()

    async def _requests(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, asked: list[bytes]
    ) -> None:
        while data := await _message(reader):
            asked[0] = data
            server.write(data)

    async def _replies(
        self, server: asyncio.StreamReader, client: asyncio.StreamWriter, asked: list[bytes]
    ) -> None:
        while data := await _message(server):
            found = [name for name in self.lose if name in asked[0]]
            if found:
                self.lose.remove(found[0])
                if self.then:
                    await asyncio.to_thread(self.then)
                self.lost.append(found[0])
                return
            if not self._open.is_set() and self._held in asked[0]:
                self.withheld.set()
                await asyncio.to_thread(self._open.wait, 30)
            client.write(data)


async def _message(reader: asyncio.StreamReader) -> bytes:
    """Return one message of the wire protocol: its first four bytes are its length. Empty at the end."""
    try:
        head = await reader.readexactly(4)
        return head + await reader.readexactly(int.from_bytes(head, "little") - 4)
    except (OSError, asyncio.IncompleteReadError):
        return b""
