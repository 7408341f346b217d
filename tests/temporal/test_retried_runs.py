"""Retrying runs that Temporal drives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from world import World, chain

from thoughtgear import Callbacks, Limits, PromptHandler, RunClient, RunState, tool
from thoughtgear.errors import ModelRejectedError
from thoughtgear.models import Driver
from thoughtgear.providers.scripted import call


@tool
def look(path: str) -> str:
    """Look at a file."""
    return "seen"


class Key:
    """What a run lacks at first: a reply that is refused as long as it isn't there."""

    def __init__(self) -> None:
        self.there = False

    def __call__(self, _: Any) -> str:
        if not self.there:
            raise ModelRejectedError("HTTP 401")
        return "Done."


async def test_a_failed_run_goes_on_under_the_same_workflow_id(world: World) -> None:
    """A retry starts another execution of the run's workflow, which goes on from the last commit and tells
    the whole run's facts; the failed execution stays what it was."""
    key = Key()
    handler = world.handler([[call("look", path="a")], key], tools=[look])
    async with world.worker(handler):
        failed = await handler.handle_prompt("Hello", wait=True)
        first = await world.workflow(failed.run_id).describe()
        key.there = True
        state = await handler.retry(failed.run_id, wait=True)
        result = await world.workflow(failed.run_id).result()
        progress = await RunClient(world.client, world.queue).get(failed.run_id)
    assert (failed.status, first.status) == ("failed", WorkflowExecutionStatus.FAILED)
    assert (state.status, state.output, state.model_replies) == ("done", "Done.", 2)
    assert (result["status"], result["iterations"]) == ("done", 2)
    assert (progress.status, progress.temporal_run_id != first.run_id) == ("done", True)
    assert world.replies_bought() == 2  # the refused one is none
    again = world.client.get_workflow_handle(first.id, run_id=first.run_id)
    assert (await again.describe()).status == WorkflowExecutionStatus.FAILED


async def test_a_cancelled_run_goes_on(world: World) -> None:
    """A run whose workflow was cancelled in a tool is retried, can be cancelled again, and ends as done."""
    begun = asyncio.Queue[int]()

    @tool
    async def slow() -> str:
        """Hang."""
        begun.put_nowait(1)
        await asyncio.Event().wait()
        return ""

    handler = world.handler([[call("slow")], [call("slow")], "Done."], tools=[slow])
    async with world.worker(handler):
        run = await handler.handle_prompt("Hello")
        for _ in range(2):
            await begun.get()
            await handler.cancel(run.run_id)
            assert (await handler.wait(run.run_id, 20)).status == "cancelled"
            await handler.retry(run.run_id)
        state = await handler.wait(run.run_id, 20)
    results = [m.tool_result.status for m in await handler.history(run.run_id) if m.tool_result]
    assert (state.status, state.output) == ("done", "Done.")
    assert results == ["cancelled", "cancelled"]
    assert world.replies_bought() == 3


async def test_a_run_by_value_goes_on_by_reference(world: World) -> None:
    """The retry of a run that came by value has the run's own workflow id, so that the caller's, which may be
    a cron's or in use again, is left alone; its answer is in the store."""
    key = Key()
    handler = world.handler([key])
    async with world.worker(handler):
        handle = await world.client.start_workflow(
            "RunWorkflow", {"prompt": "Hello"}, id=world.queue, task_queue=world.queue
        )
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        [failed] = (await handler.store.list_runs()).runs
        key.there = True
        await world.client.start_workflow(  # somebody uses the id again
            "RunWorkflow", {"prompt": "Another"}, id=world.queue, task_queue=world.queue
        )
        state = await handler.retry(failed.run_id, wait=True)
        result = await world.workflow(failed.run_id).result()
        assert await handler.cancel(failed.run_id) == state
    assert failed.driver == Driver(executor="temporal", workflow_id=world.queue)
    assert (state.status, state.output, state.driver) == ("done", "Done.", Driver(executor="temporal"))
    assert (result["status"], result["output"]) == ("done", None)


