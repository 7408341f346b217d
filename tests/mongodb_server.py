"""A server that speaks MongoDB's wire protocol, for the tests: not MongoDB itself, but WiredTiger, its
storage engine, behind the protocol, from a Python package."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sysconfig
import time
from pathlib import Path

PROGRAM = Path(sysconfig.get_path("scripts"), "secantusd-py")


class MongoServer:
    """One server on a free port of 127.0.0.1, with a data folder that outlives a kill. It calls itself a
    replica set of one member, and a standalone server with `standalone`."""

    def __init__(self, folder: Path, *, standalone: bool = False) -> None:
        self._folder = folder
        self._options = ["--standalone"] if standalone else []
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    def url(self, place: Path, port: int | None = None, **options: object) -> str:
        """The store of this place: a database of its own. `port` is that of a proxy before the server."""
        # The server would otherwise be looked for where it says that it is: behind the proxy.
        options = {"directConnection": "true", **options}
        query = "&".join(f"{name}={value}" for name, value in options.items())
        name = "t_" + hashlib.sha256(str(place).encode()).hexdigest()[:16]
        return f"mongodb://127.0.0.1:{port or self.port}/{name}?{query}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it lets clients in."""
        log = (self._folder / "log").open("ab")
        where = [
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--storage-path",
            str(self._folder / "data"),
        ]
        command = [str(PROGRAM), *where, "--log-level", "WARNING", *self._options]
        self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)
        log.close()
        until = time.monotonic() + 30
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self._folder / "log").read_text())
            time.sleep(0.02)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """End the server by SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
