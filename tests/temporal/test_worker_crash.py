"""A worker that is killed in the middle of its tools, and another that finishes the run."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from crashing_worker import make_handler
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError
from world import World

from thoughtgear import PromptHandler, build_worker
from thoughtgear.models import Message


def starts(folder: Path, name: str) -> int:
    file = folder / name
    return len(file.read_text().splitlines()) if file.exists() else 0


def results(history: list[Message], iteration: int) -> dict[str, tuple[str, str]]:
    found = [m.tool_result for m in history if m.tool_result and m.iteration == iteration]
    return {result.name: (result.status, result.content) for result in found}


# Every day the demonstration's test and tests/crashes claim the same of smaller steps.
@pytest.mark.long
async def test_another_worker_finishes_what_a_killed_one_began(world: World, server: str) -> None:
    """After SIGKILL inside of two tools, another worker finishes: no saved reply is bought again, no finished
    tool runs again, the idempotent one does, and what may start once only is unknown."""
    worker = Path(__file__).parent / "crashing_worker.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(worker), server, world.queue, str(world.folder)
    )
    try:
        handle = await world.client.start_workflow(
            "RunWorkflow", {"prompt": "Go"}, id=world.queue, task_queue=world.queue
        )
        handler = make_handler(world.folder)
        async with asyncio.timeout(30):
            while not (starts(world.folder, "rerun") and starts(world.folder, "pay")):
                await asyncio.sleep(0.05)
            while starts(world.folder, "finished") < 2 or not await saved_sibling(handler):
                await asyncio.sleep(0.05)
    finally:
        process.kill()
        await process.wait()
    async with build_worker(world.client, [handler], world.queue):
        async with asyncio.timeout(30):
            result = await handle.result()
        history = await handler.history(result["run_id"])
    await handler.aclose()
    assert (result["status"], result["output"]) == ("done", "Done.")
    assert world.replies_bought() == 3
    assert [starts(world.folder, name) for name in ("finished", "rerun", "pay")] == [2, 2, 1]
    ended = results(history, 2)
    assert ended["rerun"] == ("ok", "ran again")
    assert ended["finished"] == ("ok", "finished")
    assert ended["pay"][0] == "unknown"


async def saved_sibling(handler: PromptHandler) -> bool:
    """Whether the finished call of the second iteration is in the store."""
    store = handler.store
    [state] = (await store.list_runs()).runs
    history = await store.get_history(state.run_id)
    return "finished" in results(history, 2)


async def test_a_cancel_that_only_a_dead_worker_could_see(world: World, server: str) -> None:
    """A run whose worker was killed in the middle of a tool, and which is cancelled before that is noticed,
    ends as cancelled and not as failed."""
    worker = Path(__file__).parent / "crashing_worker.py"
    handler = make_handler(world.folder)
    async with build_worker(world.client, [handler], world.queue, no_remote_activities=True):
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(worker), server, world.queue, str(world.folder), "activities"
        )
        try:
            handle = await world.client.start_workflow(
                "RunWorkflow", {"prompt": "Go"}, id=world.queue, task_queue=world.queue
            )
            async with asyncio.timeout(30):
                while not starts(world.folder, "pay"):
                    await asyncio.sleep(0.05)
        finally:
            process.kill()
            await process.wait()
        await handle.cancel()
        async with asyncio.timeout(30):
            while not await asked_to_cancel(handle):
                await asyncio.sleep(0.05)
    async with build_worker(world.client, [handler], world.queue), asyncio.timeout(30):
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
    [state] = (await handler.store.list_runs()).runs
    await handler.aclose()
    assert (state.status, state.error) == ("cancelled", None)
    assert isinstance(caught.value.cause, CancelledError)


async def asked_to_cancel(handle: WorkflowHandle[Any, Any]) -> bool:
    """Whether the workflow has asked its activity to cancel."""
    kind = EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED
    return any([event.event_type == kind async for event in handle.fetch_history_events()])
