"""Cancelling runs that Temporal drives."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import CancelledError
from world import World, chain, of_type

from thoughtgear import tool
from thoughtgear.client import trouble
from thoughtgear.errors import ConfigurationError
from thoughtgear.providers.scripted import call

SECONDS = 2.0
"""In which a cancel is seen; a heartbeat goes out every second."""


async def test_a_cancel_is_seen_while_the_model_hangs(world: World) -> None:
    """A cancel stops a model call that hangs within two seconds; workflow and store both say cancelled."""
    begun = asyncio.Event()

    async def hang(request: Any) -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    handler = world.handler(hang)
    async with world.worker(handler):
        state = await handler.handle_prompt("Hello")
        await begun.wait()
        async with asyncio.timeout(SECONDS + 1):  # and one to end both
            await handler.cancel(state.run_id)
            state = await handler.wait(state.run_id)
            with pytest.raises(WorkflowFailureError) as caught:
                await world.workflow(state.run_id).result()
    assert isinstance(caught.value.cause, CancelledError)
    assert state.status == "cancelled"


async def test_a_cancel_in_a_tool_keeps_what_is_finished(world: World) -> None:
    """A cancel during a tool saves the finished sibling; the transcript has a result for every call."""
    begun = asyncio.Event()

    @tool
    def quick() -> str:
        """Return."""
        return "quick result"

    @tool
    async def slow() -> str:
        """Hang."""
        begun.set()
        await asyncio.Event().wait()
        return ""

    handler = world.handler([[call("quick"), call("slow")]], tools=[quick, slow])
    async with world.worker(handler):
        state = await handler.handle_prompt("Hello")
        await begun.wait()
        await handler.cancel(state.run_id)
        state = await handler.wait(state.run_id, timeout=10)
        history = await handler.history(state.run_id)
    results = {m.tool_result.name: m.tool_result.status for m in history if m.tool_result}
    assert (state.status, results["quick"], set(results)) == ("cancelled", "ok", {"quick", "slow"})


async def test_a_tool_that_finishes_when_it_is_cancelled_keeps_its_result(world: World) -> None:
    """A payment that a cancel finds under way, and that completes all the same, stands as it ended."""
    begun = asyncio.Event()

    @tool(policy="at_most_once")
    async def pay() -> str:
        """Pay, whatever comes."""
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "paid"
        return ""

    handler = world.handler([[call("pay")]], tools=[pay])
    async with world.worker(handler):
        state = await handler.handle_prompt("Hello")
        await begun.wait()
        await handler.cancel(state.run_id)
        state = await handler.wait(state.run_id, timeout=10)
        history = await handler.history(state.run_id)
    [result] = [m.tool_result for m in history if m.tool_result]
    assert (state.status, result.status, result.content) == ("cancelled", "ok", "paid")


async def test_a_cancel_before_any_worker_came(world: World) -> None:
    """Runs that are cancelled before a worker saw them end as cancelled, by reference and by value."""
    handler = world.handler(["Never said."])
    state = await handler.handle_prompt("Hello")
    by_value = await world.client.start_workflow(
        "RunWorkflow", {"prompt": "Hello"}, id=world.queue, task_queue=world.queue
    )
    by_reference = world.workflow(state.run_id)
    for handle in (by_reference, by_value):
        await handle.cancel()
    async with world.worker(handler):
        for handle in (by_reference, by_value):
            with pytest.raises(WorkflowFailureError) as caught:
                await handle.result()
            assert isinstance(caught.value.cause, CancelledError)
    assert [run.status for run in (await handler.store.list_runs()).runs] == ["cancelled"] * 2
    assert world.replies_bought() == 0


async def test_a_cancel_ends_a_durable_wait(world: World) -> None:
    """A run that waits for another of its session is cancelled at once."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def hang(request: Any) -> str:
        begun.set()
        await go_on.wait()
        return "First."

    handler = world.handler(hang)
    async with world.worker(handler):
        first = await handler.handle_prompt("one", session_id="s")
        await begun.wait()
        second = await handler.handle_prompt("two", session_id="s")
        async with asyncio.timeout(10):
            while (await world.workflow(second.run_id).query("progress"))["status"] != "waiting":
                await asyncio.sleep(0.02)
        await handler.cancel(second.run_id)
        second = await handler.wait(second.run_id, timeout=5)
        go_on.set()
        first = await handler.wait(first.run_id, timeout=5)
    assert (first.status, second.status) == ("done", "cancelled")


