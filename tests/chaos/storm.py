"""The faults: whom they strike, and when. What was struck comes back."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from postgres_server import PostgresServer
from proofs.workers import Job, WorkerProcess

from chaos.plan import FREEZE, KILL, POSTGRES, TEMPORAL, Plan
from thoughtgear.devserver import DevServer

AFTERMATH = 15.0
"""Seconds after which a server that came back has been met again by everyone."""


@dataclass
class Strike:
    """A fault that fired: from when until when, and which process it struck (None: all of them)."""

    kind: str
    pid: int | None
    begin: float
    end: float

    def met(self, pid: int, begin: float, end: float) -> bool:
        """Whether this may have cost what a process did in that time."""
        after = 0.0 if self.pid else AFTERMATH
        return self.pid in (None, pid) and self.begin <= end and begin <= self.end + after


class Storm:
    """`strikes` are the faults that have fired, `fired` is called after each."""

    def __init__(self, plan: Plan, job: Job, temporal: DevServer, postgres: PostgresServer) -> None:
        self.strikes: list[Strike] = []
        self.fired: Callable[[Strike], None] = lambda strike: None
        self._plan, self._job, self._temporal, self._postgres = plan, job, temporal, postgres
        self._chance = random.Random(plan.seed + 1)
        self._workers = [WorkerProcess(job) for _ in range(plan.workers)]
        self._thaws: list[asyncio.Task[None]] = []

    async def rage(self) -> None:
        """Have all the faults of the plan, and return when everything is up again."""
        strike = {
            KILL: self._kill,
            FREEZE: self._freeze,
            TEMPORAL: self._temporal_dies,
            POSTGRES: self._store_dies,
        }
        for kind in self._plan.order():
            await asyncio.sleep(self._chance.uniform(*self._plan.interval))
            await strike[kind]()
        await asyncio.gather(*self._thaws)

    async def end(self) -> list[int | None]:
        """Ask the workers to stop, and return their exit codes."""
        for worker in self._workers:
            worker.signal(signal.SIGCONT)
            worker.signal(signal.SIGTERM)
        return [await worker.ended() for worker in self._workers]

    def kill(self) -> None:
        """End all that goes on, at once."""
        for worker in self._workers:
            worker.kill()

    async def _kill(self) -> None:
        victim = self._chance.randrange(len(self._workers))
        worker = self._workers[victim]
        now = time.time()
        await asyncio.to_thread(worker.kill)
        self._note(KILL, worker.pid, now)
        self._workers[victim] = await asyncio.to_thread(WorkerProcess, self._job)

    async def _freeze(self) -> None:
        awake = [worker for worker in self._workers if not worker.frozen]
        worker = self._chance.choice(awake or self._workers)
        strike = self._note(FREEZE, worker.pid, time.time())
        worker.signal(signal.SIGSTOP)
        strike.end = float("inf")
        seconds = self._chance.uniform(*self._plan.frozen)
        self._thaws.append(asyncio.create_task(self._thaw(worker, strike, seconds)))

    async def _thaw(self, worker: WorkerProcess, strike: Strike, seconds: float) -> None:
        await asyncio.sleep(seconds)
        worker.signal(signal.SIGCONT)
        strike.end = time.time()

    async def _temporal_dies(self) -> None:
        assert self._temporal.pid is not None
        strike = self._note(TEMPORAL, None, time.time())
        os.kill(self._temporal.pid, signal.SIGKILL)
        await asyncio.sleep(self._chance.uniform(*self._plan.away))
        await self._temporal.start()
        strike.end = time.time()

    async def _store_dies(self) -> None:
        strike = self._note(POSTGRES, None, time.time())
        await asyncio.to_thread(self._postgres.kill)
        await asyncio.sleep(self._chance.uniform(*self._plan.away))
        await asyncio.to_thread(self._postgres.start)
        strike.end = time.time()

    def _note(self, kind: str, pid: int | None, now: float) -> Strike:
        strike = Strike(kind, pid, now, time.time())
        self.strikes.append(strike)
        self.fired(strike)
        return strike
