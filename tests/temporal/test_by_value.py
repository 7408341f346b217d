"""Runs that come by value, from clients that know nothing of the store."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from world import BARE, World, chain, of_type

from thoughtgear import tool
from thoughtgear.activities.reports import OUTPUT
from thoughtgear.devserver import find_server
from thoughtgear.errors import StoreUnavailableError
from thoughtgear.protocols import RunFilter
from thoughtgear.providers.scripted import call


@tool
def look(path: str) -> str:
    """Look at a file."""
    return "seen"


async def test_the_bare_sdk_is_enough(world: World) -> None:
    """A plain Temporal client starts a run under any workflow id and gets a result with the answer."""
    handler = world.handler([[call("look", path="a")], "It is there."], tools=[look], executor=None)
    async with world.worker(handler):
        given = {"prompt": "What is in a?", "handler": "default", "session_id": "s", "metadata": {"a": 1}}
        handle = await world.client.start_workflow(
            "RunWorkflow", given, id=f"order-42-{world.queue}", task_queue=world.queue
        )
        result = await handle.result()
    state = await handler.get_run(result["run_id"])
    assert (result["status"], result["output"], result["iterations"]) == ("done", "It is there.", 2)
    assert result["usage"] == {
        "input_tokens": state.usage.input_tokens,
        "output_tokens": state.usage.output_tokens,
    }
    assert (state.session_id, state.metadata) == ("s", {"a": 1})
    assert (state.driver.executor, state.driver.workflow_id) == ("temporal", handle.id)


async def test_the_command_line_of_temporal_is_enough(world: World, server: str) -> None:
    """`temporal workflow start` and `temporal workflow result` run a prompt."""

    async def temporal(*arguments: str) -> Any:
        process = await asyncio.create_subprocess_exec(
            find_server(), "workflow", *arguments, "--address", server, "-o", "json",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
        assert process.returncode == 0
        return json.loads(out)

    handler = world.handler(["Hello yourself."])
    name = f"by-hand-{world.queue}"
    given = json.dumps({"prompt": "Hello"})
    async with world.worker(handler):
        await temporal(
            "start", "--type", "RunWorkflow", "--task-queue", world.queue, "-w", name, "--input", given
        )
        answer = await temporal("result", "-w", name)
    assert answer["result"]["output"] == "Hello yourself."
    assert (await handler.get_run(answer["result"]["run_id"])).status == "done"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "takes one JSON object"),
        (("just text",), "takes one JSON object"),
        (({}, {}), "takes one JSON object"),
        (({"handler": "default"},), "either prompt"),
        (({"prompt": "a", "run_id": "b"},), "either prompt"),
        (({"prompt": 7},), "prompt has to be a string"),
        (({"prompt": "a", "metadata": "b"},), "metadata has to be an object"),
        (({"prompt": "a", "sesion_id": "b"},), "Unknown fields: sesion_id;"),
        (({"prompt": "a", "carried": {"version": "b"}},), "leave it out"),
        (({"prompt": "a", "carried": {"rows": [[1]], "totals": [1, 2, 3, 4, 5]}},), "leave it out"),
        (({"prompt": "   "},), "prompt"),
        (({"run_id": "none-such"},), "no run none-such"),
        (({"run_id": "../etc"},), "run id"),
    ],
)
async def test_bad_input_fails_at_once(world: World, arguments: tuple[Any, ...], says: str) -> None:
    """What can't be run fails the workflow with a clear message; no task is retried."""
    handler = world.handler(["Hello."])
    async with world.worker(handler):
        handle = await world.client.start_workflow(
            "RunWorkflow", args=arguments, id=world.queue, task_queue=world.queue
        )
        async with asyncio.timeout(10):
            with pytest.raises(WorkflowFailureError) as caught:
                await handle.result()
        [events] = await chain(handle)
    assert isinstance(caught.value.cause, ApplicationError)
    assert says in caught.value.cause.message
    assert caught.value.cause.non_retryable
    assert not of_type(events, "WORKFLOW_TASK_FAILED")


async def test_a_reset_finds_the_same_run(world: World) -> None:
    """A workflow that is reset to its start finds its run, done, and buys nothing."""
    handler = world.handler(["Once."])
    async with world.worker(handler):
        handle = await world.client.start_workflow(
            "RunWorkflow", {"prompt": "Hello"}, id=world.queue, task_queue=world.queue
        )
        first = await handle.result()
        [events] = await chain(handle)
        reset = await world.client.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=world.client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=world.queue, run_id=handle.result_run_id),
                workflow_task_finish_event_id=of_type(events, "WORKFLOW_TASK_STARTED")[0].event_id + 1,
                reason="test",
                request_id="reset",
            )
        )
        second = await world.client.get_workflow_handle(world.queue, run_id=reset.run_id).result()
    assert second == first
    assert world.replies_bought() == 1


async def test_each_tick_of_a_cron_is_a_run_of_its_own(world: World) -> None:
    """Under a cron schedule, every execution has another run."""
    handler = world.handler(["Tick."])
    async with world.worker(handler):
        handle = await world.client.start_workflow(
            "RunWorkflow",
            {"prompt": "Hello"},
            id=world.queue,
            task_queue=world.queue,
            cron_schedule="@every 1s",
        )
        async with asyncio.timeout(15):
            while len((await handler.store.list_runs(RunFilter(status="done"))).runs) < 2:
                await asyncio.sleep(0.1)
        await handle.terminate()
    assert world.replies_bought() >= 2