def failing(world: World, **options: Any) -> PromptHandler:
    """A handler whose run fails in its activity, so that the workflow closes it."""
    tries: list[int] = []

    def once(_: RunState) -> str:
        tries.append(1)
        if len(tries) == 1:
            raise KeyError
        return ""

    return world.handler(["Done."], context=once, **options)


def limited(world: World, **options: Any) -> PromptHandler:
    """A handler whose run fails by its own last commit, by a limit that is raised afterwards."""
    limits = Limits(iterations=1)
    return world.handler([[call("look", path="a")], "Done."], tools=[look], limits=limits, **options)


def hanging(world: World, **options: Any) -> PromptHandler:
    """A handler whose run is cancelled while its model hangs."""

    async def once(_: Any) -> str:
        if not world.folder.joinpath("hangs").exists():
            world.folder.joinpath("hangs").touch()
            await asyncio.Event().wait()
        return "Done."

    return world.handler([once], **options)


@pytest.mark.parametrize("make", [failing, limited, hanging])
async def test_a_retry_meets_the_workflow_before_it_has_ended(
    world: World, make: Callable[..., PromptHandler]
) -> None:
    """A retry that comes between the end of a run in the store and the end of its workflow is not lost: the
    workflow goes on, or its successor does, which is not cancelled."""
    retried: list[RunState] = []

    async def retry(state: RunState, error: Any) -> None:
        if not retried:
            object.__setattr__(handler.limits, "iterations", 5)
            retried.append(await handler.retry(state.run_id, wait=False))

    handler = make(world, callbacks=Callbacks(on_error=retry))
    async with world.worker(handler):
        run = await handler.handle_prompt("Hello")
        if make is hanging:
            async with asyncio.timeout(20):
                while not world.folder.joinpath("hangs").exists():
                    await asyncio.sleep(0.02)
            await handler.cancel(run.run_id)
        async with asyncio.timeout(30):
            while (state := await handler.get_run(run.run_id)).status != "done":
                await asyncio.sleep(0.05)
        result = await world.workflow(run.run_id).result()
    assert ([state.status for state in retried], state.output) == (["running"], "Done.")
    assert result["status"] == "done"


async def test_a_wake_that_changes_nothing_changes_no_end(world: World) -> None:
    """A run that failed, and whose workflow is woken before it ends, is failed in both places."""

    async def wake(state: RunState, error: Any) -> None:
        await handler.executor.schedule_next_iteration(state.run_id)

    handler = failing(world, callbacks=Callbacks(on_error=wake))
    async with world.worker(handler):
        state = await handler.handle_prompt("Hello", wait=True)
        handle = world.workflow(state.run_id)
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        executions = await chain(handle)
    assert (state.status, len(executions), world.replies_bought()) == ("failed", 2, 0)


async def test_a_terminated_execution_ends_its_run_once(world: World) -> None:
    """Who learns late that the workflow was terminated does not end the run again that was retried since."""
    begun, hang = asyncio.Event(), asyncio.Event()

    async def slow(_: Any) -> str:
        begun.set()
        await hang.wait()
        return "Done."

    handler = world.handler([slow])
    async with world.worker(handler):
        run = await handler.handle_prompt("Hello")
        await begun.wait()
        await world.workflow(run.run_id).terminate()
        failed = await handler.wait(run.run_id, 20)
        reopened = await handler.retry(run.run_id)
        described = await world.workflow(run.run_id).describe()
        assert failed.error is not None
        late = await handler.close_run(run.run_id, "failed", failed.error, by=failed.ended_by)
        hang.set()
        state = await handler.wait(run.run_id, 20)
    assert (failed.status, failed.error.type) == ("failed", "WorkflowEndedError")
    assert failed.ended_by not in ("", described.run_id)
    assert (reopened.status, late.status, state.status) == ("running", "running", "done")
