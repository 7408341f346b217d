"""The codec server: decrypts for Temporal's web interface and command line, where their users hold no keys.

Temporal's remote codec protocol: POST a `Payloads` message as JSON to a path that ends in /encode or /decode,
the namespace in `X-Namespace`; the answer is the same message with the payloads encoded or decoded.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from google.protobuf.json_format import MessageToJson, Parse, ParseError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from temporalio.api.common.v1 import Payloads
from temporalio.converter import PayloadCodec

from thoughtgear import logs
from thoughtgear.errors import CodecError, ConfigurationError

HEADERS = ("Authorization", "Authorization-Extras", "Content-Type", "X-Namespace")
"""What a browser may send: Temporal's interface sends these."""

BODY_BYTES = 16 * 1024 * 1024
"""The largest request: a message of Temporal's has at most 4 MiB, and JSON makes a third more of it."""

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")

log = logging.getLogger(logs.LOGGER)


@dataclass(frozen=True)
class CodecServerSettings:
    """Where a codec server listens, and whom it answers.

    `token` is the bearer token that every request has to carry; None: whoever reaches the port is answered,
    which only a loopback address may do. `origins` are the web interfaces that a browser may call it from,
    such as `http://localhost:8233`. `body_bytes` bounds a request. Raises `ConfigurationError`.
    """

    host: str = "127.0.0.1"
    port: int = 8081
    token: str | None = field(default=None, repr=False)
    origins: Sequence[str] = ()
    body_bytes: int = BODY_BYTES

    def __post_init__(self) -> None:
        if self.token is not None and (len(self.token) < 16 or not self.token.isascii()):
            raise ConfigurationError(
                "The token has to have 16 characters or more; make one: openssl rand -hex 32"
            )
        if self.token is None and not self.loopback:
            raise ConfigurationError(
                f"Without a token the server listens on 127.0.0.1 only, not on {self.host}."
            )
        for origin in self.origins:
            _check_origin(origin)

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def application(codec: PayloadCodec, settings: CodecServerSettings) -> Starlette:
    """Return the codec server as an ASGI application, to be mounted or served."""
    endpoint = _Endpoint(codec, settings)
    routes = [
        Route(path, endpoint.answer, methods=["POST"])
        for name in ("encode", "decode")
        for path in (f"/{name}", f"/{{before:path}}/{name}")
    ]
    hosts = ["*"] if settings.token else [*LOOPBACK_NAMES, settings.host]
    return Starlette(
        routes=routes,
        middleware=[
            # A page whose name was made to point at this machine would be let in by the browser.
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.origins),
                allow_methods=["POST"],
                allow_headers=HEADERS,
                allow_credentials=True,
                allow_private_network=True,
            ),
        ],
    )


class _Endpoint:
    """Answers /encode and /decode. Nothing of a payload is logged, or quoted in an answer that refuses."""

    def __init__(self, codec: PayloadCodec, settings: CodecServerSettings) -> None:
        self._codec, self._settings = codec, settings

    async def answer(self, request: Request) -> Response:
        """Check who asks and what, and answer."""
        what = request.url.path.rpartition("/")[2]
        response = self._refusal(request) or await self._converted(request, what)
        namespace = request.headers.get("x-namespace", "")[:100]
        log.info("%s for namespace %r: %d", what, namespace, response.status_code)
        return response

    def _refusal(self, request: Request) -> Response | None:
        origin = request.headers.get("origin")
        if origin is not None and origin not in self._settings.origins:
            return _refuse(403, "This origin is not one of --origin.")
        if self._settings.token is not None and not self._knows_token(request):
            refused = _refuse(401, "This server wants: Authorization: Bearer TOKEN.")
            refused.headers["WWW-Authenticate"] = "Bearer"
            return refused
        return None

    def _knows_token(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        wanted = (self._settings.token or "").encode()
        return hmac.compare_digest(token.strip().encode(), wanted) and scheme.lower() == "bearer"

    async def _converted(self, request: Request, what: str) -> Response:
        body = await _body(request, self._settings.body_bytes)
        if body is None:
            return _refuse(413, f"A request has at most {self._settings.body_bytes:,} bytes.")
        try:
            given = Parse(body, Payloads(), ignore_unknown_fields=True)
        except (ParseError, UnicodeDecodeError, RecursionError):
            return _refuse(400, "The body is no Payloads message in JSON.")
        convert = self._codec.encode if what == "encode" else self._codec.decode
        try:
            converted = Payloads(payloads=await convert(given.payloads))
        except CodecError as exc:
            return _refuse(400, str(exc))
        text = MessageToJson(converted, indent=None)
        return Response(text, media_type="application/json", headers={"Cache-Control": "no-store"})


async def _body(request: Request, most: int) -> bytes | None:
    """The body, or None as soon as it is too long."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            return None
    return bytes(body)


def _refuse(status: int, text: str) -> Response:
    return PlainTextResponse(text, status)


def _check_origin(origin: str) -> None:
    parts = urlsplit(origin)
    if (
        parts.scheme not in ("http", "https")
        or not parts.netloc
        or origin != f"{parts.scheme}://{parts.netloc}"
    ):
        raise ConfigurationError(
            f"{origin!r} is no origin; write it as http://localhost:8233, with nothing after the port."
        )
