"""A driver that invokes: a queue that delivers at least once, and functions that run one iteration each."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from simulation.ledger import SECRET
from simulation.process import DEAD, RUNNING, Process
from simulation.world import ATTEMPT, NotReportedError
from thoughtgear import PromptHandler
from thoughtgear.errors import ThoughtgearError

if TYPE_CHECKING:
    from simulation.world import World

VISIBILITY, REDELIVERY = 20.0, 3.0
"""Seconds until a message comes again whose function did not answer, and one whose function failed."""


class QueueExecutor:
    """Puts a message into the queue: what a Lambda or SQS executor does."""

    name = "queue"

    def __init__(self, queue: Queue, process: Process) -> None:
        self._queue, self._process = queue, process

    async def schedule_next_iteration(self, run_id: str) -> None:
        world = self._process.world
        if fault := world.due("schedule:before", self._process):
            await world.strike(fault, "schedule:before", self._process)
        self._queue.put(run_id)
        await world.loop.tick(world.latency())
        if fault := world.due("schedule:after", self._process):
            await world.strike(fault, "schedule:after", self._process)


class Queue:
    """The queue and its pool of warm processes."""

    name = "queue"

    def __init__(self, world: World) -> None:
        self.world = world
        self._deliveries = 0
        self._queued: Counter[str] = Counter()
        self._warm: list[tuple[Process, PromptHandler]] = []

    def begin(self) -> None:
        """A function is started when a message comes."""

    def executor(self, process: Process) -> QueueExecutor:
        return QueueExecutor(self, process)

    def put(self, run_id: str) -> None:
        self._queued[run_id] += 1
        self.world.later(0.0, self._deliver(run_id))

    def again(self, run_id: str) -> None:
        """The message is there twice."""
        self.put(run_id)

    def unfinished(self) -> list[str]:
        """The runs whose messages are still in the queue."""
        return list(self._queued.elements())

    def can_be_stale(self) -> bool:
        return False

    def start_stale(self) -> None:
        """A message says nothing about its iteration: each is as good as another."""

    async def _deliver(self, run_id: str) -> None:
        """Deliver one message until a function has taken it."""
        world = self.world
        while True:
            process, handler = self._take()
            work = world.loop.spawn(self._invoke(process, handler, run_id), process)
            process.on_stop = [work.cancel]
            dead = world.death_of(process)
            await asyncio.wait((work, dead), timeout=VISIBILITY, return_when="FIRST_COMPLETED")
            taken = work.done() and not work.cancelled() and work.result()
            if work.done():
                self._warm.append((process, handler))
            if taken:
                self._queued[run_id] -= 1
                return
            await world.loop.tick(REDELIVERY if work.done() else VISIBILITY)

    def _take(self) -> tuple[Process, PromptHandler]:
        """A warm process that is idle, else a new one."""
        while self._warm:
            process, handler = self._warm.pop()
            if process.state == RUNNING:
                return process, handler
        process = self.world.process("function")
        return process, self.world.handler(process)

    async def _invoke(self, process: Process, handler: PromptHandler, run_id: str) -> bool:
        """Run one iteration; return whether the message is done with."""
        self._deliveries += 1
        ATTEMPT.set(str(self._deliveries))
        try:
            await handler.continue_run(run_id)
            if fault := self.world.due("report:before", process):
                await self.world.strike(fault, "report:before", process)
        except NotReportedError:
            return False
        except Exception as exc:
            # Whatever failed comes again. Only the fault `bug` raises what is no error of the library.
            known = isinstance(exc, ThoughtgearError) or SECRET in str(exc)
            if not known and process.state != DEAD:
                self.world.wrong(f"an invocation raised {exc!r}")
            return False
        return True
