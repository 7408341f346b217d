"""The SQS executor on a server of SQS's API: redelivery, duplicates, workers that die, and dead letters."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from proofs.agent import AFTER_COMMIT, DURING_TOOL, Agent, prompt
from proofs.faults import Fault
from proofs.ledger import Ledger
from proofs.violations import Ended, violations
from proofs.workers import Job, WorkerProcess
from sqs_process import work
from sqs_server import MOST_RECEIVES, SqsServer

from thoughtgear import Limits, PromptHandler, ScheduledExecutor, SqsExecutor, SqsWorker, tool
from thoughtgear.errors import ConfigurationError, ExecutorUnavailableError, ModelUnavailableError
from thoughtgear.models import Claim, RunState
from thoughtgear.providers.scripted import ScriptedProvider, call
from thoughtgear.registry import open_store

STEPS = 4
SECONDS = 90.0


class Case:
    """A queue and a store of its own, and the agent of the proofs over them."""

    def __init__(self, server: SqsServer, folder: Path, **options: Any) -> None:
        self.server, self.folder = server, folder
        self.url, self.dead = server.queue(**options)
        self.db = f"sqlite:///{folder}/runs.db"
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.client = server.client()
        self.text = prompt("sqs", STEPS)
        self.job = Job(self.db, folder, server.endpoint, self.url)

    def executor(self) -> SqsExecutor:
        return SqsExecutor(self.url, client=self.client, claim_seconds=1)

    def handler(self) -> PromptHandler:
        return Agent(self.ledger).handler(open_store(self.db), self.executor())

    @asynccontextmanager
    async def worker(self, handler: PromptHandler | None = None, **options: Any) -> AsyncIterator[SqsWorker]:
        """A worker in this process while the context is open."""
        async with handler or self.handler() as served:
            stop = asyncio.Event()
            made = SqsWorker(served, **{"visibility": 2, "poll": 1, **options})
            running = asyncio.create_task(made.run(stop))
            try:
                yield made
            finally:
                stop.set()
                await running

    def sent(self, url: str) -> list[dict[str, Any]]:
        """The messages of a queue that are there for whoever comes; they are taken out."""
        found: list[dict[str, Any]] = []
        while messages := self.client.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=60
        ).get("Messages"):
            found += messages
        return [json.loads(message["Body"]) for message in found]

    def empty(self) -> bool:
        """Whether no message is in the queue, nor in anybody's hands."""
        names = ("", "NotVisible", "Delayed")
        keys = [f"ApproximateNumberOfMessages{name}" for name in names]
        got = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=keys)["Attributes"]
        return not any(int(got[key]) for key in keys)

    async def until(self, what: Callable[[], Any]) -> Any:
        async with asyncio.timeout(SECONDS):
            while not (found := await asyncio.to_thread(what)):
                await asyncio.sleep(0.05)
        return found

    async def ended(self, run_id: str) -> RunState:
        """The run, once it is over and the queue is empty."""
        store = open_store(self.db)
        async with asyncio.timeout(SECONDS):
            while not (state := await store.load_run(run_id)).over:
                await asyncio.sleep(0.05)
        self.history = await store.get_history(run_id)
        await store.aclose()
        return state

    async def wrong(self, state: RunState, **facts: Any) -> list[str]:
        return await violations(Ended(self.text, STEPS, state, self.history, **facts), self.ledger)


@pytest.mark.parametrize("fifo", [False, True], ids=["standard", "fifo"])
async def test_a_run_is_one_message_per_iteration(sqs: SqsServer, tmp_path: Path, fifo: bool) -> None:
    """A prompt is answered by one message per iteration; the queue is empty then, and no letter is dead."""
    case = Case(sqs, tmp_path, fifo=fifo)
    async with case.worker() as worker:
        [handler] = worker._handlers.values()
        run = await handler.handle_prompt(case.text)
        state = await case.ended(run.run_id)
        await case.until(case.empty)
    assert await case.wrong(state) == []
    assert (state.claim.epoch, state.driver.executor) == (STEPS + 1, "sqs")
    assert case.sent(case.dead) == []


