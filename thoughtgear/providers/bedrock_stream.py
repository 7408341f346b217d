"""The events of one ConverseStream, from the thread that reads them to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

AHEAD = 64
"""Events that the thread reads ahead of the loop."""

_END = object()


class ReadError(Exception):
    """The thread raised `cause`; `answered` once the server had begun to answer."""

    def __init__(self, cause: Exception, *, answered: bool) -> None:
        super().__init__()
        self.cause, self.answered = cause, answered


class EventsFromThread:
    """Asks in a daemon thread and yields the events as they come; leaving it hangs up.

    `where` names the server in errors, `headers` are those of its answer. What the thread raises comes out of
    the iteration as a `ReadError`.
    """

    def __init__(self, client: Callable[[], Any], arguments: Mapping[str, Any]) -> None:
        self._make, self._arguments = client, arguments
        self.where = "bedrock"
        self.host: str | None = None
        self.headers: Mapping[str, str] = {}
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._room = threading.Semaphore(AHEAD)
        self._left = threading.Event()
        self._raw: Any = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="thoughtgear-bedrock", daemon=True).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._room.release()
        # To close it would wait for the thread that reads from it; to shut it down ends that read.
        hang_up = getattr(self._raw, "shutdown", None)
        if hang_up is not None:
            with contextlib.suppress(Exception):
                hang_up()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        item = await self._queue.get()
        self._room.release()
        if item is _END:
            raise StopAsyncIteration
        if isinstance(item, Exception):
            raise ReadError(item, answered=self._raw is not None)
        return item

    def _read(self) -> None:
        """Runs in the thread."""
        try:
            client = self._make()
            self.host = urlsplit(client.meta.endpoint_url).hostname
            self.where = f"bedrock at {self.host}"
            response = client.converse_stream(**self._arguments)
            self.headers = response["ResponseMetadata"].get("HTTPHeaders", {})
            with contextlib.closing(response["stream"]) as stream:
                self._raw = getattr(stream, "_raw_stream", None)
                if self._left.is_set():  # too early to be hung up on
                    return
                for event in stream:
                    if not self._put(event):
                        return
            self._put(_END)
        except Exception as exc:
            self._put(exc)

    def _put(self, item: Any) -> bool:
        """Hand an item over; False when nobody waits for it any more."""
        self._room.acquire()
        if self._left.is_set():
            return False
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
        except RuntimeError:  # the loop was closed
            return False
        return True
