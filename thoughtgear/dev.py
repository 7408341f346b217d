"""What `thoughtgear dev` does: a Temporal server, and a worker that restarts when a file changes."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text
from temporalio.client import Client

from thoughtgear import config, registry
from thoughtgear.desk import load_handlers
from thoughtgear.devserver import DevServer
from thoughtgear.place import Place
from thoughtgear.ui import UI_PORTS_ABOVE
from thoughtgear.worker_process import WorkerProcess

GRACE_SECONDS = 5.0
"""How long a restart lets running tools finish."""


def own_folder() -> Path:
    """Return `.thoughtgear` in the current folder, made so that git leaves it alone."""
    folder = Path(".thoughtgear")
    folder.mkdir(exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    return folder


async def develop(target: str, console: Console, *, port: int, db: str | None, task_queue: str | None) -> int:
    """Serve and work until Ctrl-C. Raises `ConfigurationError`."""
    registry.load("watchfiles:awatch")
    place = Place(target=target, db=db)
    stores = [f"{handler.name}: {handler.store}" for handler in load_handlers(place)]
    queue = config.Settings.load(task_queue=task_queue).task_queue
    folder = own_folder()
    server = DevServer(db=folder / "temporal.db", port=port, ui_port=port + UI_PORTS_ABOVE if port else 0)
    async with server:
        worker = WorkerProcess(
            target,
            address=server.address,
            log=folder / "worker.log",
            folder=Path.cwd(),
            task_queue=queue,
            environment={"THOUGHTGEAR_DB": db} if db else {},
            options=("--grace", str(GRACE_SECONDS)),
        )
        for name, text in _facts(server, stores, worker, target, task_queue):
            console.print(Text.assemble((f"{name:<9}", "bold"), text), soft_wrap=True)
        try:
            await _work(worker, await Client.connect(server.address), _watched_folder(target), console)
        except asyncio.CancelledError:
            console.print("\nStopping …")
        finally:
            await worker.stop()
    return 0


def _facts(
    server: DevServer, stores: list[str], worker: WorkerProcess, target: str, task_queue: str | None
) -> Iterator[tuple[str, str]]:
    options = [
        "--address",
        server.address,
        *(["--task-queue", task_queue] if task_queue else []),
        "-t",
        target,
    ]
    yield "Temporal", f"{server.address}, its state in {server.db}"
    yield "UI", f"{server.ui_url}"
    yield from (("store", store) for store in stores)
    yield "log", f"{worker.log}"
    yield "try", f'thoughtgear run {shlex.join(options)} "Hello"'


async def _work(worker: WorkerProcess, client: Client, folder: Path, console: Console) -> None:
    """Run the worker, and again whenever a Python file changes."""
    from watchfiles import PythonFilter, awatch

    watching = asyncio.create_task(_start(worker, client, console))
    try:
        async for changes in awatch(folder, watch_filter=PythonFilter()):
            names = sorted({Path(path).name for _, path in changes})
            console.print(f"{', '.join(names[:3])}{' …' * (len(names) > 3)} changed; restarting the worker.")
            watching.cancel()
            await worker.stop()
            watching = asyncio.create_task(_start(worker, client, console))
    finally:
        watching.cancel()


async def _start(worker: WorkerProcess, client: Client, console: Console) -> None:
    """Start the worker, and tell when it is ready and when it ends by itself."""
    worker.start()
    if await worker.until_ready(client):
        console.print(f"Worker ready (pid {worker.pid}). Ctrl-C ends it and the server.")
        await worker.until_ended()
    console.print(
        f"The worker ended: {worker.last_words()}\nIt starts again when a file changes.",
        soft_wrap=True,
        style="red",
    )


def _watched_folder(target: str) -> Path:
    """The folder whose changes count: of a file its own, else the current one."""
    where = target.rpartition(":")[0]
    return Path(where).absolute().parent if where.endswith(".py") else Path.cwd()
