"""RunClient: runs by value, from a client without a store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from world import World

from thoughtgear import RunClient
from thoughtgear.client import pollers
from thoughtgear.errors import RunNotFoundError, WaitTimeoutError


async def test_a_run_from_start_to_end(world: World) -> None:
    """Start, look, send, wait: the answer comes back, and a late message is told that the run is over."""
    begun, sent = asyncio.Event(), asyncio.Event()

    async def first(request: Any) -> str:
        begun.set()
        await sent.wait()
        return "First."

    handler = world.handler([first, "Second."], name="agent")
    client = RunClient(world.client, world.queue, "agent")
    async with world.worker(handler):
        name = await client.start("Hello", session_id="s")
        await begun.wait()
        with pytest.raises(WaitTimeoutError):
            await client.wait(name, timeout=0.05)
        going = await client.get(name)
        await client.send(name, "And?", request_id="m")
        async with asyncio.timeout(10):
            while not (await handler.get_run(going.run_id or "")).inbox:
                await asyncio.sleep(0.02)
        sent.set()
        result = await client.wait(name)
        ended = await client.get(name)
        with pytest.raises(RunNotFoundError, match="over"):
            await client.send(name, "Too late.")
    unattended = await client.get(name)
    assert (unattended.status, unattended.iterations) == ("done", 2)
    assert (going.status, going.workflow_id) == ("running", name)
    assert (result.status, result.output, result.run_id) == ("done", "Second.", going.run_id)
    assert (ended.status, ended.iterations) == ("done", 2)


async def test_the_same_id_is_the_same_run(world: World) -> None:
    """Starting twice under one workflow id, also after the end, runs the prompt once."""
    handler = world.handler(["Once."])
    client = RunClient(world.client, world.queue)
    async with world.worker(handler):
        for _ in (1, 2):
            name = await client.start("Hello", workflow_id=world.queue)
            assert (await client.wait(name)).output == "Once."
    assert world.replies_bought() == 1


async def test_runs_of_a_handler_are_found_by_run_id(world: World) -> None:
    """A run that a handler started is found by its run id, followed and cancelled; failures are results."""
    begun = asyncio.Event()

    async def hang(request: Any) -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    hanging, failing = world.handler(hang, name="hanging"), world.handler([], name="failing")
    client = RunClient(world.client, world.queue)
    async with world.worker(hanging, failing):
        state = await hanging.handle_prompt("Hello")
        await begun.wait()
        await client.cancel(state.run_id)
        cancelled = await client.wait(state.run_id)
        failed_state = await failing.handle_prompt("Hello", wait=True)
        failed = await client.wait(failed_state.run_id)
        shown = await client.get(failed_state.run_id)
    assert (cancelled.status, cancelled.run_id) == ("cancelled", state.run_id)
    assert (failed.status, failed.run_id, shown.status) == ("failed", failed_state.run_id, "failed")


async def test_nobody_there(world: World) -> None:
    """Where no worker polls, the pollers are 0 and a run's status is unknown; an unknown id is an error."""
    client = RunClient(world.client, world.queue)
    assert await pollers(world.client, world.queue) == 0
    with pytest.raises(RunNotFoundError, match="no workflow"):
        await client.get("none-such")
    name = await client.start("Hello")
    assert (await client.get(name)).status == "unknown"
    await client.cancel(name)
    async with world.worker(world.handler(["Never said."])):
        assert (await client.wait(name)).status == "cancelled"
        assert await pollers(world.client, world.queue) == 1
