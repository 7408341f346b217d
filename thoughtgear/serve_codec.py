"""What `thoughtgear codec-server` does: listen, answer, and stop on SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from thoughtgear import logs, registry
from thoughtgear.codec import EncryptionCodec, keys_from_environment
from thoughtgear.errors import ConfigurationError
from thoughtgear.signals import stop_signals

if TYPE_CHECKING:
    import uvicorn

    from thoughtgear.codec_server import CodecServerSettings

MOST_REQUESTS = 64
"""How many requests are answered at once; more get a 503."""

log = logging.getLogger(logs.LOGGER)


async def serve_codec(host: str, port: int, token: str | None, origins: Sequence[str], *, debug: bool) -> int:
    """Serve until a signal comes, with the keys of the environment. Raises `ConfigurationError`."""
    registry.load("uvicorn:Server")
    registry.load("starlette.applications:Starlette")
    from thoughtgear.codec_server import CodecServerSettings, application

    settings = CodecServerSettings(host, port, token, origins)
    codec = EncryptionCodec(keys_from_environment())
    logs.configure(level="DEBUG" if debug else "INFO")
    with _listening(host, port) as listener:
        _announce(settings, codec, listener.getsockname()[1])
        await _until_stopped(_server(application(codec, settings)), listener)
    log.info("stopped")
    return 0


def _announce(settings: CodecServerSettings, codec: EncryptionCodec, port: int) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    log.info("codec server at http://%s:%d, keys %s", host, port, ", ".join(codec.key_ids))
    log.info("answers browsers at %s", ", ".join(settings.origins) or "no web interface (see --origin)")
    if settings.token is None:
        log.warning("without a token: every process of this machine can decrypt")
    elif not settings.loopback:
        log.warning("this is plain HTTP: put a proxy with TLS in front of it")


def _server(application: object) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        """Leaves the signals to us: a stop that was asked for is no failure."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return Server(
        uvicorn.Config(
            application,  # type: ignore[arg-type] # Starlette's own types say what it is
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            limit_concurrency=MOST_REQUESTS,
        )
    )


async def _until_stopped(server: uvicorn.Server, listener: socket.socket) -> None:
    stop = stop_signals()
    serving = asyncio.create_task(server.serve([listener]))
    asked = asyncio.create_task(stop.get())
    await asyncio.wait((serving, asked), return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    server.should_exit = True
    await serving


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except OSError as exc:
        raise ConfigurationError(
            f"Nothing can listen on {host}:{port} ({exc.strerror}); choose another --port or --host."
        ) from None
    with listener:
        yield listener
