"""Executors that are asked in turn, and a run that two of them were told to drive."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cut_proxy import CutProxy
from drivers import Scene, Sqs
from proofs.agent import AFTER_REPLY, BEFORE_MODEL, DURING_TOOL, At, nothing, prompt
from proofs.faults import Fault, Gate
from proofs.violations import Ended, open_workflows, violations
from proofs.workers import Job, WorkerProcess
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
from thoughtgear.devserver import DevServer
from thoughtgear.errors import ConfigurationError, ExecutorUnavailableError
from thoughtgear.providers.scripted import ScriptedProvider, call

STEPS = 7
NOWHERE = "127.0.0.1:1"


class Named:
    """An executor of that name. It schedules nothing: it raises, or never answers, or takes the run."""

    self_driving = True

    def __init__(self, name: str, how: str = "away") -> None:
        self.name, self.how = name, how
        self.asked: list[str] = []
        self.cancelled: list[str] = []

    async def schedule_next_iteration(self, run_id: str) -> None:
        self.asked.append(run_id)
        if self.how == "hangs":
            await asyncio.Event().wait()
        if self.how == "away":
            raise ExecutorUnavailableError(f"{self.name} is away.")

    async def cancel(self, run_id: str) -> bool:
        self.cancelled.append(run_id)
        if self.how == "away":
            raise ExecutorUnavailableError
        return True


def handler_of(*members: Any, db: str = "memory://", **options: Any) -> PromptHandler:
    executor = FailoverExecutor(members, **options)
    return PromptHandler(model="scripted:echo", db=db, executor=executor)


async def test_the_next_one_drives_when_the_first_is_away(tmp_path: Path) -> None:
    """Where Temporal can't be reached a prompt is answered by the next executor; wait and cancel go to it."""
    away = TemporalExecutor(await Client.connect(NOWHERE, lazy=True))
    async with handler_of(away, LocalExecutor(), db=f"sqlite:///{tmp_path}/runs.db", patience=2) as handler:
        run = await handler.handle_prompt("go")
        state = await handler.wait(run.run_id, timeout=60)
        assert (state.output, state.driver.executor) == ("go", "local")
        cancelled = await handler.create_run("another")
        assert (await handler.cancel(cancelled.run_id)).status == "cancelled"


async def test_one_that_could_not_rests() -> None:
    """An executor that could not schedule is asked last for a while, and again first after that."""
    first, second = Named("first"), Named("second", "takes")
    async with handler_of(first, second, rest=3600) as handler:
        for _ in range(3):
            await handler.handle_prompt("go")
        assert (len(first.asked), len(second.asked)) == (1, 3)
        second.how, first.how = "away", "takes"
        await handler.handle_prompt("go")
        assert (len(first.asked), len(second.asked)) == (2, 4)
        await handler.handle_prompt("go")
        assert (len(first.asked), len(second.asked)) == (3, 4)


async def test_one_that_does_not_answer_is_given_up() -> None:
    """An executor that hangs keeps a prompt for its patience and no longer."""
    hangs, takes = Named("hangs", "hangs"), Named("takes", "takes")
    begin = time.monotonic()
    async with handler_of(hangs, takes, patience=0.2) as handler:
        run = await handler.handle_prompt("go")
    assert takes.asked == [run.run_id]
    assert 0.2 <= time.monotonic() - begin < 10


async def test_where_none_can_the_prompt_is_stored(caplog: pytest.LogCaptureFixture) -> None:
    """When no executor can schedule, the error names the run and what each of them said."""
    async with handler_of(Named("one"), Named("two")) as handler:
        with (
            caplog.at_level(logging.WARNING, "thoughtgear"),
            pytest.raises(ExecutorUnavailableError, match=r"one is away.*two is away") as caught,
        ):
            await handler.handle_prompt("go")
        assert (await handler.get_run(caught.value.run_id or "")).status == "pending"


