"""Long runs: continue-as-new, and what an iteration costs in the history."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from temporalio.api.history.v1 import HistoryEvent
from world import World, chain, of_type

from thoughtgear import Limits, PromptHandler, tool
from thoughtgear.providers.scripted import call

BYTES = 1_000
"""Of history per iteration, at most, at any length."""


@tool
def look(path: str) -> str:
    """Look at a file."""
    return "x" * 1_000


def long_handler(world: World, iterations: int, script: Any = None) -> PromptHandler:
    script = script or [*([[call("look", path="a")]] * (iterations - 1)), "Done."]
    return world.handler(script, tools=[look], limits=Limits(iterations=iterations + 10, tokens=10**12))


def sizes(executions: Sequence[Sequence[HistoryEvent]]) -> list[int]:
    """The history bytes of each iteration: from one activity's schedule to the next, in one execution."""
    found: list[int] = []
    for events in executions:
        scheduled = [event.event_id for event in of_type(events, "ACTIVITY_TASK_SCHEDULED")]
        for begin, end in pairwise(scheduled):
            found.append(sum(event.ByteSize() for event in events[begin - 1 : end - 1]))
    return found


async def check_bytes(world: World, iterations: int) -> None:
    handler = long_handler(world, iterations)
    async with world.worker(handler):
        state = await handler.handle_prompt("Hello", wait=True)
        executions = await chain(world.workflow(state.run_id))
        described = await world.workflow(state.run_id).describe()
    assert (state.status, state.iteration, world.replies_bought()) == ("done", iterations, iterations)
    assert len(executions) >= iterations // 60
    total = sum(event.ByteSize() for events in executions for event in events)
    last = described.raw_description.workflow_execution_info.history_size_bytes
    assert last < 1.2 * sum(event.ByteSize() for event in executions[-1])  # the server counts the same
    assert total / iterations < BYTES
    steady = sizes(executions)[5:-1]
    assert max(steady) < BYTES
    # What grows is digits: the numbers of events, iterations, versions and the size of the history itself.
    assert max(steady) - min(steady) < 40


async def test_an_iteration_costs_the_same_at_any_length(world: World) -> None:
    """Each of 200 iterations costs the same number of history bytes, below 1,000, continue-as-new and all."""
    await check_bytes(world, 200)


@pytest.mark.long
async def test_a_thousand_iterations(world: World) -> None:
    """A run of 1,000 iterations completes; each costs the same number of history bytes, below 1,000."""
    await check_bytes(world, 1_000)


async def test_continue_as_new_loses_nothing(world: World) -> None:
    """Messages signalled all the while across several continue-as-news all reach the run, in order, once; its
    totals and version are carried over."""
    sending = asyncio.Event()
    iterations = 100

    async def line(request: Any) -> Any:
        said = sum(message.role == "assistant" for message in request.messages)
        return [call("look", path="a")] if said < iterations or not sending.is_set() else "Done."

    handler = long_handler(world, 10_000, script=line)
    async with world.worker(handler):
        handle = await world.client.start_workflow(
            "RunWorkflow", {"prompt": "Hello"}, id=world.queue, task_queue=world.queue
        )
        for number in range(40):
            await handle.signal("send", {"text": f"message {number}", "request_id": f"m{number}"})
            await handle.signal("wake")
            await asyncio.sleep(0.02)  # spreads the signals over the run
        sending.set()
        result = await handle.result()
        executions = await chain(handle)
        progress = await handle.query("progress")
        history = await handler.history(result["run_id"])
    assert result["status"] == "done"
    assert len(executions) > 2
    texts = [message.text for message in history if message.role == "user"]
    assert texts == ["Hello", *(f"message {number}" for number in range(40))]
    assert progress["totals"][0] == result["iterations"] == world.replies_bought()
    failed = [event for events in executions for event in of_type(events, "WORKFLOW_TASK_FAILED")]
    assert {event.workflow_task_failed_event_attributes.failure.message for event in failed} <= {
        "UnhandledCommand"
    }
