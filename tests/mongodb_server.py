"""A server that speaks MongoDB's wire protocol, for the tests: not MongoDB itself, but WiredTiger, its
storage engine, behind the protocol, from a Python package."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from server_process import Server, free_ports, listens, place_name, query_of

PROGRAM = Path(sysconfig.get_path("scripts"), "secantusd-py")

CACHE = "4G"
"""A limit, not what is taken. Of 1G, its default, a fifth may be unsaved: a hundred megabytes of chunks and
their copies in the log fill that, and WiredTiger answers nobody until its next checkpoint, a minute later."""


class MongoServer(Server):
    """It calls itself a replica set of one member, and a standalone server with `standalone`."""

    def __init__(self, folder: Path, *, standalone: bool = False) -> None:
        super().__init__(folder)
        self._options = ["--standalone"] if standalone else []
        (self.port,) = free_ports(1)

    def url(self, place: Path, port: int | None = None, **options: object) -> str:
        """The store of this place: a database of its own. `port` is that of a proxy before the server."""
        # The server would otherwise be looked for where it says that it is: behind the proxy.
        query = query_of({"directConnection": "true", **options})
        return f"mongodb://127.0.0.1:{port or self.port}/{place_name(place)}?{query}"

    def command(self) -> list[str]:
        where = [
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--storage-path",
            str(self._folder / "data"),
        ]
        return [str(PROGRAM), *where, "--cache-size", CACHE, "--log-level", "WARNING", *self._options]

    def ready(self) -> bool:
        return listens(self.port)