async def test_a_run_stays_with_what_drives_it() -> None:
    """A run that the second executor has begun is scheduled there, though the first one is back; a cancel
    goes to the one that drives, and stays in the store where that is away."""
    first, second = Named("first", "takes"), Named("second", "takes")
    async with handler_of(first, second) as handler:
        run = await handler.create_run("go")
        state = run.model_copy(update={"version": run.version + 1, "status": "running"})
        state.claim, state.driver = state.claim.model_copy(update={"epoch": 1}), state.driver.model_copy()
        state.driver.executor = "second"
        await handler.store.save_run(state, [])
        await handler.send(run.run_id, "more")
        assert (first.asked, second.asked) == ([], [run.run_id])
        assert (await handler.cancel(run.run_id)).status == "running"
        second.how = "away"
        assert (await handler.cancel(run.run_id)).status == "cancelled"
        assert (first.cancelled, len(second.cancelled)) == ([], 2)


async def test_what_drives_a_run_is_asked_first_also_when_it_could_not_just_now() -> None:
    """A run that the first executor has begun is moved by nothing but a schedule that it refuses itself: not
    by one of another run, nor by a store that is slow."""
    first, second = Named("first"), Named("second", "takes")
    async with handler_of(first, second, rest=3600) as handler:
        await handler.handle_prompt("another")
        run = await handler.create_run("go")
        state = run.model_copy(update={"version": run.version + 1, "status": "running"})
        state.claim = state.claim.model_copy(update={"epoch": 1})
        await handler.store.save_run(state, [])
        first.how = "takes"
        await handler.send(run.run_id, "more")
        assert (first.asked[1:], second.asked[1:]) == ([run.run_id], [])


async def test_the_store_says_who_took_a_run() -> None:
    """A run that the next executor took says so before it begins, so that no reconciler of the first one
    starts a workflow for it."""
    async with handler_of(Named("temporal"), Named("second", "takes")) as handler:
        run = await handler.handle_prompt("go")
        state = await handler.get_run(run.run_id)
    assert (state.driver.executor, state.claim.epoch, state.status) == ("second", 0, "pending")


@pytest.mark.parametrize("how", ["raises", "hangs"])
async def test_a_store_that_can_not_be_told_fails_no_schedule(how: str) -> None:
    """What a store raises, or that it hangs, when it is told who took a run, is no failure of a schedule that
    succeeded."""
    takes = Named("second", "takes")
    async with handler_of(Named("first"), takes, patience=0.2) as handler, asyncio.timeout(10):
        run = await handler.create_run("go")

        async def fails(*_: Any) -> None:
            if how == "hangs":
                await asyncio.Event().wait()
            raise RuntimeError("a driver's own error")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(handler.store, "save_run", fails)
            await handler.executor.schedule_next_iteration(run.run_id)
    assert takes.asked == [run.run_id]


async def test_a_slow_store_is_no_fault_of_an_executor(tmp_path: Path, sqs: SqsServer) -> None:
    """A store that answers later than an executor may take has no run go to the next one."""
    (url, _), second = sqs.queue(), Named("second", "takes")
    queue = SqsExecutor(url, client=sqs.client())
    async with handler_of(queue, second, db=f"sqlite:///{tmp_path}/runs.db", patience=2) as handler:
        load = handler.store.load_run

        async def slow(run_id: str) -> Any:
            await asyncio.sleep(2.5)
            return await load(run_id)

        run = await handler.create_run("go")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(handler.store, "load_run", slow)
            await handler.executor.schedule_next_iteration(run.run_id)
    assert second.asked == []


@pytest.mark.parametrize(
    "members",
    [
        [],
        ["local"],
        "local",
        None,
        [LocalExecutor(), ScheduledExecutor(delay=1)],
        [LocalExecutor(), object()],
    ],
    ids=["none", "one", "a name", "nothing", "a pace", "no executor"],
)
def test_what_can_take_over_nothing_is_refused(members: Any) -> None:
    """Fewer than two executors, one at a pace of its own, and one that only schedules are refused."""
    with pytest.raises(ConfigurationError):
        FailoverExecutor(members)