async def test_a_failed_run_is_not_retried_by_the_workflows_policy(world: World) -> None:
    """A retry policy on the workflow does not run a failed run again."""
    handler = world.handler([])
    async with world.worker(handler):
        with pytest.raises(WorkflowFailureError):
            await world.client.execute_workflow(
                "RunWorkflow",
                {"prompt": "Hello"},
                id=world.queue,
                task_queue=world.queue,
                retry_policy=RetryPolicy(maximum_attempts=3),
            )
        assert len((await handler.store.list_runs()).runs) == 1


async def test_a_long_answer_is_cut(world: World) -> None:
    """An answer over the limit is cut on its way through Temporal; the store has all of it."""
    text = "ä" * OUTPUT
    handler = world.handler([text])
    async with world.worker(handler):
        result = await world.client.execute_workflow(
            "RunWorkflow", {"prompt": "Hello"}, id=world.queue, task_queue=world.queue
        )
    assert len(result["output"].encode()) < OUTPUT + 100
    assert result["output"].endswith("the store has all of it.]")
    assert (await handler.get_run(result["run_id"])).output == text


async def test_messages_by_value_arrive_in_order(world: World) -> None:
    """`send` signals reach the run in their order, once per request id, and no reply is given without them; a
    signal that is no message changes nothing."""
    begun, sent = asyncio.Event(), asyncio.Event()

    async def first(request: Any) -> str:
        begun.set()
        await sent.wait()
        return "First."

    def second(request: Any) -> str:
        return " ".join(message.text for message in request.messages if message.role == "user")

    handler = world.handler([first, second])
    async with world.worker(handler):
        handle = await world.client.start_workflow(
            "RunWorkflow", {"prompt": "0"}, id=world.queue, task_queue=world.queue
        )
        await begun.wait()
        for number in (1, 2, 3, 3):
            await handle.signal("send", {"text": str(number), "request_id": f"m{number}"})
        await handle.signal("send", "no message")
        await handle.signal("send", {"text": 5})
        async with asyncio.timeout(10):
            while len((await handler.store.list_runs()).runs[0].inbox) < 3:
                await asyncio.sleep(0.02)
        sent.set()
        result = await handle.result()
    assert (result["status"], result["output"]) == ("done", "0 1 2 3")


async def test_a_message_after_the_end_starts_another_run(world: World) -> None:
    """A message that comes by value while the workflow ends is not lost: it makes a new run in the session,
    which Temporal drives, too."""
    handler = world.handler(lambda request: request.messages[-1].text, executor=None)
    async with world.worker(handler):
        handle = await world.client.start_workflow(
            "RunWorkflow",
            {"prompt": "one", "session_id": "s"},
            id=world.queue,
            task_queue=world.queue,
        )
        first = await handle.result()
        await world.client.start_workflow(
            "RunWorkflow",
            {"run_id": first["run_id"]},
            id=world.queue,
            task_queue=world.queue,
            start_signal="send",
            start_signal_args=[{"text": "two", "request_id": "m"}],
        )
        async with asyncio.timeout(10):
            while len(runs := (await handler.store.list_runs(RunFilter(status="done"))).runs) < 2:
                await asyncio.sleep(0.02)
    assert (runs[0].output, runs[0].session_id, runs[0].driver.executor) == ("two", "s", "temporal")


async def test_a_workflow_ends_after_its_messages_are_delivered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message whose delivery fails at first, while its run ends, is delivered before the workflow returns:
    one that has returned tries nothing again."""
    begun, failed = asyncio.Event(), asyncio.Event()

    async def first(request: Any) -> str:
        begun.set()
        await failed.wait()
        return "First."

    handler = world.handler([first, "Second."], executor=None)
    send = handler.send

    async def away_once(*arguments: Any, **options: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise StoreUnavailableError
        return await send(*arguments, **options)

    monkeypatch.setattr(handler, "send", away_once)
    async with world.worker(handler):
        handle = await world.client.start_workflow(
            "RunWorkflow", {"prompt": "one", "session_id": "s"}, id=world.queue, task_queue=world.queue
        )
        await begun.wait()
        await handle.signal("send", {"text": "two", "request_id": "m"})
        await handle.result()
    runs = (await handler.store.list_runs()).runs
    assert failed.is_set()
    assert [(await handler.history(run.run_id))[0].text for run in runs] == ["two", "one"]


async def test_a_namespace_without_search_attributes_is_fine(world: World, server: str) -> None:
    """Where the search attributes are not registered none is set, and the run ends as anywhere else."""
    world.client = await Client.connect(server, namespace=BARE)
    handler = world.handler(["Hello."])
    async with world.worker(handler):
        state = await handler.handle_prompt("Hello", wait=True)
        [events] = await chain(world.workflow(state.run_id))
    assert state.status == "done"
    assert not of_type(events, "UPSERT_WORKFLOW_SEARCH_ATTRIBUTES")
