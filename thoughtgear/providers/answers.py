"""One answer on its way from a server into a reply."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import httpx

from thoughtgear.errors import ModelRejectedError, ModelUnavailableError
from thoughtgear.models import Usage
from thoughtgear.protocols import ModelReply, OnText
from thoughtgear.providers.failures import Failure, http_error, request_id, stream_error
from thoughtgear.providers.sse import Event, EventReader, EventTooLargeError

ERROR_BYTES = 64 * 1024
EVENT_BYTES = 8 * 1024 * 1024
"""Of one event, and of an answer that is not streamed: it is parsed as a whole, which takes several times
that."""
MOST_CALLS = 1000
"""Calls that are read of one reply; one more is kept, to say that it was too many."""
DONE = "[DONE]"
DRAIN_SECONDS = 0.25


class Builder(Protocol):
    """Puts a reply together from what comes.

    `kind` is what an answer is called, `limit` the option that bounds one. `started` once something was of a
    reply, `finished` once the server said why it stopped: then the reply is whole. `over` once nothing more
    is to come. `parts` counts what it is made of. `usage` and `model` are what is known so far.
    """

    kind: ClassVar[str]
    limit: ClassVar[str]

    @property
    def usage(self) -> Usage: ...
    @property
    def model(self) -> str | None: ...
    @property
    def started(self) -> bool: ...
    @property
    def finished(self) -> bool: ...
    @property
    def over(self) -> bool: ...
    @property
    def parts(self) -> int: ...

    def add(self, chunk: Mapping[str, Any]) -> str:
        """Take the object of an event; return the text that it adds."""
        ...

    def add_whole(self, answer: Any) -> str:
        """Take the answer of a server that doesn't stream; return its text."""
        ...

    def check_end(self, where: str, request_id: str | None) -> None:
        """Raise a `ModelError` for a reply that has come to its end and is no answer."""
        ...

    def build(self, model: str, request_id: str | None) -> ModelReply:
        """Return the reply. `model` is the name that was asked for, `request_id` the one of the headers,
        which is better than one in the answer."""
        ...


def paid_for(usage: Usage, model: str | None, asked: str, host: str | None) -> ModelReply | None:
    """What the server had counted of a reply that is none, if it had."""
    if not usage.total_tokens:
        return None
    return ModelReply(usage=usage, model=model or asked, asked=asked, host=host)


@dataclass(frozen=True)
class Answer:
    """One answer on its way from the server into a builder."""

    where: str
    response: httpx.Response
    builder: Builder
    on_text: OnText
    max_bytes: int

    async def receive(self) -> None:
        """Read to the end. Raises a `ModelError` unless the reply is whole."""
        if not self.response.is_success:
            failure = Failure.parse(await _error_body(self.response)) or Failure()
            raise http_error(self.where, self.response.status_code, self.response.headers, failure)
        kind = self.response.headers.get("content-type", "")
        await (self._whole() if "json" in kind else self._stream())
        if not self.builder.started and "event-stream" not in kind:
            status = self.response.status_code
            raise self._rejected(f"the answer is no {self.builder.kind}; check base_url", status)
        if not self.builder.finished:
            raise self._lost("the reply was cut short", begun=self.builder.started)

    def check_end(self) -> None:
        """Raise a `ModelError` for a reply that has come to its end and is no answer."""
        self.builder.check_end(self.where, request_id(self.response.headers))

    async def _stream(self) -> None:
        reader, chunks = EventReader(EVENT_BYTES), self._chunks(self.max_bytes)
        try:
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    for event in reader.feed(chunk):
                        if event.data != DONE:
                            await self._take(event)
                        if event.data == DONE or self.builder.over:
                            await _drain(chunks)
                            return
        except EventTooLargeError:
            raise self._rejected(f"an event of the reply has more than {EVENT_BYTES:,} bytes") from None
        for event in reader.finish():
            await self._take(event)

    async def _whole(self) -> None:
        """Take the answer of a server that doesn't stream."""
        data = b"".join([chunk async for chunk in self._chunks(min(EVENT_BYTES, self.max_bytes))])
        await self._take(Event("", data.decode("utf-8", "replace")), whole=True)

    async def _take(self, event: Event, *, whole: bool = False) -> None:
        try:
            chunk = json.loads(event.data)
        except (ValueError, RecursionError):
            # Half an event after the end is no loss; before it, the connection was cut.
            if self.builder.finished or event.data == DONE:
                return
            raise self._lost("the reply was cut short") from None
        failure = Failure.parse(chunk)
        if failure is not None or event.name == "error":
            error = stream_error(self.where, self.response.headers, failure or Failure())
            error.begun = self.builder.started
            if isinstance(chunk, dict):
                self.builder.add(chunk)  # it may say what the reply had cost
            raise error
        if whole:
            await self._tell(self.builder.add_whole(chunk))
        elif isinstance(chunk, dict):
            await self._tell(self.builder.add(chunk))

    async def _tell(self, piece: str) -> None:
        if self.builder.parts > MOST_CALLS:
            raise self._rejected(f"the reply asks for more than {MOST_CALLS:,} calls")
        if piece:
            await self.on_text(piece)

    async def _chunks(self, most_bytes: int) -> AsyncGenerator[bytes, None]:
        """Yield the body. Raises `ModelRejectedError` when it grows over the limit."""
        size = 0
        async for chunk in self.response.aiter_bytes():
            size += len(chunk)
            if size > most_bytes:
                raise self._rejected(
                    f"the reply is over {most_bytes} bytes; limit it with the option {self.builder.limit}"
                )
            yield chunk

    def _lost(self, why: str, *, begun: bool = True) -> ModelUnavailableError:
        number = request_id(self.response.headers)
        return ModelUnavailableError(f"{self.where}: {why}", request_id=number, begun=begun)

    def _rejected(self, why: str, status: int | None = None) -> ModelRejectedError:
        number = request_id(self.response.headers)
        return ModelRejectedError(f"{self.where}: {why}", status=status, request_id=number)


async def _error_body(response: httpx.Response) -> Any:
    """Read the error object, or as much as helps; what can't be read says nothing."""
    data = b""
    with contextlib.suppress(httpx.HTTPError, ValueError, RecursionError):
        async for chunk in response.aiter_bytes():
            data += chunk
            if len(data) > ERROR_BYTES:
                return None
        return json.loads(data)
    return None


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Read to the end of the response, so that its connection can be used again."""
    with contextlib.suppress(TimeoutError, httpx.HTTPError, ModelRejectedError):  # over the limit: never mind
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in chunks:
                pass
