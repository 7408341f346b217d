"""A server process that tests start, kill and start again: what those of all databases share."""

from __future__ import annotations

import hashlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

S = TypeVar("S", bound="Server")


class Server:
    """One server on free ports of 127.0.0.1, with a folder that outlives a kill. `seconds` is how long it may
    take to let clients in."""

    seconds = 30.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """What starts it."""
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """What `Popen` takes beside the command."""
        return {"cwd": self._folder}

    def ready(self) -> bool:
        """Whether it lets clients in."""
        raise NotImplementedError

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it lets clients in."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdout=log, stderr=log, **self.options())
        until = time.monotonic() + self.seconds
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self._folder / "log").read_text()[-5000:])
            time.sleep(0.02)

    def kill(self) -> None:
        """End the server by SIGKILL."""
        self.end(signal.SIGKILL)

    def end(self, how: signal.Signals) -> None:
        """Send a signal and wait for the end."""
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(30)


@contextmanager
def running_again(server: S) -> Iterator[S]:
    """A server that a test may kill: afterwards it is running again."""
    yield server
    if not server.running:
        server.start()


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody uses."""
    held = [socket.socket() for _ in range(count)]
    for each in held:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in held]
    for each in held:
        each.close()
    return ports


def listens(port: int) -> bool:
    """Whether someone listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def place_name(place: Path) -> str:
    """Return a name for the store of a place, of 18 letters and digits."""
    return "t_" + hashlib.sha256(str(place).encode()).hexdigest()[:16]


def query_of(options: dict[str, object]) -> str:
    """Return the options of a URL, after its question mark."""
    return "&".join(f"{name}={value}" for name, value in options.items())