def test_the_checks_of_each_are_kept() -> None:
    """A store that one of the executors can't reach is refused; one executor is not given twice; and of
    durations none is odd."""
    one = LocalExecutor()
    for refused in (
        lambda: FailoverExecutor([one, one]),
        lambda: FailoverExecutor([one, "local"], patience=0),
    ):
        with pytest.raises(ConfigurationError):
            refused()
    with pytest.raises(ConfigurationError, match="LambdaExecutor needs a store"):
        handler_of(LocalExecutor(), LambdaExecutor(print))


class Partition:
    """Temporal behind a proxy, with a worker there; SQS, with a worker there; and one store and ledger."""

    def __init__(self, scene: Scene, proxy: CutProxy, client: Client) -> None:
        self.scene, self.proxy, self._client = scene, proxy, client
        self.queue, self._sqs = f"q-{uuid4().hex}", Sqs(scene)

    def handler(self, at: At = nothing, patience: float = 60) -> PromptHandler:
        """What every process has."""
        sqs = SqsExecutor(self._sqs.url, client=self._sqs.aws, claim_seconds=5)
        both = FailoverExecutor([TemporalExecutor(self._client, self.queue), sqs], patience=patience)
        return self.scene.handler(both, at)

    @asynccontextmanager
    async def temporal(self, at: At) -> AsyncIterator[None]:
        handler = self.handler(at)
        async with handler, build_worker(self._client, [handler], self.queue, reconcile_every=None):
            yield

    @asynccontextmanager
    async def sqs(self, at: At) -> AsyncIterator[None]:
        stop = asyncio.Event()
        async with self.handler(at) as handler:
            working = asyncio.create_task(SqsWorker(handler, visibility=5, poll=1, grace=0).run(stop))
            yield
            stop.set()
            await working

    async def cut_off(self, run_id: str) -> None:
        """Cut Temporal off, and have the run driven by whatever can."""
        self.proxy.cut()
        async with self.handler(patience=2) as handler:
            await handler.continue_run(run_id)

    async def told(self, run_id: str, status: str) -> bool:
        """Whether the workflow, asked on the way that is never cut, has learnt that."""
        handle = self.scene.client.get_workflow_handle(f"thoughtgear-{run_id}")
        try:
            async with asyncio.timeout(2):
                return bool((await handle.query("progress"))["status"] == status)
        except Exception:
            return False  # its worker is not back yet

    async def idle(self) -> bool:
        return await self._sqs.idle() and not await open_workflows(self.scene.client, self.queue)


@pytest.fixture
async def partition(tmp_path: Path, temporal: DevServer, sqs: SqsServer) -> AsyncIterator[Partition]:
    scene = Scene(tmp_path, await Client.connect(temporal.address), sqs)
    async with CutProxy(temporal.address).running() as proxy:
        yield Partition(scene, proxy, await Client.connect(proxy.address))
    await scene.store.aclose()


@pytest.mark.parametrize("point", [DURING_TOOL, AFTER_REPLY], ids=["tool", "reply"])
async def test_a_partitioned_primary(partition: Partition, point: str) -> None:
    """Temporal is cut off while its worker is in the middle of an iteration, and SQS takes the run over; the
    worker goes on, Temporal comes back and goes on with the workflow. Each reply is saved once, no payment
    is made twice, and at the end nobody drives the run any more. One reply may be lost, where both asked the
    model at once.
    """
    scene, text = partition.scene, prompt("partition", STEPS)
    held, later = Gate(point, 3), Gate(BEFORE_MODEL, 5)
    async with partition.temporal(held.at), partition.handler() as handler:
        run_id = (await handler.handle_prompt(text)).run_id
        await scene.until(held.reached.is_set)
        await partition.cut_off(run_id)
        async with partition.sqs(later.at):
            if point == DURING_TOOL:  # it holds the run's claim, and SQS waits for that
                held.open()
            await scene.until(later.reached.is_set)
            assert (await scene.state(run_id)).driver.executor == "sqs"
            held.open()
            partition.proxy.heal()
            await scene.until(lambda: partition.told(run_id, "in_progress"))
            later.open()
            state = await handler.wait(run_id, timeout=60)
            await scene.until(partition.idle)
    history = await scene.store.get_history(run_id)
    assert await scene.state(run_id) == state
    assert await violations(Ended(text, STEPS, state, history, lost=1), scene.ledger) == []


