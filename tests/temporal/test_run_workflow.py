"""Runs that Temporal drives, by reference: the prompt is in the store, the workflow knows its id."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from world import World, chain, everything, of_type

from thoughtgear import Limits, tool
from thoughtgear.errors import ModelUnavailableError
from thoughtgear.providers.scripted import call


@tool
def look(path: str) -> str:
    """Look at a file."""
    return f"canary-tool-{path}"


async def test_a_prompt_is_run_to_its_end(world: World) -> None:
    """A handler with the Temporal executor answers a prompt; its workflow returns facts, no answer."""
    handler = world.handler([[call("look", path="a")], "It is there."], tools=[look])
    async with world.worker(handler):
        state = await handler.handle_prompt("What is in a?", wait=True)
        result = await world.workflow(state.run_id).result()
    assert (state.status, state.output, state.iteration) == ("done", "It is there.", 2)
    assert (result["status"], result["iterations"], result["output"]) == ("done", 2, None)
    assert result["usage"]["output_tokens"] == state.usage.output_tokens
    roles = [message.role for message in await handler.history(state.run_id)]
    assert roles == ["user", "assistant", "tool", "assistant"]


async def test_history_holds_no_text(world: World) -> None:
    """Prompt, reply, tool arguments and tool results are nowhere in a run's history, also when a tool and the
    model fail with them in their messages."""

    @tool
    def broken(path: str) -> str:
        """Fail."""
        raise RuntimeError(f"canary-error-{path}")

    def explode(request: Any) -> str:
        raise RuntimeError("canary-model")

    script = [[call("look", path="canary-argument"), call("broken", path="x")], explode]
    handler = world.handler(script, tools=[look, broken])
    async with world.worker(handler):
        state = await handler.handle_prompt("canary-prompt", session_id="s", wait=True)
        [events] = await chain(world.workflow(state.run_id))
    assert (state.status, state.error and state.error.type) == ("failed", "RuntimeError")
    said = everything(events)
    assert state.run_id in said
    assert "canary" not in said


async def test_a_hundred_schedules_drive_a_run_once(world: World) -> None:
    """Scheduling a run a hundred times at once gives one execution, and each reply is bought once."""
    scheduled = asyncio.Event()

    async def first(request: Any) -> Any:
        await scheduled.wait()
        return [call("look", path="a")]

    handler = world.handler([first, "Done."], tools=[look])
    async with world.worker(handler):
        state = await handler.create_run("Look.")
        await asyncio.gather(*(handler.executor.schedule_next_iteration(state.run_id) for _ in range(100)))
        scheduled.set()
        state = await handler.wait(state.run_id)
        executions = await chain(world.workflow(state.run_id))
        described = await world.workflow(state.run_id).describe()
    assert (state.status, len(executions), world.replies_bought()) == ("done", 1, 2)
    started = executions[0][0].workflow_execution_started_event_attributes
    assert started.first_execution_run_id == described.run_id
    assert len(of_type(executions[0], "WORKFLOW_EXECUTION_SIGNALED")) == 100


async def test_a_run_that_is_over_is_left_alone(world: World) -> None:
    """A schedule that comes after the end ends at once, and the store stays as it was, whatever the end."""
    handler = world.handler(["Done."])
    broken = world.handler([], name="broken")
    async with world.worker(handler, broken):
        for each, status in ((handler, "done"), (broken, "failed")):
            state = await each.handle_prompt("Hello", wait=True)
            await each.executor.schedule_next_iteration(state.run_id)
            result = await world.workflow(state.run_id).result()
            assert (state.status, result["status"]) == (status, status)
            assert await each.get_run(state.run_id) == state
    assert world.replies_bought() == 1


async def test_a_failed_run_is_failed_in_both_places(world: World) -> None:
    """What the model rejects and what reaches a limit fails the run and the workflow with the same reason."""
    rejected = world.handler([], name="rejected")
    limited = world.handler([[call("look", path="a")]] * 3, name="limited", tools=[look], limits=Limits(2))
    async with world.worker(rejected, limited):
        for handler, kind in ((rejected, "ModelRejectedError"), (limited, "LimitExceededError")):
            state = await handler.handle_prompt("Hello", wait=True)
            with pytest.raises(WorkflowFailureError) as caught:
                await world.workflow(state.run_id).result()
            cause = caught.value.cause
            assert isinstance(cause, ApplicationError)
            assert state.status == "failed"
            assert state.error
            assert cause.type == state.error.type == kind
            assert cause.message.endswith(state.error.message)
            assert cause.non_retryable


async def test_the_provider_says_when_to_come_back(world: World) -> None:
    """`Retry-After` up to a minute, and our own backoff by the number of the attempt, are the delay of the
    activity's retry."""
    tries = []

    def busy_twice(request: Any) -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ModelUnavailableError("The model is busy.", retry_after=0.25 if len(tries) == 1 else None)
        return "Here."

    handler = world.handler(busy_twice)
    begin = time.monotonic()
    async with world.worker(handler):
        state = await handler.handle_prompt("Hello", wait=True)
        [events] = await chain(world.workflow(state.run_id))
    started = of_type(events, "ACTIVITY_TASK_STARTED")[0].activity_task_started_event_attributes
    asked = started.last_failure.application_failure_info.next_retry_delay
    assert (state.status, started.attempt) == ("done", 3)
    assert 1 <= asked.ToTimedelta().total_seconds() <= 2
    assert time.monotonic() - begin >= 1.25


