"""A model behind an HTTP endpoint: its settings, its connections, and one request per reply."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import httpx

from thoughtgear.errors import ConfigurationError, ModelError
from thoughtgear.protocols import ModelReply, ModelRequest, OnText
from thoughtgear.providers.answers import Answer, Builder, paid_for
from thoughtgear.providers.failures import network_error, request_id
from thoughtgear.providers.loops import ClientPerLoop, tls_context


@dataclass(frozen=True)
class Vendor:
    """Who makes the protocol: its name in errors and in the registry, its own address, the environment's
    variables for key and address, a model to name as an example, and who is told to need a key."""

    name: str
    title: str
    url: str
    keys: Sequence[str]
    address: str
    example: str
    host: str


class HttpProvider(ABC):
    """A model behind an endpoint that streams server-sent events.

    Makes one streaming request per reply and never retries. Nothing limits the whole length of a
    reply in time; the handler does. Proxies are those of the environment (`HTTPS_PROXY` and its like).
    """

    vendor: ClassVar[Vendor]

    def __init__(
        self,
        name: str = "",
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
        connect_timeout: float = 10.0,
        read_timeout: float = 120.0,
        max_reply_bytes: int = 32 * 1024 * 1024,
        keep_alive: bool | None = None,
    ) -> None:
        """`name` is the model's. `api_key` and `base_url` default to the variables of the environment that
        docs/models.md lists; an empty `api_key` sends none. `headers` go with each request, `options` into
        its body. Times are in seconds, `read_timeout` between two pieces of an answer. `keep_alive` uses a
        connection for several requests (None: over https only). Raises `ConfigurationError`."""
        if not name:
            raise ConfigurationError(
                f'No model name; use for example "{self.vendor.name}:{self.vendor.example}".'
            )
        texts, numbers = (name, api_key, base_url), (connect_timeout, read_timeout, max_reply_bytes)
        check_settings(texts, numbers, headers or {}, options or {})
        self.model = name
        self._options = dict(options or {})
        self._base_url = _base_url(base_url or os.environ.get(self.vendor.address) or self.vendor.url)
        self._headers = {**self._own_headers(api_key), **(headers or {})}
        _check_headers(self._headers, self._auth("").keys())
        self._timeout = httpx.Timeout(read_timeout, connect=connect_timeout)
        self._max_reply_bytes = max_reply_bytes
        # Small servers promise to keep a connection and close it a moment after the reply (llama.cpp does):
        # a request that is sent meanwhile is lost. Without TLS a new connection costs next to nothing.
        self._keep_alive = self._base_url.scheme == "https" if keep_alive is None else keep_alive
        self._clients = ClientPerLoop(self._open_client)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.model!r}, host={self._base_url.host!r})"

    def _own_headers(self, api_key: str | None) -> dict[str, str]:
        found = (os.environ.get(name) for name in self.vendor.keys)
        key = (next(filter(None, found), "") if api_key is None else api_key).strip()
        if not key and self._base_url.host.endswith(self.vendor.host):
            raise ConfigurationError(
                f"No key for {self.vendor.title}: set {self.vendor.keys[0]} or pass api_key=…"
            )
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
        # A compressing proxy would hold the pieces of a stream back.
        headers["Accept-Encoding"] = "identity"
        return {**headers, **(self._auth(key) if key else {})}

    @abstractmethod
    def _auth(self, key: str) -> dict[str, str]:
        """The headers that carry the key."""

    @abstractmethod
    def _encode(self, request: ModelRequest) -> tuple[str, bytes]:
        """Return the path below the address, and the body. Raises `ModelRejectedError`."""

    @abstractmethod
    def _builder(self) -> Builder:
        """Return what puts a reply together."""

    def _url(self, path: str) -> str:
        """The address of a path below `base_url`, whose own query stays: `?api-version=…`, for example."""
        address, _, query = str(self._base_url).partition("?")
        url = address.rstrip("/") + path
        return f"{url}{'&' if '?' in path else '?'}{query}" if query else url

    def _open_client(self) -> httpx.AsyncClient:
        # How many requests run at once is the worker's decision: the pool must not be a second queue.
        pool = httpx.Limits(max_connections=None, max_keepalive_connections=20 if self._keep_alive else 0)
        return httpx.AsyncClient(
            headers=self._headers, timeout=self._timeout, limits=pool, verify=tls_context()
        )

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        """Ask once. Raises `ModelUnavailableError` or `ModelRejectedError`; see `ModelProvider`."""
        builder = self._builder()
        try:
            number = await self._receive(request, on_text, builder)
        except ModelError as exc:
            exc.paid = paid_for(builder.usage, builder.model, self.model, self._base_url.host)
            raise
        return replace(builder.build(self.model, number), asked=self.model, host=self._base_url.host)

    async def _receive(self, request: ModelRequest, on_text: OnText, builder: Builder) -> str | None:
        """Read a whole answer into the builder; return the id of the request."""
        path, body = self._encode(replace(request, options={**self._options, **request.options}))
        where = f"{self.vendor.name} at {self._base_url.host}"
        try:
            async with self._clients.get().stream("POST", self._url(path), content=body) as response:
                answer = Answer(where, response, builder, on_text, self._max_reply_bytes)
                await answer.receive()
        except httpx.HTTPError as exc:
            if not builder.finished:
                raise network_error(where, exc, begun=builder.started) from exc
        answer.check_end()
        return request_id(response.headers)

    async def aclose(self) -> None:
        """Close the connections. The provider may be used again."""
        await self._clients.aclose()


def check_settings(texts: Sequence[Any], numbers: Sequence[Any], headers: Any, options: Any) -> None:
    """Settings may come from a file: refuse here what would be refused later, by an error that quotes it.
    Raises `ConfigurationError`."""
    if not all(text is None or isinstance(text, str) for text in texts):
        raise ConfigurationError("A model's name, api_key and base_url are texts.")
    if not all(isinstance(number, int | float) and 0 < number < math.inf for number in numbers):
        raise ConfigurationError("A model's times and max_reply_bytes are numbers above 0.")
    given = [*headers, *headers.values()] if isinstance(headers, Mapping) else [None]
    if not all(isinstance(text, str) for text in given):
        raise ConfigurationError("A model's headers are a mapping of texts.")
    if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
        raise ConfigurationError("A model's options are a mapping whose keys are texts.")


def _base_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text.strip())
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError("base_url is no http or https URL; an example: http://127.0.0.1:8080/v1")
    return url


def _check_headers(headers: Mapping[str, str], secret: Sequence[str] | Any) -> None:
    """Refuse here what the HTTP library would refuse with an error that quotes the key."""
    for name, value in headers.items():
        if not ((name + value).isascii() and (name + value).isprintable()):
            what = "The API key" if name in secret else f"The header {name}"
            raise ConfigurationError(f"{what} holds a line break or a letter that HTTP can't send.")