@pytest.mark.long
async def test_a_primary_that_stands_still(partition: Partition, tmp_path: Path) -> None:
    """Temporal's worker is frozen in the middle of a payment and cut off from its server. SQS takes the run
    over when the worker's claim has run out, and ends it; the worker that thaws then pays and writes nothing.
    """
    scene, text = partition.scene, prompt("frozen", STEPS)
    fault = Fault("freeze", DURING_TOOL, 3)
    worker = WorkerProcess(Job(scene.url, tmp_path, partition.proxy.address, partition.queue, fault))
    async with partition.handler() as handler:
        run_id = (await handler.handle_prompt(text)).run_id
        await scene.until(lambda: worker.frozen)
        await partition.cut_off(run_id)
        async with partition.sqs(nothing):
            state = await handler.wait(run_id, timeout=80)
        partition.proxy.heal()
        worker.signal(signal.SIGCONT)
        await scene.until(lambda: scene.ledger.notes("thawed"))
        await scene.until(partition.idle)
    worker.kill()
    history = await scene.store.get_history(run_id)
    assert (await scene.state(run_id), state.driver.executor) == (state, "sqs")
    assert await violations(Ended(text, STEPS, state, history, unknown=None), scene.ledger) == []


async def test_two_queues_each_have_their_workers(sqs: SqsServer, tmp_path: Path) -> None:
    """Where the first one of two queues is out, the workers of the second one drive a run to its end in
    theirs, and need to be told which one that is."""
    (second, _), db = sqs.queue(), f"sqlite:///{tmp_path}/runs.db"
    settings = {**sqs.settings(), "endpoint_url": "http://127.0.0.1:1"}
    queues = (SqsExecutor("http://127.0.0.1:1/1/q", **settings), SqsExecutor(second, client=sqs.client()))
    stop = asyncio.Event()
    model = ScriptedProvider(replies=[[call("none")], "end"], name="two")
    async with PromptHandler(model=model, db=db, executor=FailoverExecutor(queues, patience=60)) as handler:
        with pytest.raises(ConfigurationError, match="queue_url"):
            SqsWorker(handler)
        worker = SqsWorker(handler, queue_url=second, visibility=2, poll=1)
        running = asyncio.create_task(worker.run(stop))
        run = await handler.handle_prompt("go")
        state = await handler.wait(run.run_id, timeout=60)
        stop.set()
        await running
    assert (state.output, state.iteration) == ("end", 2)


def test_two_functions_each_fire_at_themselves(tmp_path: Path) -> None:
    """Where the first one of two functions is out, the second one drives a run to its end by its own events,
    and needs to be told which one it is."""
    fired: list[dict[str, Any]] = []

    def out(event: Any) -> None:
        raise ConnectionError

    first, second = LambdaExecutor(out), LambdaExecutor(fired.append)
    model = ScriptedProvider(replies=[[call("none")], "end"], name="two")
    executor = FailoverExecutor([first, second])
    handler = PromptHandler(model=model, db=f"sqlite:///{tmp_path}/runs.db", executor=executor)
    with pytest.raises(ConfigurationError, match="executor="):
        make_lambda_handler(handler)
    with pytest.raises(ConfigurationError):
        make_lambda_handler(handler, executor=LambdaExecutor(fired.append))
    main = make_lambda_handler(handler, executor=second)
    main({"action": "start", "text": "go"}, None)
    answers = [main(fired.pop(0), None) for _ in range(2)]
    assert ([answer["continues"] for answer in answers], fired) == ([True, False], [])
