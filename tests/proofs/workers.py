"""Workers as processes of their own, which a proof kills, freezes, and asks to stop."""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from temporalio.client import Client

from proofs.agent import Agent, ledger_of
from proofs.faults import Fault, at_of, paced
from thoughtgear import build_worker, logs
from thoughtgear.executors.local import LocalExecutor
from thoughtgear.registry import open_store

PRELOAD = [
    __name__,
    *(f"thoughtgear.adapters.{name}" for name in ("sql", "postgres", "files", "mongodb", "s3")),
]
HANG_SECONDS = 300.0
"""After this a worker shows where it is, and ends."""


@dataclass(frozen=True)
class Job:
    """What a worker works on: a store, a queue of a Temporal server, and the proof's files in `folder`.
    Its model and its tools take up to `pace` seconds."""

    url: str
    folder: Path
    address: str = ""
    queue: str = ""
    fault: Fault | None = None
    pace: float = 0.0
    grace: float = 10.0
    sticky: timedelta = timedelta(seconds=10)
    pollers: int = 5
    seconds: float = HANG_SECONDS

    @property
    def log(self) -> Path:
        """Where the workers of the proof log."""
        return self.folder / "workers.log"

    def striking(self, fault: Fault) -> Job:
        """The same, with a fault."""
        return replace(self, fault=fault)


class WorkerProcess:
    """A process that works until it is ended or its fault ends it. It dies with whoever started it."""

    def __init__(self, job: Job, main: Any = None) -> None:
        context = _fork_server()
        self._process = context.Process(target=main or work, args=(job,), daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process id, also after its end."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it lives, be it frozen."""
        return self._process.is_alive()

    @property
    def frozen(self) -> bool:
        """Whether all of its threads are stopped."""
        return (
            self.running and Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        )

    def signal(self, how: signal.Signals) -> None:
        """Send it a signal."""
        if self.running:
            os.kill(self.pid, how)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()
        self._process.join()

    async def ended(self, seconds: float = 60.0) -> int | None:
        """Wait for its end, and return its exit code; None when it goes on."""
        await asyncio.to_thread(self._process.join, seconds)
        return self._process.exitcode


def _fork_server() -> Any:
    """What starts processes that have imported everything and share nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # else it finds no module of the tests
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


def work(job: Job) -> None:
    """Drive the runs of a queue until SIGTERM comes."""
    prepare(job)
    asyncio.run(_work(job))


def work_locally(job: Job) -> None:
    """Drive the one run of a store to its end in this process, without Temporal."""
    prepare(job)

    async def main() -> None:
        ledger = ledger_of(job.folder)
        agent = Agent(ledger, at_of(job.fault, ledger))
        async with agent.handler(open_store(job.url), LocalExecutor(claim_seconds=0.1)) as handler:
            [found] = (await handler.store.list_runs()).runs
            await handler.continue_run(found.run_id)

    asyncio.run(main())


def prepare(job: Job) -> None:
    """Die with the parent, and log into the proof's folder."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    log = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    faulthandler.dump_traceback_later(job.seconds, exit=True, file=sys.stderr)
    logs.configure(level="DEBUG")


async def _work(job: Job) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    ledger = ledger_of(job.folder)
    agent = Agent(ledger, at_of(job.fault, ledger) if job.fault else paced(job.pace))
    client = await connected(job.address)
    async with agent.handler(open_store(job.url)) as handler:
        grace = timedelta(seconds=job.grace)
        options = {
            "graceful_shutdown_timeout": grace,
            "sticky_queue_schedule_to_start_timeout": job.sticky,
            "max_concurrent_activity_task_polls": job.pollers,
        }
        async with build_worker(client, [handler], job.queue, **options):
            ledger.note("working")
            await stop.wait()
            ledger.note("stopping")


async def connected(address: str, seconds: float = 60.0) -> Client:
    """Return a client of a server that may be away for a moment."""
    until = time.monotonic() + seconds
    while True:
        try:
            return await Client.connect(address)
        except RuntimeError:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.1)
