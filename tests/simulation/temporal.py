"""Temporal as the activities meet it: attempts by number, heartbeats, time-outs, retries, signals, cancels.

The server is modelled here (tests/temporal has the real one); the workflow, the activities, their heartbeats
and their mapping of errors are the shipped ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from temporalio.activity import ActivityCancellationDetails
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.exceptions import TimeoutError as TimedOutError
from temporalio.testing import ActivityEnvironment

from simulation.process import RUNNING, Process
from simulation.workflow import Order, Runtime, activity_error
from simulation.world import ATTEMPT, NotReportedError
from thoughtgear.activities.iteration import RunActivities
from thoughtgear.activities.roster import Roster
from thoughtgear.loop import RETRY_FACTOR, RETRY_FIRST, RETRY_MOST
from thoughtgear.payloads import (
    CloseInput,
    DeliverInput,
    IterationInput,
    RunInput,
    StartInput,
    restored,
    sparse,
)

if TYPE_CHECKING:
    from simulation.world import World

WORKERS = 2

RESTART, LOOK_FOR_WORKER = 1.0, 0.2
"""Seconds until a worker that died is there again, and between two looks for one that is."""

INFO = ActivityEnvironment.default_info()
NOT_FOUND = ActivityCancellationDetails(not_found=True)
REQUESTED = ActivityCancellationDetails(cancel_requested=True)
SHUTDOWN = ActivityCancellationDetails(worker_shutdown=True)

TIMED_OUT, CANCELLED = "timed out", "cancelled"

_INPUTS = {
    "start_run": StartInput,
    "run_iteration": IterationInput,
    "close_run": CloseInput,
    "deliver": DeliverInput,
}


class SimRoster(Roster):
    """There is no namespace that could be asked for its search attributes."""

    async def search_attributes(self, client: Any) -> list[str]:
        return []


class TemporalExecutor:
    """Stands in for the shipped one, which speaks to a server."""

    name = "temporal"
    self_driving = True
    waits = False

    def __init__(self, server: Temporal, process: Process) -> None:
        self._server, self._process = server, process

    async def schedule_next_iteration(self, run_id: str) -> None:
        world = self._process.world
        if fault := world.due("schedule:before", self._process):
            await world.strike(fault, "schedule:before", self._process)
        self._server.signal_with_start(run_id)
        await world.loop.tick(world.latency())
        if fault := world.due("schedule:after", self._process):
            await world.strike(fault, "schedule:after", self._process)

    async def cancel(self, run_id: str) -> bool:
        await self._process.world.loop.tick(0.001)
        return self._server.request_cancel(run_id)


class Worker:
    """A worker process, and what it is at."""

    def __init__(self, world: World) -> None:
        self.process = world.process("worker")
        self.under_way: dict[ActivityEnvironment, asyncio.Task[None]] = {}
        self.stopping = False

    @cached_property
    def activities(self) -> RunActivities:
        return RunActivities(SimRoster([self.process.world.handler(self.process)]))


@dataclass(eq=False)
class ActivityTask:
    """One attempt at an activity, as the server hands it out. Its outcome: a result, a failure, or a word."""

    order: Order
    temporal_run_id: str
    number: int
    given: dict[str, Any]
    details: Sequence[int]
    outcome: asyncio.Future[Any]
    beat_at: float


class Temporal:
    """The server and its workers."""

    name = "temporal"

    def __init__(self, world: World) -> None:
        self.world = world
        self._workers: list[Worker] = []
        self._tasks: list[ActivityTask] = []
        self._workflows: dict[str, Runtime] = {}
        self._started = self._deliveries = 0

    def begin(self) -> None:
        self.world.loop.on_idle = self.settle
        for _ in range(WORKERS):
            self._start_worker()

    def executor(self, process: Process) -> TemporalExecutor:
        return TemporalExecutor(self, process)

    # --- what clients ask ---

    def signal_with_start(self, run_id: str) -> None:
        """Wake the run's workflow, or start one."""
        name = self._address(run_id)
        workflow = self._workflows.get(name)
        if workflow is None or workflow.over:
            workflow = self._start(name, RunInput(run_id=run_id))
        workflow.wake()

    def start_by_value(self, workflow_id: str, prompt: str) -> None:
        """Start a workflow as any Temporal client may: the prompt is its argument."""
        self._start(workflow_id, RunInput(prompt=prompt))

    def signal_send(self, workflow_id: str, text: str, request_id: str) -> bool:
        """Signal a message to a workflow; False where it is over."""
        workflow = self._workflows[workflow_id]
        if not workflow.over:
            workflow.send(text, request_id)
        return not workflow.over

    def request_cancel(self, run_id: str) -> bool:
        """Ask the run's workflow to cancel; False where none goes on."""
        workflow = self._workflows.get(self._address(run_id))
        if workflow is None or workflow.over:
            return False
        workflow.cancel()
        return True

    def _address(self, run_id: str) -> str:
        state = self.world.newest(run_id)
        return (state.driver.workflow_id if state else None) or f"thoughtgear-{run_id}"

    def _start(self, workflow_id: str, given: RunInput) -> Runtime:
        made = Runtime(self, workflow_id, self.next_run_id(), sparse(given))
        self._workflows[workflow_id] = made
        return made

    def next_run_id(self) -> str:
        """Return the id of a new execution."""
        self._started += 1
        return f"temporal-run-{self._started}"

    def settle(self) -> bool:
        """Look at the conditions that the workflows wait for."""
        met = [workflow.settle() for workflow in self._workflows.values() if not workflow.over]
        return any(met)

    def again(self, run_id: str) -> None:
        """Someone schedules the run once more."""
        self.world.later(0.0, self.world.once(lambda handler: handler.continue_run(run_id)))

    def unfinished(self) -> list[str]:
        """The workflows that are still open."""
        return [workflow_id for workflow_id, workflow in self._workflows.items() if not workflow.over]

    def can_be_stale(self) -> bool:
        return bool(self._written_off())

    def start_stale(self) -> None:
        """A worker starts an attempt that it was given long ago, and that the server has written off."""
        tasks, workers = self._written_off(), self._usable()
        if workers:
            task = self.world.chance.choice(tasks) if self.world.varied else tasks[-1]
            self._deliver(task, workers[-1])

    def _written_off(self) -> list[ActivityTask]:
        return [task for task in self._tasks if task.outcome.done()]

    # --- what the workflow asks ---

    async def carry_out(self, order: Order, sent: dict[str, Any]) -> dict[str, Any]:
        """Try an activity until it succeeds, fails for good or is cancelled; raise what the workflow sees."""
        number: int = 0
        details: Sequence[int] = ()
        while True:
            number += 1
            worker = await self._pick(order.runtime)
            task = ActivityTask(
                order=order,
                temporal_run_id=order.runtime.temporal_run_id,
                number=number,
                given=sent,
                details=details,
                outcome=self.world.loop.create_future(),
                beat_at=self.world.loop.now,
            )
            outcome = await self._try(task, worker)
            details = task.details
            self.world.ledger.history.append((sent, outcome, details))
            if isinstance(outcome, dict):
                return outcome
            if outcome is CANCELLED:
                raise activity_error(CancelledError("The activity was cancelled."))
            if not order.cancelled:
                await order.pause(_delay(outcome, number))
            if order.cancelled:
                timed_out = TimedOutError("The activity timed out.", type=None, last_heartbeat_details=[])
                raise activity_error(timed_out if outcome is TIMED_OUT else CancelledError("Cancelled."))

    async def _try(self, task: ActivityTask, worker: Worker) -> Any:
        self._tasks.append(task)
        self._deliver(task, worker)
        self._watch(task)
        task.order.runtime.worker = worker
        return await task.outcome

    async def _pick(self, runtime: Runtime) -> Worker:
        """By default the worker that has it warm."""
        while not (usable := self._usable()):
            await self.world.loop.tick(LOOK_FOR_WORKER)
        if self.world.varied:
            return self.world.chance.choice(usable)
        return runtime.worker if runtime.worker in usable else usable[0]

    def _usable(self) -> list[Worker]:
        return [one for one in self._workers if one.process.state == RUNNING and not one.stopping]

    def _watch(self, task: ActivityTask) -> None:
        """Time the attempt out when its worker gives no sign of life."""
        if task.outcome.done():
            return
        left = task.beat_at + task.order.limit - self.world.loop.now
        if left <= 0:
            task.outcome.set_result(TIMED_OUT)
        else:
            self.world.loop.in_world(left, self._watch, task)

    # --- workers ---

    def _start_worker(self) -> None:
        worker = Worker(self.world)
        worker.process.on_death.append(partial(self._gone, worker))
        worker.process.on_stop.append(partial(self._shut_down, worker))
        self._workers.append(worker)

    def _gone(self, worker: Worker) -> None:
        self._workers.remove(worker)
        self.world.loop.in_world(RESTART, self._start_worker)

    def _shut_down(self, worker: Worker) -> None:
        """Cancel what is under way; when it has ended, the process ends, too."""
        if not worker.stopping:
            worker.stopping = True
            for env in list(worker.under_way):
                env.cancel(SHUTDOWN)
            self.world.later(0.0, self._end(worker))

    async def _end(self, worker: Worker) -> None:
        if worker.under_way:
            await asyncio.wait(worker.under_way.values())
        worker.process.die()

    def _deliver(self, task: ActivityTask, worker: Worker) -> None:
        self._deliveries += 1
        env = ActivityEnvironment(client=self)  # type: ignore[arg-type]  # nobody asks it anything
        env.info = replace(
            INFO,
            activity_id=task.order.activity_id,
            attempt=task.number,
            heartbeat_details=task.details,
            workflow_id=task.order.runtime.workflow_id,
            workflow_run_id=task.temporal_run_id,
        )
        env.on_heartbeat = partial(self._beat, task, env, worker)
        work = self._work(task, worker, env, f"{self._deliveries}")
        worker.under_way[env] = self.world.loop.spawn(work, worker.process)

    async def _work(self, task: ActivityTask, worker: Worker, env: ActivityEnvironment, name: str) -> None:
        """What the worker's process does with an attempt."""
        ATTEMPT.set(name)
        world, activity = self.world, getattr(worker.activities, task.order.kind)
        try:
            outcome = await env.run(activity, restored(_INPUTS[task.order.kind], task.given)) or {}
        except ApplicationError as exc:
            outcome = exc
        except asyncio.CancelledError:
            details = env._cancellation_details.details
            outcome = CANCELLED if details is REQUESTED else ApplicationError("The worker shuts down.")
        try:
            if fault := world.due("report:before", worker.process):
                await world.strike(fault, "report:before", worker.process)
        except NotReportedError:
            return
        finally:
            worker.under_way.pop(env, None)
        if not task.outcome.done():
            task.outcome.set_result(outcome)

    def _beat(self, task: ActivityTask, env: ActivityEnvironment, worker: Worker, version: int) -> None:
        """A heartbeat comes in; its answer may be a cancel."""
        if task.outcome.done():
            env.cancel(NOT_FOUND)
            return
        task.beat_at, task.details = self.world.loop.now, (version,)
        if task.order.cancelled:
            env.cancel(REQUESTED)


def _delay(outcome: Any, number: int) -> float:
    """Seconds before the next attempt. Raises `ActivityError` where there is none."""
    if isinstance(outcome, ApplicationError):
        if outcome.non_retryable:
            raise activity_error(outcome)
        if outcome.next_retry_delay is not None:
            return outcome.next_retry_delay.total_seconds()
    return min(RETRY_FIRST * RETRY_FACTOR ** (number - 1), RETRY_MOST)
