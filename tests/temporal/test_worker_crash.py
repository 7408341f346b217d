"""A worker that is killed in the middle of its tools, and another that finishes the run."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from crashing_worker import make_handler
from world import World

from thoughtgear import PromptHandler, build_worker
from thoughtgear.models import Message


def starts(folder: Path, name: str) -> int:
    file = folder / name
    return len(file.read_text().splitlines()) if file.exists() else 0


def results(history: list[Message], iteration: int) -> dict[str, tuple[str, str]]:
    found = [m.tool_result for m in history if m.tool_result and m.iteration == iteration]
    return {result.name: (result.status, result.content) for result in found}


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