async def test_a_long_wait_is_a_durable_timer(world: World) -> None:
    """`Retry-After` over a minute is a timer of the workflow, shown as the reason, and `wake` ends it."""
    tries = []

    def busy_once(request: Any) -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ModelUnavailableError("The model is busy.", retry_after=3600)
        return "Here."

    handler = world.handler(busy_once)
    async with world.worker(handler):
        state = await handler.handle_prompt("Hello")
        workflow = world.workflow(state.run_id)
        async with asyncio.timeout(10):
            while (progress := await workflow.query("progress"))["status"] != "waiting":
                await asyncio.sleep(0.02)
        await handler.executor.schedule_next_iteration(state.run_id)
        state = await handler.wait(state.run_id, timeout=10)
        [events] = await chain(workflow)
    [timer] = of_type(events, "TIMER_STARTED")
    seconds = timer.timer_started_event_attributes.start_to_fire_timeout.ToTimedelta().total_seconds()
    assert (state.status, progress["reason"]) == ("done", "The model is busy.")
    assert 3600 <= seconds <= 3960


async def test_the_interface_shows_the_run(world: World) -> None:
    """Summaries, details and search attributes tell what a run does; attributes are set at most twice."""
    handler = world.handler([[call("look", path="a")]] * 3 + ["Done."], tools=[look])
    async with world.worker(handler):
        state = await handler.handle_prompt("Hello", session_id="s-1", wait=True)
        workflow = world.workflow(state.run_id)
        [events] = await chain(workflow)
        described = await workflow.describe()
        metadata = await workflow.query("__temporal_workflow_metadata")
    said = everything(events)
    assert all(f"iteration {number}" in said for number in (1, 2, 3, 4))
    assert await described.static_summary() == "thoughtgear · default"
    assert state.run_id in (await described.static_details() or "")
    table = metadata.current_details.replace("\N{EN SPACE}", "")
    assert "| 3 | look |" in table
    assert "4 in all" in metadata.current_details
    shown = {pair.key.name: pair.value for pair in described.typed_search_attributes}
    assert {key: value for key, value in shown.items() if key.startswith("Thoughtgear")} == {
        "ThoughtgearStatus": "done",
        "ThoughtgearHandler": "default",
        "ThoughtgearModel": "scripted",
        "ThoughtgearSession": "s-1",
    }
    assert len(of_type(events, "UPSERT_WORKFLOW_SEARCH_ATTRIBUTES")) == 2
    assert described.status == WorkflowExecutionStatus.COMPLETED
