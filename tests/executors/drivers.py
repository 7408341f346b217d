"""Every executor in one shape: it drives a run as far as a test says, and is then stopped.

An executor is added here, and passes the suite of `test_hand_over`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from called_function import Context
from proofs.agent import BEFORE_MODEL, Agent, At, nothing
from proofs.faults import Gate
from proofs.ledger import Ledger
from proofs.violations import open_workflows
from sqs_server import SqsServer
from temporalio.client import Client

from thoughtgear import (
    FailoverExecutor,
    LambdaExecutor,
    LocalExecutor,
    PromptHandler,
    ScheduledExecutor,
    SqsExecutor,
    SqsWorker,
    TemporalExecutor,
    build_worker,
    make_lambda_handler,
)
from thoughtgear.errors import ExecutorUnavailableError, ModelUnavailableError
from thoughtgear.models import RunState
from thoughtgear.protocols import Executor
from thoughtgear.registry import open_store

SECONDS = 90.0


class Scene:
    """One store and one ledger, which all drivers of a test share."""

    def __init__(self, folder: Path, client: Client, sqs: SqsServer) -> None:
        self.url = f"sqlite:///{folder}/runs.db"
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.client, self.sqs = client, sqs
        self.store = open_store(self.url)

    def handler(self, executor: Executor, at: At = nothing) -> PromptHandler:
        """The agent of the proofs, as every process has it."""
        return Agent(self.ledger, at).handler(open_store(self.url), executor)

    async def state(self, run_id: str) -> RunState:
        return await self.store.load_run(run_id)

    async def until(self, what: Callable[[], Any]) -> None:
        """Wait for what a function, plain or async, says."""
        async with asyncio.timeout(SECONDS):
            while True:
                said = what()
                if await said if asyncio.iscoroutine(said) else said:
                    return
                await asyncio.sleep(0.02)


class Driver:
    """One executor. `drive` has it go on with a run until so many iterations are complete (None: to its end);
    `come_back` has it work on whatever it finds of what it was told before."""

    name = ""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def executor(self) -> Executor:
        """An executor that schedules through it, from anywhere."""
        raise NotImplementedError

    @asynccontextmanager
    async def working(self, at: At) -> AsyncIterator[PromptHandler]:
        """Work while the context is open, and stop in the middle of what goes on then."""
        raise NotImplementedError
        yield

    async def drive(self, run_id: str, iterations: int | None) -> None:
        gate = Gate(BEFORE_MODEL, -1 if iterations is None else iterations + 1)
        async with self.working(gate.at) as handler:
            going = asyncio.create_task(handler.continue_run(run_id))
            if iterations is None:
                await self.scene.until(lambda: self._over(run_id))
            else:
                await self.scene.until(gate.reached.is_set)
        going.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await going

    async def come_back(self) -> None:
        async with self.working(nothing):
            await self.scene.until(self.idle)

    async def idle(self) -> bool:
        """Whether nothing is left of what it was told."""
        return True

    async def _over(self, run_id: str) -> bool:
        return (await self.scene.state(run_id)).over


class Local(Driver):
    name = "local"

    def executor(self) -> Executor:
        return LocalExecutor(claim_seconds=1)

    @asynccontextmanager
    async def working(self, at: At) -> AsyncIterator[PromptHandler]:
        async with self.scene.handler(self.executor(), at) as handler:
            yield handler


class Temporal(Driver):
    name = "temporal"

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.queue = f"q-{uuid4().hex}"

    def executor(self) -> Executor:
        return TemporalExecutor(self.scene.client, self.queue)

    @asynccontextmanager
    async def working(self, at: At) -> AsyncIterator[PromptHandler]:
        handler = self.scene.handler(self.executor(), at)
        async with handler, build_worker(self.scene.client, [handler], self.queue, reconcile_every=None):
            yield handler

    async def idle(self) -> bool:
        return not await open_workflows(self.scene.client, self.queue)


class Lambda(Driver):
    """Delivers events one after the other to a function in a thread. One that fails comes again, twice."""

    name = "lambda"

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.events: list[tuple[str, dict[str, Any], int]] = []
        self.seen: list[dict[str, Any]] = []

    def executor(self) -> Executor:
        return LambdaExecutor(self._fire, claim_seconds=1)

    def _fire(self, event: dict[str, Any]) -> None:
        self.seen.append(event)
        self.events.append((uuid4().hex, event, 0))

    @asynccontextmanager
    async def working(self, at: At) -> AsyncIterator[PromptHandler]:
        stop = asyncio.Event()
        function = make_lambda_handler(self.scene.handler(self.executor(), self._in_thread(at)))
        delivering = asyncio.create_task(self._deliver(function, stop))
        async with self.scene.handler(self.executor()) as handler:
            yield handler
        stop.set()
        await delivering

    def _in_thread(self, at: At) -> At:
        """A gate is of the test's event loop, and this one of the function's. Where the gate is closed the
        function has no network instead: it can't be stopped in the middle."""
        loop = asyncio.get_running_loop()

        async def wait(point: str, iteration: int) -> None:
            passing = asyncio.run_coroutine_threadsafe(at(point, iteration), loop)
            await asyncio.wait({asyncio.wrap_future(passing)}, timeout=1.0)
            if not passing.done():
                passing.cancel()
                raise ModelUnavailableError("There is no network.")

        return wait

    async def _deliver(self, function: Any, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if not self.events:
                await asyncio.sleep(0.01)
                continue
            name, event, failures = self.events.pop(0)
            try:
                await asyncio.to_thread(function, event, Context(name))
            except Exception:
                if failures < 2:
                    await asyncio.sleep(1.1)
                    self.events.append((name, event, failures + 1))

    async def idle(self) -> bool:
        return not self.events


class Sqs(Driver):
    name = "sqs"

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.url, self.dead = scene.sqs.queue()
        self.aws = scene.sqs.client()

    def executor(self) -> Executor:
        return SqsExecutor(self.url, client=self.aws, claim_seconds=1)

    @asynccontextmanager
    async def working(self, at: At) -> AsyncIterator[PromptHandler]:
        stop = asyncio.Event()
        async with self.scene.handler(self.executor(), at) as handler:
            working = asyncio.create_task(SqsWorker(handler, visibility=5, poll=1, grace=0).run(stop))
            yield handler
            stop.set()
            await working

    async def idle(self) -> bool:
        keys = [f"ApproximateNumberOfMessages{name}" for name in ("", "NotVisible", "Delayed")]
        found = await asyncio.to_thread(self.aws.get_queue_attributes, QueueUrl=self.url, AttributeNames=keys)
        return not any(int(found["Attributes"][key]) for key in keys)


def _at_a_pace(kind: type[Driver]) -> type[Driver]:
    class Scheduled(kind):  # type: ignore[valid-type,misc]
        def executor(self) -> Executor:
            return ScheduledExecutor(super().executor(), delay=0.05)

    return Scheduled


def _after_one_that_is_away(kind: type[Driver]) -> type[Driver]:
    class Failover(kind):  # type: ignore[valid-type,misc]
        def executor(self) -> Executor:
            return FailoverExecutor([Away(), super().executor()])

    return Failover


class Away:
    """An executor that can schedule nothing."""

    name = "away"
    self_driving = True

    async def schedule_next_iteration(self, run_id: str) -> None:
        raise ExecutorUnavailableError("It is away.")


DRIVERS = {driver.name: driver for driver in (Local, Lambda, Temporal, Sqs)}

WRAPPED = {f"scheduled {name}": _at_a_pace(kind) for name, kind in DRIVERS.items()} | {
    f"failover {name}": _after_one_that_is_away(kind) for name, kind in DRIVERS.items()
}
"""The same, within the executors that have others drive."""
