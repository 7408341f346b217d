"""Records the golden histories that `test_replay.py` replays: `python tests/temporal/recorded.py`.

Run it when the workflow was changed on purpose and old runs need not replay any more; else keep the files,
and name the scenes that are new.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from temporalio.api.history.v1 import History
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from world import World, chain

from thoughtgear import Callbacks, Limits, ScheduledExecutor, TemporalExecutor, tool
from thoughtgear.devserver import DevServer
from thoughtgear.errors import ModelUnavailableError
from thoughtgear.providers.scripted import call

HISTORIES = Path(__file__).parent / "histories"


@tool
def look(path: str) -> str:
    """Look at a file."""
    return "seen"


async def plain(world: World) -> WorkflowHandle[Any, Any]:
    """A tool, an answer."""
    handler = world.handler([[call("look", path="a")], "Done."], tools=[look])
    async with world.worker(handler):
        state = await handler.handle_prompt("Hello", session_id="s", wait=True)
    return world.workflow(state.run_id)


async def by_value(world: World) -> WorkflowHandle[Any, Any]:
    """By value, with a message while the model thinks."""
    begun, sent = asyncio.Event(), asyncio.Event()

    async def first(request: Any) -> str:
        begun.set()
        await sent.wait()
        return "First."

    handler = world.handler([first, "Second."])
    async with world.worker(handler):
        handle = await world.client.start_workflow(
            "RunWorkflow", {"prompt": "Hello"}, id=world.queue, task_queue=world.queue
        )
        await begun.wait()
        await handle.signal("send", {"text": "And?", "request_id": "m"})
        await _until(lambda: _inbox(handler))
        sent.set()
        await handle.result()
    return handle


async def cancelled(world: World) -> WorkflowHandle[Any, Any]:
    """Cancelled while the model hangs."""
    begun = asyncio.Event()

    async def hang(request: Any) -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    handler = world.handler(hang)
    async with world.worker(handler):
        state = await handler.handle_prompt("Hello")
        await begun.wait()
        await handler.cancel(state.run_id)
        await handler.wait(state.run_id)
    return world.workflow(state.run_id)


async def waited(world: World) -> WorkflowHandle[Any, Any]:
    """A durable wait that `wake` ends, then a run that fails."""
    tries = []

    def busy_once(request: Any) -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ModelUnavailableError("The model is busy.", retry_after=3600)
        raise RuntimeError

    handler = world.handler(busy_once)
    async with world.worker(handler):
        state = await handler.handle_prompt("Hello")
        await _until(lambda: _waits(world.workflow(state.run_id)))
        await handler.executor.schedule_next_iteration(state.run_id)
        await handler.wait(state.run_id)
    return world.workflow(state.run_id)


async def continued(world: World) -> WorkflowHandle[Any, Any]:
    """Long enough to continue as new."""
    script = [*([[call("look", path="a")]] * 60), "Done."]
    handler = world.handler(script, tools=[look], limits=Limits(iterations=100))
    async with world.worker(handler):
        state = await handler.handle_prompt("Hello", wait=True)
    return world.workflow(state.run_id)


async def retried(world: World) -> WorkflowHandle[Any, Any]:
    """Failed, and retried before the workflow has ended, so that a successor drives it."""
    tries: list[int] = []

    def once(_: Any) -> str:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError
        return ""

    async def retry(state: Any, error: Any) -> None:
        await handler.retry(state.run_id, wait=False)

    handler = world.handler(["Done."], context=once, callbacks=Callbacks(on_error=retry))
    async with world.worker(handler):
        state = await handler.handle_prompt("Hello")
        await _until(lambda: _done(handler, state.run_id))
        await world.workflow(state.run_id).result()
    return world.workflow(state.run_id)


async def paced(world: World) -> WorkflowHandle[Any, Any]:
    """At a pace: a delay that passes, and one that `wake` ends."""
    executor = ScheduledExecutor(TemporalExecutor(world.client, world.queue), delay=1.5)
    script = [[call("look", path="a")], [call("look", path="b")], "Done."]
    handler = world.handler(script, tools=[look], executor=executor)
    async with world.worker(handler):
        state = await handler.handle_prompt("Hello")
        await _until(lambda: _iterated(handler, state.run_id, 2))
        await _until(lambda: _waits(world.workflow(state.run_id)))
        await handler.executor.schedule_next_iteration(state.run_id)
        await handler.wait(state.run_id)
    return world.workflow(state.run_id)


SCENES = (plain, by_value, cancelled, waited, continued, retried, paced)


async def _iterated(handler: Any, run_id: str, number: int) -> bool:
    return bool((await handler.get_run(run_id)).iteration >= number)


async def _done(handler: Any, run_id: str) -> bool:
    return bool((await handler.get_run(run_id)).status == "done")


async def _inbox(handler: Any) -> bool:
    return bool((await handler.store.list_runs()).runs[0].inbox)


async def _waits(handle: WorkflowHandle[Any, Any]) -> bool:
    return (await handle.query("progress"))["status"] == "waiting"


async def _until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.02)


async def record(address: str, folder: Path, scenes: Sequence[Any] = SCENES) -> None:
    """Play the scenes and write their histories."""
    for scene in scenes:
        with tempfile.TemporaryDirectory() as runs:
            world = World(await Client.connect(address, identity="recorder"), Path(runs))
            try:
                handle = await scene(world)
            except WorkflowFailureError:
                raise SystemExit(f"{scene.__name__} failed") from None
            for number, events in enumerate(await chain(handle)):
                history = _without_traces(MessageToDict(History(events=events)))
                text = json.dumps(history, indent=1, ensure_ascii=False)
                (folder / f"{scene.__name__}_{number}.json").write_text(text + "\n")
            await world.close()


def _without_traces(value: Any) -> Any:
    """Leave out stack traces: they hold the paths of the machine."""
    if isinstance(value, dict):
        return {key: _without_traces(item) for key, item in value.items() if key != "stackTrace"}
    return [_without_traces(item) for item in value] if isinstance(value, list) else value


class SuggestingServer(DevServer):
    """A dev server that suggests to continue as new after 300 events."""

    def _arguments(self) -> list[str]:
        return [
            *super()._arguments(),
            "--dynamic-config-value",
            "limit.historyCount.suggestContinueAsNew=300",
        ]


async def main() -> None:
    """Record into `histories/`: the scenes that are named, or all of them."""
    scenes = [scene for scene in SCENES if scene.__name__ in sys.argv[1:]] or list(SCENES)
    for scene in scenes:
        for old in HISTORIES.glob(f"{scene.__name__}_?.json"):
            old.unlink()
    async with SuggestingServer(ui=False) as server:
        await record(server.address, HISTORIES, scenes)


if __name__ == "__main__":
    asyncio.run(main())
