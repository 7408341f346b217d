"""Chat Completions over HTTP: OpenAI, and every server that speaks its protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from thoughtgear.errors import ConfigurationError, ModelRejectedError, ModelUnavailableError
from thoughtgear.protocols import ModelReply, ModelRequest, OnText
from thoughtgear.providers.failures import Failure, http_error, network_error, request_id, stream_error
from thoughtgear.providers.loops import ClientPerLoop, tls_context
from thoughtgear.providers.openai_reply import MOST_CALLS, ReplyBuilder
from thoughtgear.providers.openai_request import encode_request
from thoughtgear.providers.sse import Event, EventReader, EventTooLargeError

OPENAI_URL = "https://api.openai.com/v1"
ERROR_BYTES = 64 * 1024
EVENT_BYTES = 8 * 1024 * 1024
"""Of one event, and of an answer that is not streamed: it is parsed as a whole, which takes several times
that."""
DONE = "[DONE]"
DRAIN_SECONDS = 0.25


class OpenAIProvider:
    """A model behind a Chat Completions endpoint.

    Makes one streaming request per reply and never retries. Nothing limits the whole length of a
    reply in time; the handler does.
    """

    def __init__(
        self,
        name: str = "",
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        connect_timeout: float = 10.0,
        read_timeout: float = 120.0,
        max_reply_bytes: int = 32 * 1024 * 1024,
        keep_alive: bool | None = None,
    ) -> None:
        """`name` is the model's. `api_key` and `base_url` default to `OPENAI_API_KEY` and `OPENAI_BASE_URL`;
        an empty `api_key` sends none. `headers` go with each request. Times are in seconds, `read_timeout`
        between two pieces of an answer. `keep_alive` uses a connection for several requests (None: over
        https only). Raises `ConfigurationError`."""
        if not name:
            raise ConfigurationError('No model name; use for example "openai:gpt-4o-mini".')
        texts, numbers = (name, api_key, base_url), (connect_timeout, read_timeout, max_reply_bytes)
        _check_types(texts, numbers, headers or {})
        self.model = name
        self._base_url = _base_url(base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL)
        key = os.environ.get("OPENAI_API_KEY", "") if api_key is None else api_key
        self._headers = {**_headers(key.strip(), self._base_url), **(headers or {})}
        _check_headers(self._headers)
        self._timeout = httpx.Timeout(read_timeout, connect=connect_timeout)
        self._max_reply_bytes = max_reply_bytes
        # Small servers promise to keep a connection and close it a moment after the reply (llama.cpp does):
        # a request that is sent meanwhile is lost. Without TLS a new connection costs next to nothing.
        self._keep_alive = self._base_url.scheme == "https" if keep_alive is None else keep_alive
        self._clients = ClientPerLoop(self._open_client)

    def __repr__(self) -> str:
        return f"OpenAIProvider(name={self.model!r}, host={self._base_url.host!r})"

    def _open_client(self) -> httpx.AsyncClient:
        # How many requests run at once is the worker's decision: the pool must not be a second queue.
        pool = httpx.Limits(max_connections=None, max_keepalive_connections=20 if self._keep_alive else 0)
        return httpx.AsyncClient(
            headers=self._headers, timeout=self._timeout, limits=pool, verify=tls_context()
        )

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        """Ask once. Raises `ModelUnavailableError` or `ModelRejectedError`; see `ModelProvider`."""
        body = encode_request(self.model, request)
        url = f"{str(self._base_url).rstrip('/')}/chat/completions"
        where = f"openai at {self._base_url.host}"
        builder = ReplyBuilder()
        try:
            async with self._clients.get().stream("POST", url, content=body) as response:
                answer = _Answer(where, response, builder, on_text, self._max_reply_bytes)
                await answer.receive()
        except httpx.HTTPError as exc:
            if not builder.finished:
                raise network_error(where, exc, begun=builder.started) from exc
        answer.check_end()
        return builder.build(request_id(response.headers))

    async def aclose(self) -> None:
        """Close the connections. The provider may be used again."""
        await self._clients.aclose()


@dataclass(frozen=True)
class _Answer:
    """One answer on its way from the server into a builder."""

    where: str
    response: httpx.Response
    builder: ReplyBuilder
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
            raise self._rejected("the answer is no chat completion; check base_url", status)
        if not self.builder.finished:
            raise self._lost("the reply was cut short", begun=self.builder.started)

    def check_end(self) -> None:
        """Raise a `ModelError` for a reply that has come to its end and is no answer."""
        reason = self.builder.stop_reason
        if reason == "content_filter":
            raise self._rejected("the provider's content filter stopped the reply")
        if reason == "length" and self.builder.empty:
            raise self._rejected("the reply reached its limit of tokens before it said anything; allow more")
        if reason in ("tool_calls", "function_call") and self.builder.empty:
            raise self._lost("the reply announces a call and holds none")

    async def _stream(self) -> None:
        reader, chunks = EventReader(EVENT_BYTES), self._chunks(self.max_bytes)
        try:
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    for event in reader.feed(chunk):
                        if event.data == DONE:
                            await _drain(chunks)
                            return
                        await self._take(event)
        except EventTooLargeError:
            raise self._rejected(f"an event of the reply has more than {EVENT_BYTES:,} bytes") from None
        for event in reader.finish():
            await self._take(event)

    async def _whole(self) -> None:
        """Take the answer of a server that doesn't stream."""
        data = b"".join([chunk async for chunk in self._chunks(min(EVENT_BYTES, self.max_bytes))])
        await self._take(Event("", data.decode("utf-8", "replace")))
        if self.builder.chosen:
            self.builder.stop_reason = self.builder.stop_reason or "stop"

    async def _take(self, event: Event) -> None:
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
            raise error
        if isinstance(chunk, dict):
            piece = self.builder.add(chunk)
            if len(self.builder.calls) > MOST_CALLS:
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
                    f"the reply is over {most_bytes} bytes; limit it with the option max_completion_tokens"
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


def _check_types(texts: Sequence[Any], numbers: Sequence[Any], headers: Any) -> None:
    """Settings may come from a file: refuse here what would be refused later, by an error that quotes it."""
    if not all(text is None or isinstance(text, str) for text in texts):
        raise ConfigurationError("A model's name, api_key and base_url are texts.")
    if not all(isinstance(number, int | float) and 0 < number < math.inf for number in numbers):
        raise ConfigurationError("A model's times and max_reply_bytes are numbers above 0.")
    given = [*headers, *headers.values()] if isinstance(headers, Mapping) else [None]
    if not all(isinstance(text, str) for text in given):
        raise ConfigurationError("A model's headers are a mapping of texts.")


def _base_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text.strip())
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError("base_url is no http or https URL; an example: http://127.0.0.1:8080/v1")
    return url


def _headers(key: str, base_url: httpx.URL) -> dict[str, str]:
    if not key and base_url.host.endswith(".openai.com"):
        raise ConfigurationError("No key for OpenAI: set OPENAI_API_KEY or pass api_key=…")
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
    # A compressing proxy would hold the pieces of a stream back.
    headers["Accept-Encoding"] = "identity"
    return {**headers, "Authorization": f"Bearer {key}"} if key else headers


def _check_headers(headers: Mapping[str, str]) -> None:
    """Refuse here what the HTTP library would refuse with an error that quotes the key."""
    for name, value in headers.items():
        if not ((name + value).isascii() and (name + value).isprintable()):
            what = "The API key" if name == "Authorization" else f"The header {name}"
            raise ConfigurationError(f"{what} holds a line break or a letter that HTTP can't send.")