async def test_copies_of_messages_are_used_once(sqs: SqsServer, tmp_path: Path) -> None:
    """Copies of every message, at once and later, in two workers: nothing is bought or done twice, and they
    leave nothing behind."""
    case = Case(sqs, tmp_path)
    copies = 3
    send = case.client.send_message
    bodies: list[str] = []

    def send_copies(**message: Any) -> Any:
        bodies.append(message["MessageBody"])
        for _ in range(copies):
            sent = send(**message)
        for body in bodies[:-1]:  # and what was sent before comes late
            send(QueueUrl=case.url, MessageBody=body)
        return sent

    case.client.send_message = send_copies
    async with case.worker() as worker, case.worker():
        [handler] = worker._handlers.values()
        run = await handler.handle_prompt(case.text)
        state = await case.ended(run.run_id)
        await case.until(case.empty)
    assert await case.wrong(state) == []
    assert len(bodies) == STEPS + 1
    assert len(set(bodies)) == STEPS + 1
    assert case.sent(case.dead) == []


@pytest.mark.parametrize(
    ("point", "fifo"),
    [(DURING_TOOL, True), pytest.param(AFTER_COMMIT, False, marks=pytest.mark.long)],
    ids=["tool", "commit"],
)
async def test_a_worker_that_is_killed(sqs: SqsServer, tmp_path: Path, point: str, fifo: bool) -> None:
    """The message of a worker that dies comes again when its visibility ends, and another worker goes on from
    the last commit, also where the next message was not yet sent."""
    case = Case(sqs, tmp_path, fifo=fifo)
    doomed = WorkerProcess(case.job.striking(Fault("hold", point, 3)), work)
    async with case.handler() as handler:
        run = await handler.handle_prompt(case.text)
    await case.until(lambda: case.ledger.notes("fault", point=point))
    doomed.signal(signal.SIGKILL)
    assert await doomed.ended() == -signal.SIGKILL
    async with case.worker():
        state = await case.ended(run.run_id)
        await case.until(case.empty)
    assert await case.wrong(state, unknown=None) == []
    assert case.sent(case.dead) == []


async def test_a_long_iteration_keeps_its_message(sqs: SqsServer, tmp_path: Path) -> None:
    """A message stays with its worker for an iteration that takes longer than its visibility: another worker
    is not given it."""
    case = Case(sqs, tmp_path)
    asked = []

    async def slow(request: Any) -> str:
        asked.append(1)
        await asyncio.sleep(5)
        return "late"

    received: list[str] = []
    receive = case.client.receive_message

    def noting(**given: Any) -> Any:
        answer = receive(**given)
        received.extend(message["MessageId"] for message in answer.get("Messages", []))
        return answer

    case.client.receive_message = noting

    def make() -> PromptHandler:
        model = ScriptedProvider(replies=slow, name="slow")
        return PromptHandler(model=model, db=case.db, executor=case.executor())

    async with case.worker(make()) as worker, case.worker(make()):
        [handler] = worker._handlers.values()
        run = await handler.handle_prompt("go")
        state = await case.ended(run.run_id)
        await case.until(case.empty)
    assert (state.output, len(asked), len(received)) == ("late", 1, 1)


async def test_a_message_that_kills_its_workers(sqs: SqsServer, tmp_path: Path) -> None:
    """A message whose workers die each time is tried no more before its last delivery: the run ends as failed
    and says so, and the message is in the dead-letter queue."""
    case = Case(sqs, tmp_path, most=2)
    doomed = WorkerProcess(case.job.striking(Fault("die", DURING_TOOL, 1)), work)
    async with case.handler() as handler:
        run = await handler.handle_prompt(case.text)
    assert await doomed.ended() == 77
    async with case.worker():
        state = await case.ended(run.run_id)
        letters = await case.until(lambda: case.sent(case.dead))
        await case.until(case.empty)
    assert (state.status, state.error and state.error.type) == ("failed", "PoisonMessageError")
    assert [letter["runId"] for letter in letters] == [run.run_id]
    assert len(case.ledger.notes("reply")) == 1
    assert [m.tool_result.status for m in case.history if m.tool_result] == ["unknown", "cancelled"]


