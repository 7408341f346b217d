"""Runs at a pace under Temporal: the workflow waits on durable timers, and no worker does."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import Any

import pytest
from world import World, chain, of_type

from thoughtgear import Limits, PromptHandler, RunClient, ScheduledExecutor, TemporalExecutor, tool
from thoughtgear.providers.scripted import call

HOUR = 3600.0


@tool
def look(path: str) -> str:
    """Look at a file."""
    return "seen"


LOOK = [call("look", path="a")]


class Script:
    """Says `replies` to each run, and notes when it was asked."""

    def __init__(self, *replies: Any) -> None:
        self.asked: list[float] = []
        self._replies = replies

    def __call__(self, request: Any) -> Any:
        self.asked.append(time.monotonic())
        return self._replies[sum(message.role == "assistant" for message in request.messages)]


def paced(world: World, script: Script, **pace: Any) -> PromptHandler:
    executor = ScheduledExecutor(TemporalExecutor(world.client, world.queue), **pace)
    return world.handler(script, tools=[look], executor=executor, limits=Limits(iterations=200))


async def test_a_delay_is_a_durable_timer(world: World) -> None:
    """Between two iterations the workflow sleeps on a timer; there is one activity per iteration, no more."""
    script = Script(LOOK, LOOK, "end")
    handler = paced(world, script, delay=0.4)
    async with world.worker(handler):
        state = await handler.handle_prompt("go", wait=True)
    events = (await world.workflow(state.run_id).fetch_history()).events
    assert (state.status, state.driver.executor) == ("done", "temporal")
    assert all(b - a >= 0.39 for a, b in pairwise(script.asked))
    counts = [len(of_type(events, kind)) for kind in ("TIMER_FIRED", "ACTIVITY_TASK_SCHEDULED")]
    assert counts == [2, 3]


async def test_a_wake_and_a_cancel_end_a_delay(world: World) -> None:
    """A run that waits an hour, with no worker at all, goes on at once when a message comes, and ends at once
    when it is cancelled."""
    script = Script(LOOK, LOOK, "end")
    handler = paced(world, script, delay=HOUR)
    async with world.worker(handler):
        run = await handler.handle_prompt("go")
        await _waits(world, run.run_id)
    await handler.send(run.run_id, "now")
    other = paced(world, script, delay=HOUR)
    async with world.worker(other):
        await _iterated(other, run.run_id, 2)
        await _waits(world, run.run_id)
        await other.cancel(run.run_id)
        state = await other.wait(run.run_id, timeout=60)
    assert (state.status, len(script.asked)) == ("cancelled", 2)


async def test_a_rate_over_the_runs_of_a_worker(world: World) -> None:
    """No iteration of a worker begins before its rate allows for it; each waits for its place, and once more
    at the most where those before it came late; and all end."""
    script = Script(LOOK, "end")
    handler = paced(world, script, rate=(2, 0.8))
    begin = time.monotonic()
    async with world.worker(handler):
        runs = [await handler.handle_prompt(f"go {number}") for number in range(4)]
        states = [await handler.wait(run.run_id, timeout=60) for run in runs]
    assert {state.status for state in states} == {"done"}
    assert len(script.asked) == 8
    assert all(asked - begin >= number // 2 * 0.8 for number, asked in enumerate(script.asked))
    timers = [
        len(of_type((await world.workflow(run.run_id).fetch_history()).events, "TIMER_FIRED")) for run in runs
    ]
    assert sum(timers) <= 16


async def test_a_worker_keeps_the_pace_of_a_local_handler(world: World) -> None:
    """A handler that is written for this process, at a pace, has that pace under a worker, too."""
    script = Script(LOOK, "end")
    handler = world.handler(script, tools=[look], executor=ScheduledExecutor(delay=0.4))
    client = RunClient(world.client, world.queue)
    async with world.worker(handler):
        result = await client.wait(await client.start("go"), timeout=60)
    assert result.status == "done"
    assert script.asked[1] - script.asked[0] >= 0.39


@pytest.mark.long
async def test_a_new_history_loses_no_delay(world: World) -> None:
    """A run that continues as new waits before it does, so that its delay is kept."""
    script = Script(*([LOOK] * 32), "end")
    handler = paced(world, script, delay=0.1)
    async with world.worker(handler):
        state = await handler.handle_prompt("go", wait=True)
    executions = await chain(world.workflow(state.run_id))
    assert (state.status, len(executions) >= 2) == ("done", True)
    assert all(b - a >= 0.095 for a, b in pairwise(script.asked))


async def _waits(world: World, run_id: str) -> None:
    async with asyncio.timeout(60):
        while (await world.workflow(run_id).query("progress"))["status"] != "waiting":
            await asyncio.sleep(0.02)


async def _iterated(handler: PromptHandler, run_id: str, number: int) -> None:
    async with asyncio.timeout(60):
        while (await handler.get_run(run_id)).iteration < number:
            await asyncio.sleep(0.02)
