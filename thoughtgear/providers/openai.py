"""Chat Completions over HTTP: OpenAI, and every server that speaks its protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import httpx

from thoughtgear.errors import ConfigurationError, ModelRejectedError, ModelUnavailableError
from thoughtgear.protocols import ModelReply, ModelRequest, OnText
from thoughtgear.providers.failures import Failure, http_error, network_error, request_id, stream_error
from thoughtgear.providers.loops import ClientPerLoop
from thoughtgear.providers.openai_reply import ReplyBuilder
from thoughtgear.providers.openai_request import encode_request
from thoughtgear.providers.sse import Event, EventReader

OPENAI_URL = "https://api.openai.com/v1"
ERROR_BYTES = 64 * 1024
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
    ) -> None:
        """`name` is the model's. `api_key` and `base_url` default to `OPENAI_API_KEY` and `OPENAI_BASE_URL`;
        an empty `api_key` sends none. `headers` go with each request. Times are in seconds, `read_timeout`
        between two pieces of an answer. Raises `ConfigurationError`."""
        if not name:
            raise ConfigurationError('No model name; use for example "openai:gpt-4o-mini".')
        self.model = name
        self._base_url = _base_url(base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL)
        key = os.environ.get("OPENAI_API_KEY", "") if api_key is None else api_key
        self._headers = {**_headers(key.strip(), self._base_url), **(headers or {})}
        _check_headers(self._headers)
        self._timeout = httpx.Timeout(read_timeout, connect=connect_timeout)
        self._max_reply_bytes = max_reply_bytes
        self._clients = ClientPerLoop(self._open_client)

    def __repr__(self) -> str:
        return f"OpenAIProvider(name={self.model!r}, host={self._base_url.host!r})"

    @property
    def _where(self) -> str:
        return f"openai at {self._base_url.host}"

    def _open_client(self) -> httpx.AsyncClient:
        # How many requests run at once is the worker's decision: the pool must not be a second queue.
        pool = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        return httpx.AsyncClient(headers=self._headers, timeout=self._timeout, limits=pool)

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        """Ask once. Raises `ModelUnavailableError` or `ModelRejectedError`; see `ModelProvider`."""
        body = encode_request(self.model, request)
        builder = ReplyBuilder()
        try:
            async with self._clients.get().stream(
                "POST", f"{str(self._base_url).rstrip('/')}/chat/completions", content=body
            ) as response:
                await self._receive(response, builder, on_text)
        except httpx.HTTPError as exc:
            if not builder.finished:
                raise network_error(self._where, exc) from exc
        return builder.build(request_id(response.headers))

    async def _receive(self, response: httpx.Response, builder: ReplyBuilder, on_text: OnText) -> None:
        if not response.is_success:
            failure = Failure.parse(await _error_body(response)) or Failure()
            raise http_error(self._where, response.status_code, response.headers, failure)
        if "json" in response.headers.get("content-type", ""):
            await self._receive_whole(response, builder, on_text)
        else:
            await self._receive_stream(response, builder, on_text)
        if not builder.started and "event-stream" not in response.headers.get("content-type", ""):
            raise self._no_completion(response)
        if not builder.finished:
            raise self._cut_short(response)

    async def _receive_stream(self, response: httpx.Response, builder: ReplyBuilder, on_text: OnText) -> None:
        reader, chunks = EventReader(), self._chunks(response)
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                for event in reader.feed(chunk):
                    if event.data == "[DONE]":
                        await _drain(chunks)
                        return
                    await self._take(event, response, builder, on_text)
        for event in reader.finish():
            await self._take(event, response, builder, on_text)

    async def _take(
        self, event: Event, response: httpx.Response, builder: ReplyBuilder, on_text: OnText
    ) -> None:
        try:
            chunk = json.loads(event.data)
        except (ValueError, RecursionError):
            # Half an event after the end is no loss; before it, the connection was cut.
            if builder.finished or event.data == "[DONE]":
                return
            raise self._cut_short(response) from None
        failure = Failure.parse(chunk)
        if failure is not None or event.name == "error":
            raise stream_error(self._where, response.headers, failure or Failure())
        if isinstance(chunk, dict):
            piece = builder.add(chunk)
            if piece:
                await on_text(piece)

    async def _receive_whole(self, response: httpx.Response, builder: ReplyBuilder, on_text: OnText) -> None:
        """Take the answer of a server that doesn't stream."""
        data = b"".join([chunk async for chunk in self._chunks(response)])
        await self._take(Event("", data.decode("utf-8", "replace")), response, builder, on_text)
        if builder.started:
            builder.stop_reason = builder.stop_reason or "stop"

    async def _chunks(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """Yield the body. Raises `ModelRejectedError` when it grows over the limit."""
        size = 0
        async for chunk in response.aiter_bytes():
            size += len(chunk)
            if size > self._max_reply_bytes:
                raise ModelRejectedError(
                    f"{self._where}: the reply is over {self._max_reply_bytes} bytes; limit it with the"
                    " option max_completion_tokens",
                    request_id=request_id(response.headers),
                )
            yield chunk

    def _cut_short(self, response: httpx.Response) -> ModelUnavailableError:
        return ModelUnavailableError(
            f"{self._where}: the reply was cut short", request_id=request_id(response.headers)
        )

    def _no_completion(self, response: httpx.Response) -> ModelRejectedError:
        return ModelRejectedError(
            f"{self._where}: the answer is no chat completion; check base_url",
            status=response.status_code,
            request_id=request_id(response.headers),
        )

    async def aclose(self) -> None:
        """Close the connections. The provider may be used again."""
        await self._clients.aclose()


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
    with contextlib.suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in chunks:
                pass


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
        if not (value.isascii() and value.isprintable()):
            what = "The API key" if name == "Authorization" else f"The header {name}"
            raise ConfigurationError(f"{what} holds a line break or a letter that HTTP can't send.")