async def test_a_message_that_is_no_runs(
    sqs: SqsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no message of a run goes to the dead-letter queue, and keeps no run from its end."""
    case = Case(sqs, tmp_path)
    wrong = ["{", "[]", '{"action": "continue", "runId": "nobody", "handler": "default"}']
    wrong += ['{"action": "start", "text": "secret-5", "handler": "default"}', '{"runId": "r"}']
    for body in wrong:
        case.client.send_message(QueueUrl=case.url, MessageBody=body)
    with caplog.at_level(logging.INFO, "thoughtgear"):
        async with case.worker() as worker:
            [handler] = worker._handlers.values()
            run = await handler.handle_prompt(case.text)
            state = await case.ended(run.run_id)
            await case.until(case.empty)
    assert await case.wrong(state) == []
    client = case.client
    letters = client.get_queue_attributes(QueueUrl=case.dead, AttributeNames=["ApproximateNumberOfMessages"])
    assert int(letters["Attributes"]["ApproximateNumberOfMessages"]) == len(wrong)
    assert "secret-5" not in caplog.text


@pytest.mark.parametrize("fifo", [False, True], ids=["standard", "fifo"])
async def test_a_handler_that_another_worker_has(
    sqs: SqsServer, tmp_path: Path, fifo: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that workers without its handler receive more often than a queue delivers it reaches the
    worker that has it; one whose handler nobody has for long is a dead letter."""
    monkeypatch.setattr("thoughtgear.executors.sqs_worker.ELSEWHERE_SECONDS", 0.1)
    case = Case(sqs, tmp_path, fifo=fifo)
    other = PromptHandler("other", model="scripted:echo", db=case.db, executor=case.executor())
    sent: list[str] = []
    send = case.client.send_message

    def noting(**message: Any) -> Any:
        sent.append(message["MessageBody"])
        return send(**message)

    case.client.send_message = noting
    async with case.worker(other), case.handler() as handler:
        run = await handler.handle_prompt(case.text)
        await case.until(lambda: len(sent) > MOST_RECEIVES + 2)
    async with case.worker():
        state = await case.ended(run.run_id)
        await case.until(case.empty)
    assert await case.wrong(state) == []
    assert case.sent(case.dead) == []
    monkeypatch.setattr("thoughtgear.executors.sqs_worker.ELSEWHERE_MOST", -1.0)
    other = PromptHandler("other", model="scripted:echo", db=case.db, executor=case.executor())
    async with case.handler() as handler, case.worker(other):
        await handler.handle_prompt(case.text)
        assert await case.until(lambda: case.sent(case.dead))


@pytest.mark.parametrize("fifo", [False, True], ids=["standard", "fifo"])
async def test_waits_do_not_count_as_failures(sqs: SqsServer, tmp_path: Path, fifo: bool) -> None:
    """A run whose provider is busy more often than a message may be received goes on and ends: a wait is kept
    by the worker, or by the queue, and is no redelivery."""
    case = Case(sqs, tmp_path, fifo=fifo)
    times = MOST_RECEIVES + 2
    asked: list[int] = []

    async def busy(request: Any) -> str:
        asked.append(1)
        if len(asked) <= times:
            raise ModelUnavailableError("HTTP 429", retry_after=0.01)
        return "hi"

    model = ScriptedProvider(replies=busy, name="busy")
    limits = Limits(seconds=3600)
    handler = PromptHandler(model=model, db=case.db, executor=case.executor(), limits=limits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thoughtgear.executors.turns.retry_delay", lambda failures, asked: 0.1)
        async with case.worker(handler):
            run = await handler.handle_prompt("go")
            state = await case.ended(run.run_id)
            await case.until(case.empty)
    assert (state.output, len(asked)) == ("hi", times + 1)
    assert case.sent(case.dead) == []


async def test_a_long_wait_is_handed_on(sqs: SqsServer, tmp_path: Path) -> None:
    """In a FIFO queue a wait that is longer than a message may be kept goes from message to message, in one
    chain, and the run waits as long as it has to."""
    case = Case(sqs, tmp_path, fifo=True)
    sent: list[str] = []
    send = case.client.send_message

    def noting(**message: Any) -> Any:
        sent.append(message["MessageBody"])
        return send(**message)

    @tool
    def look() -> str:
        """Look."""
        return "seen"

    case.client.send_message = noting
    asked: list[float] = []

    async def say(request: Any) -> Any:
        asked.append(time.monotonic())
        return [call("look")] if len(asked) == 1 else "end"

    model = ScriptedProvider(replies=say, name="paced")
    executor = ScheduledExecutor(case.executor(), delay=2.5)
    handler = PromptHandler(model=model, tools=[look], db=case.db, executor=executor)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("LONGEST_DELAY", "LOOK_SECONDS"):
            patch.setattr(f"thoughtgear.executors.sqs_worker.{name}", 0.2)
        async with case.worker(handler):
            run = await handler.handle_prompt("go")
            state = await case.ended(run.run_id)
            await case.until(case.empty)
    assert (state.output, len(asked)) == ("end", 2)
    assert asked[1] - asked[0] >= 2.4
    epochs = [json.loads(body)["epoch"] for body in sent]
    assert epochs == list(range(len(sent)))
    assert len(sent) >= 3


async def test_a_worker_that_stops_gives_its_message_back(sqs: SqsServer, tmp_path: Path) -> None:
    """Workers that are stopped in the middle of an iteration cut it off when the grace is over: claim and
    message are given back, another one goes on at once, and however many were stopped, no letter is dead."""
    case = Case(sqs, tmp_path)
    begun = asyncio.Event()

    async def slow(request: Any) -> str:
        begun.set()
        await asyncio.sleep(600)
        return "never"

    def make() -> PromptHandler:
        model = ScriptedProvider(replies=slow, name="slow")
        return PromptHandler(model=model, db=case.db, executor=case.executor())

    async with make() as client:
        run = await client.handle_prompt("go")
    for _ in range(MOST_RECEIVES + 1):
        begun.clear()
        async with case.worker(make(), grace=0.1, visibility=600):
            await asyncio.wait_for(begun.wait(), SECONDS)
    other = PromptHandler(model="scripted:echo", db=case.db, executor=case.executor())
    async with case.worker(other):
        state = await case.ended(run.run_id)
        await case.until(case.empty)
    assert state.output == "go"
    assert case.sent(case.dead) == []


@pytest.mark.parametrize("end", ["message", "cancel"])
async def test_what_ends_a_delay_in_a_fifo_queue(sqs: SqsServer, tmp_path: Path, end: str) -> None:
    """A message to a run that a worker of a FIFO queue keeps for an hour is read within seconds, and a cancel
    ends the run likewise."""
    case = Case(sqs, tmp_path, fifo=True)
    model = ScriptedProvider(replies=[[call("none")], "end"], name="waits")
    executor = ScheduledExecutor(case.executor(), delay=3600)
    async with case.worker(PromptHandler(model=model, db=case.db, executor=executor)) as worker:
        [handler] = worker._handlers.values()
        run = await handler.handle_prompt("go")
        await case.until(lambda: worker._waiting)
        if end == "message":
            await handler.send(run.run_id, "now")
        else:
            await handler.cancel(run.run_id)
        state = await case.ended(run.run_id)
        await case.until(case.empty)
    assert (state.status, state.iteration) == (("done", 2) if end == "message" else ("cancelled", 1))


async def test_workers_that_are_stopped_while_they_wait(sqs: SqsServer, tmp_path: Path) -> None:
    """Workers of a FIFO queue that are stopped in the middle of a delay, more of them than a message may be
    received: each leaves the next message with what is left, and no letter is dead."""
    case = Case(sqs, tmp_path, fifo=True)
    executor = ScheduledExecutor(case.executor(), delay=3600)
    model = ScriptedProvider(replies=[[call("none")], "end"], name="waits")
    async with PromptHandler(model=model, db=case.db, executor=executor) as client:
        run = await client.handle_prompt("go")
    for _ in range(MOST_RECEIVES + 1):
        handler = PromptHandler(
            model=model, db=case.db, executor=ScheduledExecutor(case.executor(), delay=3600)
        )
        async with case.worker(handler) as worker:
            await case.until(lambda w=worker: w._waiting)
    assert case.sent(case.dead) == []
    [message] = case.sent(case.url)
    assert (message["runId"], message["notBefore"] > time.time() + 3000) == (run.run_id, True)


async def test_workers_that_are_stopped_at_a_busy_run(sqs: SqsServer, tmp_path: Path) -> None:
    """Workers that are stopped while another driver is at work on the run, more of them than a message may
    be received, count nothing against it: one that is there when that driver has gone goes on."""
    case = Case(sqs, tmp_path)
    async with case.handler() as client:
        run = await client.create_run(case.text)
        held = run.model_copy(update={"version": run.version + 1})
        held.claim = Claim(epoch=1, owner="somebody/1", driver="local", deadline=time.time() + 3000)
        await client.store.save_run(held, [])
        await client.executor.schedule_next_iteration(run.run_id)
        for _ in range(MOST_RECEIVES + 1):
            async with case.worker() as worker:
                await case.until(lambda w=worker: w._waiting)
        free = held.model_copy(update={"version": held.version + 1, "claim": Claim(epoch=1)})
        await client.store.save_run(free, [])
    async with case.worker():
        state = await case.ended(run.run_id)
        await case.until(case.empty)
    assert await case.wrong(state) == []
    assert case.sent(case.dead) == []


async def test_a_queue_without_dead_letters_is_refused(sqs: SqsServer, tmp_path: Path) -> None:
    """A worker of a queue that would deliver a poisonous message for ever does not start, and says what to
    do."""
    case = Case(sqs, tmp_path, most=None)
    async with case.handler() as handler:
        with pytest.raises(ConfigurationError, match="RedrivePolicy"):
            await SqsWorker(handler).run()


async def test_a_queue_that_is_away(sqs: SqsServer, tmp_path: Path) -> None:
    """Where the queue can't be reached, or is not there, the prompt is stored and the error names its run."""
    for url, settings in (
        ("http://127.0.0.1:1/1/q", {**sqs.settings(), "endpoint_url": "http://127.0.0.1:1"}),
        (f"{sqs.endpoint}/1/none", sqs.settings()),
    ):
        executor = SqsExecutor(url, **settings)
        db = f"sqlite:///{tmp_path}/runs.db"
        async with PromptHandler(model="scripted:echo", db=db, executor=executor) as handler:
            with pytest.raises(ExecutorUnavailableError) as caught:
                await handler.handle_prompt("go")
            assert (await handler.get_run(caught.value.run_id or "")).status == "pending"


@pytest.mark.parametrize("wrong", [None, "", "queue"])
def test_a_queue_is_a_url(wrong: Any) -> None:
    """What is no URL of a queue is refused when the executor is made."""
    with pytest.raises(ConfigurationError):
        SqsExecutor(wrong, region_name="us-east-1")


def test_what_a_worker_needs(sqs: SqsServer, tmp_path: Path) -> None:
    """A worker is refused handlers of other executors, of two queues, or of one name, and odd options."""
    db = f"sqlite:///{tmp_path}/runs.db"

    def handler(name: str, url: str) -> PromptHandler:
        executor = SqsExecutor(url, **sqs.settings())
        return PromptHandler(name, model="scripted:echo", db=db, executor=executor)

    one = handler("one", "http://q/1")
    for wrong in ([], [PromptHandler(model="scripted:echo", db=db)], [one, handler("two", "http://q/2")]):
        with pytest.raises(ConfigurationError):
            SqsWorker(wrong)
    with pytest.raises(ConfigurationError, match="name"):
        SqsWorker([one, handler("one", "http://q/1")])
    for options in ({"concurrency": 0}, {"visibility": 1}, {"poll": 21}, {"grace": -1}):
        with pytest.raises(ConfigurationError):
            SqsWorker(one, **options)


async def test_the_example_runs(sqs: SqsServer, tmp_path: Path) -> None:
    """The example, as it is, answers a prompt through a queue that its environment names."""
    case = Case(sqs, tmp_path)
    script = Path(__file__).parents[2] / "examples" / "sqs.py"
    environment = {
        "AWS_ENDPOINT_URL_SQS": sqs.endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "THOUGHTGEAR_SQS_QUEUE_URL": case.url,
        "THOUGHTGEAR_MODEL": "scripted:echo",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script), "Pay invoice 1207."),
        cwd=tmp_path,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert (process.returncode, out.decode()) == (0, "done Pay invoice 1207.\n")
