"""Workers: `build_worker`, and the plugin for those who build their own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import warnings
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker
from world import World

from thoughtgear import TemporalExecutor, ThoughtgearPlugin, build_worker
from thoughtgear.errors import ConfigurationError, ExecutorUnavailableError


@workflow.defn
class Greeting:
    """A workflow of the user's own."""

    @workflow.run
    async def run(self, name: str) -> str:
        greeting: str = await workflow.execute_activity(
            greet, name, start_to_close_timeout=timedelta(seconds=5)
        )
        return greeting


@activity.defn
async def greet(name: str) -> str:
    return f"Hello {name}"


async def test_several_handlers_on_one_worker(world: World) -> None:
    """A worker serves handlers by their names, each with its own executor or with none of Temporal's."""
    one, two = world.handler(["One."], name="one"), world.handler(["Two."], name="two", executor=None)
    async with world.worker(one, two):
        state = await one.handle_prompt("Hello", wait=True)
        result = await world.client.execute_workflow(
            "RunWorkflow", {"prompt": "Hello", "handler": "two"}, id=world.queue, task_queue=world.queue
        )
    assert (state.output, result["output"]) == ("One.", "Two.")
    assert two.executor.name == "local"


async def test_two_handlers_of_one_name_are_refused(world: World) -> None:
    """A name that two handlers have is a ConfigurationError; the same handler twice is fine."""
    one, two = world.handler(["One."]), world.handler(["Two."])
    with pytest.raises(ConfigurationError, match="'default'"):
        world.worker(one, two)
    world.worker(one, one)


async def test_a_store_in_memory_is_refused(world: World) -> None:
    """A handler whose store lives in one process is refused by the worker and by the executor."""
    handler = world.handler(["One."], executor=None, db="memory://")
    with pytest.raises(ConfigurationError, match="sqlite:///"):
        world.worker(handler)
    with pytest.raises(ConfigurationError, match="sqlite:///"):
        world.handler(["One."], db="memory://")


async def test_an_executor_serves_one_handler(world: World) -> None:
    """A second handler on the same executor is refused: its runs would go to the first."""
    executor = TemporalExecutor(world.client, world.queue)
    world.handler(["One."], executor=executor)
    with pytest.raises(ConfigurationError, match="one handler"):
        world.handler(["Two."], name="two", executor=executor)


@pytest.mark.parametrize("where", ["worker", "client", "both"])
async def test_the_plugin_serves_beside_others(world: World, server: str, where: str) -> None:
    """A worker of the user's own, sandboxed, with the plugin on it, on its client or on both, runs our
    runs and its own workflows."""
    handler = world.handler(["Done."])
    plugin = ThoughtgearPlugin([handler])
    client = await Client.connect(server, plugins=[plugin] if where != "worker" else [])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK warns of a plugin that is on both
        worker = Worker(
            client,
            task_queue=world.queue,
            workflows=[Greeting],
            activities=[greet],
            plugins=[plugin] if where != "client" else [],
        )
    async with worker:
        state = await handler.handle_prompt("Hello", wait=True)
        greeting = await client.execute_workflow(
            Greeting.run, "you", id=f"greeting-{world.queue}", task_queue=world.queue
        )
    assert (state.status, greeting) == ("done", "Hello you")
    assert worker.config(active_config=True)["max_heartbeat_throttle_interval"] == timedelta(seconds=0.5)


async def test_plugins_on_client_and_worker_add_up(world: World, server: str) -> None:
    """A plugin on the client and another on the worker serve the handlers of both."""
    one, two = world.handler(["One."], name="one"), world.handler(["Two."], name="two")
    client = await Client.connect(server, plugins=[ThoughtgearPlugin([one])])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        worker = build_worker(client, [two], world.queue)
    async with worker:
        states = [await each.handle_prompt("Hello", wait=True) for each in (one, two)]
    assert [state.output for state in states] == ["One.", "Two."]


async def test_the_executor_connects_on_first_use(
    world: World, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a client, Temporal's own environment variables say where the server is; a function that makes
    a client is called once."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", server)
    calls = []

    async def make() -> Client:
        calls.append(1)
        return world.client

    for executor in (TemporalExecutor(task_queue=world.queue), TemporalExecutor(make, world.queue)):
        handler = world.handler(["Done."], executor=executor)
        async with world.worker(handler):
            state, again = await asyncio.gather(*(handler.handle_prompt("Hello", wait=True) for _ in (1, 2)))
        assert (state.status, again.status) == ("done", "done")
    assert len(calls) == 1


async def test_a_server_that_is_away(world: World, server: str) -> None:
    """When Temporal can't be reached, or has no such namespace, the prompt is durable and the error says what
    to do; scheduled again, the run goes on."""
    away = await Client.connect("127.0.0.1:1", lazy=True)
    nowhere = await Client.connect(server, namespace="none-such")
    for client in (away, nowhere):
        handler = world.handler(["Done."], executor=TemporalExecutor(client, world.queue))
        with pytest.raises(ExecutorUnavailableError, match="continue_run"):
            await handler.handle_prompt("Hello", request_id="r")
    back = world.handler(["Done."])
    async with world.worker(back):
        [state] = (await back.store.list_runs()).runs
        await back.continue_run(state.run_id)
        assert (await back.wait(state.run_id)).status == "done"


def test_importing_the_workflow_loads_no_driver() -> None:
    """The workflow's module, in a fresh process, loads neither database drivers nor an HTTP client."""
    code = (
        "import sys, thoughtgear.workflows.run; "
        "print(sorted({'sqlalchemy', 'boto3', 'pymongo', 'httpx', 'aiosqlite'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_the_worker_gives_up_no_sibling(world: World) -> None:
    """A worker that is shut down in the middle of a model call leaves the run to the next one at once."""
    begun = asyncio.Event()
    hang = True

    async def line(request: Any) -> str:
        begun.set()
        if hang:
            await asyncio.Event().wait()
        return "Done."

    handler = world.handler(line)
    async with world.worker(handler):
        state = await handler.handle_prompt("Hello")
        await begun.wait()
    hang = False
    async with world.worker(handler):
        state = await handler.wait(state.run_id, timeout=8)  # below the heartbeat time-out
    assert state.status == "done"
