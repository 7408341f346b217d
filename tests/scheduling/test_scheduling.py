"""Schedules, wake-ups and messages in any number and at any moment: each run is driven once, and each message
is read once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from histories import chain, of_type
from proofs.agent import AFTER_COMMIT, AFTER_REPLY, BEFORE_MODEL, prompt
from proofs.case import Case
from proofs.faults import Gate
from proofs.workers import Job
from temporalio.client import Client

from thoughtgear import PromptHandler
from thoughtgear.client import RunClient
from thoughtgear.devserver import DevServer
from thoughtgear.errors import RunNotFoundError
from thoughtgear.models import RunState

STORES = ("sqlite", pytest.param("postgresql", marks=pytest.mark.long))


def sizes(every_day: int, whole: int) -> pytest.MarkDecorator:
    """How much of it: a little every day, all of it among the long tests."""
    return pytest.mark.parametrize("size", [every_day, pytest.param(whole, marks=pytest.mark.long)])


@pytest.fixture(params=STORES)
async def case(request: pytest.FixtureRequest, temporal: DevServer, tmp_path: Path) -> AsyncIterator[Case]:
    """A run to come, on a store and a queue of its own."""
    url = f"sqlite:///{tmp_path}/runs.db"
    if request.param == "postgresql":
        url = str(request.getfixturevalue("postgres").url(tmp_path))
    client = await Client.connect(temporal.address)
    made = Case(client, Job(url, tmp_path, temporal.address, f"q-{uuid4().hex}"))
    yield made
    await made.close()


@sizes(2, 20)
async def test_a_hundred_schedules_each(case: Case, size: int) -> None:
    """A run that is scheduled a hundred times at once is one execution; each iteration is run once."""
    runs = [replace_run(case) for _ in range(size)]
    gate = Gate(BEFORE_MODEL, 1)
    async with case.worker(gate.at) as handler:
        for run in runs:
            await run.ask()
        for run in runs:
            schedule = handler.executor.schedule_next_iteration
            await asyncio.gather(*(schedule(run.run_id) for _ in range(100)))
        gate.open()
        for run in runs:
            await run.over()
            executions = await chain(case.client.get_workflow_handle(f"thoughtgear-{run.run_id}"))
            # All of them are in the histories of the one execution and what continues it.
            assert sum(len(of_type(each, "WORKFLOW_EXECUTION_SIGNALED")) for each in executions) == 101
    for run in runs:
        await run.check()
        bought = Counter(note["number"] for note in run.ledger.notes("reply", prompt=run.prompt))
        assert set(bought.values()) == {1}
        await run.close()


def replace_run(case: Case) -> Case:
    """Another run on the same store, queue and ledger."""
    return Case(case.client, replace(case.job))


@sizes(40, 400)
async def test_wake_ups_at_a_finishing_run(case: Case, size: int) -> None:
    """Wake-ups that meet a run at its end are all answered, and neither drive it again nor change it."""
    gate = Gate(AFTER_COMMIT, 2)
    await case.ask(steps=1)
    async with case.worker(gate.at) as handler:
        await case.until(gate.reached.is_set)
        state = await handler.get_run(case.run_id)
        waking = [wake(handler, case.run_id, number) for number in range(size)]
        asyncio.get_running_loop().call_later(0.05, gate.open)
        await asyncio.gather(*waking)
        await case.client.get_workflow_handle(f"thoughtgear-{case.run_id}").result()
        assert state.over
        assert await handler.get_run(case.run_id) == state
    await case.check()


async def wake(handler: PromptHandler, run_id: str, number: int) -> None:
    """Wake a run, somewhere in the second around its end."""
    await asyncio.sleep(number / 400)
    await handler.executor.schedule_next_iteration(run_id)


@pytest.mark.long
async def test_messages_across_many_histories(case: Case) -> None:
    """Three hundred messages, by signal and through the store, all the while across at least ten
    continue-as-news, are each read once, in order of their sender."""
    by_signal: list[str] = []
    by_store: list[str] = []
    client = RunClient(case.client, case.job.queue)

    async def send(point: str, iteration: int) -> None:
        if point in (BEFORE_MODEL, AFTER_REPLY, AFTER_COMMIT) and len(by_store) < 150:
            by_signal.append(f"signal {len(by_signal)}")
            await client.send(case.run_id, by_signal[-1], request_id=by_signal[-1])
            by_store.append(f"store {len(by_store)}")
            await handler.send(case.run_id, by_store[-1], request_id=by_store[-1])

    await case.ask(steps=60)
    async with case.worker(send) as handler:
        await case.over()
        await case.client.get_workflow_handle(f"thoughtgear-{case.run_id}").result()
    executions = await chain(case.client.get_workflow_handle(f"thoughtgear-{case.run_id}"))
    assert len(executions) > 10
    assert (len(by_signal), len(by_store)) == (150, 150)
    await case.check(sent=[by_signal, by_store])


@sizes(10, 100)
async def test_messages_that_race_the_end(case: Case, size: int) -> None:
    """A message that meets a run at its end, twice and from two places, is read once: by that run, or by one
    that follows it."""
    chance = random.Random(7)
    client = RunClient(case.client, case.job.queue)
    acknowledged: list[str] = []

    async def race(handler: PromptHandler, number: int) -> None:
        run = await handler.handle_prompt(prompt(f"race {number}", 0), session_id=f"s{number}")
        await asyncio.sleep(chance.uniform(0, 0.1))
        texts = [prompt(f"message {number} by {way}", 0) for way in ("store", "signal")]
        by_store = [handler.send(run.run_id, texts[0], request_id=f"m{number}") for _ in range(2)]
        await asyncio.gather(*by_store)
        acknowledged.append(texts[0])
        try:
            await client.send(run.run_id, texts[1], request_id=f"s{number}")
        except RunNotFoundError:
            return
        acknowledged.append(texts[1])

    async with case.worker() as handler:
        await asyncio.gather(*(race(handler, number) for number in range(size)))
        await case.until_closed()
        runs = await all_runs(handler)
        histories = [await handler.history(state.run_id) for state in runs]
    assert {state.status for state in runs} == {"done"}
    read = Counter(message.text for history in histories for message in history if message.role == "user")
    assert set(read.values()) == {1}
    assert {text for text in read if text.startswith("message")} == set(acknowledged)
    assert len(runs) > size, "no message came too late"
    assert size < 100 or any(state.absorbed for state in runs), "no message came in time"


async def all_runs(handler: PromptHandler) -> list[RunState]:
    """Every run of the store."""
    page = await handler.store.list_runs()
    runs = list(page.runs)
    while page.after is not None:
        page = await handler.store.list_runs(after=page.after)
        runs += page.runs
    return runs
