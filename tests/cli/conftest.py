"""The command line as people use it: real processes, a real Temporal dev server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from terminal import AGENT, Terminal

from thoughtgear.devserver import DevServer
from thoughtgear.worker_process import WorkerProcess


@pytest.fixture
async def terminal(tmp_path: Path) -> AsyncIterator[Terminal]:
    (tmp_path / "agent.py").write_text(AGENT)
    made = Terminal(tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def server() -> AsyncIterator[DevServer]:
    async with DevServer(ui=False) as made:
        yield made


@pytest.fixture
async def start_worker(terminal: Terminal, server: DevServer) -> AsyncIterator[Callable[..., WorkerProcess]]:
    """Starts a worker for a target of the folder."""
    workers: list[WorkerProcess] = []

    def start(target: str, **environment: str) -> WorkerProcess:
        worker = WorkerProcess(
            target,
            address=server.address,
            log=terminal.folder / "worker.log",
            folder=terminal.folder,
            task_queue="thoughtgear",
            environment=environment,
        )
        worker.start()
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.kill()