async def test_a_cancel_that_comes_too_late_changes_nothing(world: World) -> None:
    """Cancelling a run that is over returns it as it is; nothing is written."""
    handler = world.handler(["Done."])
    async with world.worker(handler):
        state = await handler.handle_prompt("Hello", wait=True)
        assert await handler.cancel(state.run_id) == state
        assert await handler.executor.cancel(state.run_id) is False
        assert (await handler.get_run(state.run_id)) == state


async def test_an_unknown_handler_waits_for_a_worker_that_knows_it(world: World) -> None:
    """A handler's name that this worker does not know is retried, so that a rolling deploy finishes the run;
    cancelling ends such a workflow."""
    handler, newer = world.handler(["One."], name="older"), world.handler(["Two."], name="newer")
    state = await newer.handle_prompt("Hello")
    lost = await world.client.start_workflow(
        "RunWorkflow", {"prompt": "Hello", "handler": "typo"}, id=world.queue, task_queue=world.queue
    )
    async with world.worker(handler):
        async with asyncio.timeout(10):
            while not (await world.workflow(state.run_id).describe()).raw_description.pending_activities:
                await asyncio.sleep(0.02)
    async with world.worker(handler, newer):
        state = await newer.wait(state.run_id, timeout=20)
        await lost.cancel()
        with pytest.raises(WorkflowFailureError) as caught:
            await lost.result()
    assert isinstance(caught.value.cause, CancelledError)
    assert state.output == "Two."


async def test_waiting_workflows_leave_the_cache(world: World) -> None:
    """Workflows that are evicted from the worker's cache while they wait come back and go on."""
    handler = world.handler(lambda request: request.messages[-1].text)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def hang(request: Any) -> str:
        begun.set()
        await go_on.wait()
        return "First."

    blocking = world.handler(hang, name="blocking")
    async with world.worker(handler, blocking, max_cached_workflows=1, max_concurrent_workflow_tasks=2):
        first = await blocking.handle_prompt("one", session_id="s")
        await begun.wait()
        waiting = [await handler.handle_prompt(str(n), session_id="s") for n in range(3)]
        assert {state.status for state in waiting} == {"pending"}
        go_on.set()
        ended = [await handler.wait(state.run_id, timeout=30) for state in waiting]
        [events] = await chain(world.workflow(waiting[0].run_id))
        status = (await world.workflow(first.run_id).describe()).status
    assert [state.output for state in ended] == ["0", "1", "2"]
    assert status == WorkflowExecutionStatus.COMPLETED
    assert not of_type(events, "WORKFLOW_TASK_FAILED")


async def test_a_worker_with_another_store_is_told(world: World) -> None:
    """Who waits for a run that a worker did not find, as its store is another one, learns that; with a worker
    of the right store the run goes on."""
    handler, other = world.handler(["Done."]), world.handler(["No."], db=f"sqlite:///{world.folder}/other.db")
    async with world.worker(other, reconcile_every=None):
        run = await handler.handle_prompt("Hello")
        with pytest.raises(ConfigurationError, match="has another store") as caught:
            await handler.wait(run.run_id, 20)
    assert str(caught.value).endswith(run.run_id)
    assert (await trouble(world.client, f"thoughtgear-{run.run_id}")).startswith("Its workflow has failed")
    async with world.worker(handler):
        await handler.continue_run(run.run_id)
        state = await handler.wait(run.run_id, 20)
    assert (state.status, state.output) == ("done", "Done.")


async def test_a_terminated_workflow_fails_its_run(world: World) -> None:
    """Who waits for a run whose workflow was terminated gets it as failed, with that reason."""
    begun = asyncio.Event()

    async def hang(request: Any) -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    handler = world.handler(hang)
    async with world.worker(handler):
        run = await handler.handle_prompt("Hello")
        await begun.wait()
        await world.workflow(run.run_id).terminate()
        state = await handler.wait(run.run_id, 20)
    assert state.error is not None
    assert (state.status, state.error.type) == ("failed", "WorkflowEndedError")
    assert "terminated" in state.error.message
