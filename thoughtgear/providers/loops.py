"""One HTTP client per event loop: its connections belong to the loop that opened them."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Callable

import httpx


@functools.cache
def tls_context() -> ssl.SSLContext:
    """The TLS settings of all clients: to load the certificates once saves each client the time again."""
    return httpx.create_ssl_context()


class ClientPerLoop:
    """Gives the client of the running loop, made on first use."""

    def __init__(self, make: Callable[[], httpx.AsyncClient]) -> None:
        self._make = make
        self._clients: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}

    def get(self) -> httpx.AsyncClient:
        """Return the running loop's client. Clients of closed loops are forgotten: nothing can close them."""
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            # Loops of other threads do the same meanwhile: each entry is taken and set by itself.
            for known in list(self._clients):
                if known.is_closed():
                    self._clients.pop(known, None)
            client = self._clients[loop] = self._make()
        return client

    async def aclose(self) -> None:
        """Close the running loop's client; another running loop closes its own."""
        clients, self._clients = self._clients, {}
        for loop, client in clients.items():
            if loop is asyncio.get_running_loop():
                await client.aclose()
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(client.aclose(), loop)
