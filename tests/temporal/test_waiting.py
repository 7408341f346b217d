"""Runs that wait for a person, under Temporal."""

from __future__ import annotations

import asyncio

from world import World, of_type

from thoughtgear.errors import OutcomeUnknownError
from thoughtgear.outcomes import Done
from thoughtgear.providers.scripted import call
from thoughtgear.tools import tool


async def test_a_run_waits_for_a_person_and_costs_nothing_meanwhile(world: World) -> None:
    """A call of unknown outcome makes the workflow wait on a durable timer; the decision wakes it at once, on
    another worker, and the tool is not run again."""
    ran = 0

    @tool(policy="at_most_once", on_unknown="ask_person")
    async def pay() -> str:
        """Pay."""
        nonlocal ran
        ran += 1
        raise OutcomeUnknownError

    handler = world.handler([[call("pay")], "the end"], tools=[pay])
    async with world.worker(handler):
        run = await handler.handle_prompt("pay")
        workflow = world.workflow(run.run_id)
        async with asyncio.timeout(30):
            while (progress := await workflow.query("progress"))["status"] != "waiting":
                await asyncio.sleep(0.02)
    assert progress["reason"] == "a person has to settle call 1.0"
    assert (await handler.get_run(run.run_id)).status == "waiting"
    events = (await workflow.fetch_history()).events
    assert len(of_type(events, "TIMER_STARTED")) == 1
    other = world.handler([[call("pay")], "the end"], tools=[pay])
    async with world.worker(other):
        await other.settle(run.run_id, "1.0", Done("paid by hand"))
        state = await other.wait(run.run_id, timeout=30)
        assert (await workflow.query("progress"))["totals"][:2] == [2, 1]
    assert (state.status, state.output, state.iteration, ran) == ("done", "the end", 2, 1)
    results = [m.tool_result.content for m in await other.history(run.run_id) if m.tool_result]
    assert results == ["paid by hand"]
