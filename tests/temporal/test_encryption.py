"""Encryption on a real server: what its histories hold, keys that change, and workers that lack one."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import RawValue
from temporalio.converter import DataConverter
from temporalio.worker import Worker
from world import World, chain, everything, of_type

from thoughtgear import (
    PromptHandler,
    RunClient,
    TemporalExecutor,
    ThoughtgearPlugin,
    build_worker,
    codec,
    config,
    tool,
)
from thoughtgear.activities.iteration import RunActivities
from thoughtgear.activities.roster import Roster
from thoughtgear.client import trouble
from thoughtgear.errors import ConfigurationError, PlaintextRefusedError, UnknownKeyError
from thoughtgear.protocols import RunFilter
from thoughtgear.providers.scripted import call
from thoughtgear.workflows import steps

OLD, NEW = os.urandom(32), os.urandom(32)
BOTH = {"new": NEW, "old": OLD}


@tool
def look(path: str) -> str:
    """Look at a file."""
    return f"canary in the result of {path}"


async def joined(server: str, world: World, converter: DataConverter) -> World:
    """The same queue and store, by a client of its own."""
    client = await Client.connect(server, data_converter=converter)
    other = World(client, world.folder)
    other.queue = world.queue
    return other


async def until(condition: Callable[[], Any]) -> Any:
    async with asyncio.timeout(20):
        while not (found := await condition()):
            await asyncio.sleep(0.05)
    return found


async def test_by_value_nothing_is_in_clear(world: World, server: str) -> None:
    """Of a run by value that waits in a model call, is sent a message and ends, the server has the session
    and the handler (search attributes) and names; prompt, metadata, message, reply, summaries, details,
    heartbeats and query results are encrypted."""
    begun, sent = asyncio.Event(), asyncio.Event()

    async def first(request: Any) -> Any:
        begun.set()
        await sent.wait()
        return [call("look", path="canary")]

    def last(request: Any) -> str:
        return "canary: " + " ".join(message.text for message in request.messages if message.role == "user")

    there = await joined(server, world, codec.data_converter(BOTH))
    handler = there.handler([first, last], tools=[look], name="secretive", executor=None)
    client = RunClient(there.client, there.queue, "secretive")
    async with there.worker(handler):
        name = await client.start("a canary", session_id="s-1", metadata={"canary": "canary"})
        handle = there.client.get_workflow_handle(name)
        await begun.wait()
        await client.send(name, "another canary")
        [beat] = await until(lambda: heartbeats(handle))
        plain = await Client.connect(server)
        queries = [
            (await plain.get_workflow_handle(name).query(query, result_type=RawValue)).payload
            for query in ("progress", "__temporal_workflow_metadata")
        ]
        sent.set()
        result = await client.wait(name)
        described = (await handle.describe()).raw_description
        [events] = await chain(handle)
    held = (
        everything(events)
        + str(MessageToDict(described))
        + described.SerializeToString().decode(errors="replace")
    )
    assert (result.status, result.output) == ("done", "canary: a canary another canary")
    assert "canary" not in held
    assert "thoughtgear · secretive" not in held
    assert "iteration 1" not in held
    assert "progress" not in held
    assert {payload.metadata["encoding"] for payload in [*beat.payloads, *queries]} == {b"binary/encrypted"}
    attributes = described.workflow_execution_info.search_attributes.indexed_fields
    assert attributes["ThoughtgearSession"].data == b'"s-1"'
    assert attributes["ThoughtgearHandler"].data == b'"secretive"'
    assert {
        each.metadata["encoding"]
        for each in (
            described.execution_config.user_metadata.summary,
            described.execution_config.user_metadata.details,
        )
    } == {b"binary/encrypted"}


async def test_failures_are_in_no_history(world: World, server: str) -> None:
    """Message and stack of a failed activity and a failed workflow are encrypted; the type is in clear."""
    there = await joined(server, world, codec.data_converter(BOTH))
    handler = there.handler([])
    async with there.worker(handler):
        state = await handler.handle_prompt("Hello", wait=True)
        handle = there.workflow(state.run_id)
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
        [events] = await chain(handle)
    assert state.status == "failed"
    [failed] = of_type(events, "ACTIVITY_TASK_FAILED")
    failure = failed.activity_task_failed_event_attributes.failure
    assert (failure.message, failure.stack_trace) == ("Encoded failure", "")
    assert failure.encoded_attributes.metadata["encoding"] == b"binary/encrypted"
    assert failure.application_failure_info.type == "ModelRejectedError"
    assert state.error is not None
    assert state.error.message not in everything(events)
    assert "iteration.py" not in everything(events)
    assert str(caught.value.cause).endswith(state.error.message)


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, BOTH), ({"old": OLD}, BOTH)],
    ids=["encryption is switched on", "the key is rotated"],
)
async def test_a_run_goes_on(world: World, server: str, before: Any, after: Any) -> None:
    """A run that began in clear, or under an older key, goes on with a worker that encrypts under the new
    one: from there on its history is encrypted with that, and each client of today reads all of it."""
    begun, hang = asyncio.Event(), True

    async def line(request: Any) -> str:
        begun.set()
        if hang:
            await asyncio.Event().wait()
        return "Done."

    older = await joined(server, world, codec.data_converter(before) if before else DataConverter.default)
    handler = older.handler(line, executor=None)
    async with older.worker(handler):
        name = await RunClient(older.client, older.queue).start("Hello")
        await begun.wait()
    hang = False
    newer = await joined(server, world, codec.data_converter(after))
    async with newer.worker(handler):
        client = RunClient(newer.client, newer.queue)
        result = await client.wait(name)
        assert (await client.get(name)).status == "done"
    [events] = await chain(newer.client.get_workflow_handle(name))
    start = events[0].workflow_execution_started_event_attributes.input.payloads[0]
    end = events[-1].workflow_execution_completed_event_attributes.result.payloads[0]
    assert (result.status, result.output) == ("done", "Done.")
    assert start.metadata.get("encryption-key-id") == (b"old" if before else None)
    assert end.metadata["encryption-key-id"] == b"new"


@pytest.mark.parametrize(
    ("sender", "worker", "says"),
    [
        ({"new": NEW}, None, "UnknownKeyError: .*'new'.* This process has no keys"),
        ({"new": NEW}, {"old": OLD}, "UnknownKeyError"),
        ({"new": NEW}, {"new": OLD}, "DecryptionError"),
        (None, "required", "PlaintextRefusedError"),
    ],
    ids=["no keys", "another key", "another key of that name", "plaintext"],
)
async def test_a_worker_that_cannot_read_holds_the_run(
    world: World, server: str, monkeypatch: pytest.MonkeyPatch, sender: Any, worker: Any, says: str
) -> None:
    """A worker that lacks the key, or refuses plaintext, fails the workflow's task with a typed error, which
    a client is told as the reason; the run is not lost: a worker that can read it finishes it."""
    monkeypatch.delenv(codec.KEYS, raising=False)
    plain = codec.converter_from_environment()
    if worker == "required":
        unable = codec.data_converter(BOTH, required=True)
    else:
        unable = codec.data_converter(worker) if worker else plain
    client = (await joined(server, world, codec.data_converter(sender) if sender else plain)).client
    there = await joined(server, world, unable)
    handler = there.handler(["Done."], executor=None)
    handle = await client.start_workflow(
        "RunWorkflow",
        {"prompt": "Hello"},
        id=world.queue,
        task_queue=world.queue,
        task_timeout=timedelta(seconds=1),
    )
    async with there.worker(handler):
        reason = await until(lambda: trouble(client, handle.id))
        progress = await RunClient(client).get(handle.id) if worker is None else None
    assert re.search(says, reason)
    assert progress is None or (progress.status, progress.reason) == ("unknown", reason)
    assert not (await handler.store.list_runs(RunFilter())).runs
    able = await joined(server, world, codec.data_converter(BOTH))
    async with able.worker(handler):
        assert (await RunClient(able.client).wait(handle.id)).output == "Done."


async def test_a_heartbeat_that_cannot_be_read_fails_no_run(
    world: World, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the attempt before beat under a key that a worker lacks, the SDK fails the activity for good; the
    run goes on with another one."""
    monkeypatch.setattr(steps, "KEY_SECONDS", 0.1)
    begun, hang = asyncio.Event(), True

    async def line(request: Any) -> str:
        begun.set()
        if hang:
            await asyncio.Event().wait()
        return "Done."

    keys = ({"old": OLD, "new": NEW}, {"new": NEW, "old": OLD}, {"old": OLD})
    careful, rash, late = [await joined(server, world, codec.data_converter(each)) for each in keys]
    handler = careful.handler(line, executor=None)
    handle = await careful.client.start_workflow(
        "RunWorkflow", {"prompt": "Hello"}, id=world.queue, task_queue=world.queue
    )
    async with careful.worker(handler, no_remote_activities=True, disable_eager_activity_execution=True):
        async with activities(rash, handler):
            await begun.wait()
            beating = await until(lambda: heartbeats(handle))
        hang = False
        async with activities(late, handler), asyncio.timeout(20):
            result = await handle.result()
    [events] = await chain(handle)
    [failed] = of_type(events, "ACTIVITY_TASK_FAILED")
    assert beating[0].payloads[0].metadata["encryption-key-id"] == b"new"
    failure = failed.activity_task_failed_event_attributes.failure
    assert (failure.cause.application_failure_info.type, result["status"]) == ("UnknownKeyError", "done")


def activities(world: World, handler: PromptHandler) -> Worker:
    """A worker for the activities alone, so that another one can have the workflow."""
    return Worker(
        world.client,
        task_queue=world.queue,
        activities=RunActivities(Roster([handler])).all(),
        max_heartbeat_throttle_interval=timedelta(seconds=0.5),
        build_id="test",  # else the SDK hashes every module
    )


async def heartbeats(handle: WorkflowHandle[Any, Any]) -> list[Any]:
    pending = (await handle.describe()).raw_description.pending_activities
    return [each.heartbeat_details for each in pending if each.heartbeat_details.payloads]


async def test_a_client_without_the_key_says_so(
    world: World, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result that the client can't decrypt is an UnknownKeyError with the variable to set; a handler whose
    client has no key, or another one, still waits for its run: the state is in the store."""
    monkeypatch.delenv(codec.KEYS, raising=False)
    there = await joined(server, world, codec.data_converter({"new": NEW}))
    async with there.worker(there.handler(["Done."])):
        name = await RunClient(there.client, there.queue).start("Hello")
        await RunClient(there.client).wait(name)
        for converter in (codec.converter_from_environment(), codec.data_converter({"old": OLD})):
            here = await joined(server, world, converter)
            with pytest.raises(UnknownKeyError, match="'new'"):
                await RunClient(here.client).wait(name)
        for converter in (DataConverter.default, codec.converter_from_environment()):
            here = await joined(server, world, converter)
            handler = here.handler(["Done."])
            assert (await handler.handle_prompt("Hello", wait=True)).output == "Done."
    strict = await joined(server, world, codec.data_converter({"new": NEW}, required=True))
    async with world.worker(world.handler(["Done."])):
        name = await RunClient(world.client, world.queue).start("Hello")
        await RunClient(world.client).wait(name)
        with pytest.raises(PlaintextRefusedError):
            await RunClient(strict.client).wait(name)


async def test_where_encryption_is_required_a_bare_client_is_refused(
    world: World, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """THOUGHTGEAR_CODEC_REQUIRED refuses a client without a codec, in executor, worker and plugin, before a
    prompt is stored; one that is made from the environment has the codec."""
    monkeypatch.setenv(codec.KEYS, "new:" + "A" * 43)
    monkeypatch.setenv(codec.REQUIRED, "1")
    monkeypatch.setenv("TEMPORAL_ADDRESS", server)
    with pytest.raises(ConfigurationError, match="no payload codec"):
        TemporalExecutor(world.client)
    handler = world.handler(["Done."], executor=TemporalExecutor(task_queue=world.queue))
    with pytest.raises(ConfigurationError, match="no payload codec"):
        build_worker(world.client, [handler], world.queue)
    with pytest.raises(ConfigurationError, match="no payload codec"):
        ThoughtgearPlugin([handler]).configure_worker({"client": world.client, "task_queue": "q"})  # type: ignore[typeddict-item]
    made = await config.connect()
    async with build_worker(made, [handler], world.queue):
        state = await handler.handle_prompt("Hello", wait=True)
        [events] = await chain(made.get_workflow_handle(f"thoughtgear-{state.run_id}"))
    assert state.output == "Done."
    inputs = events[0].workflow_execution_started_event_attributes.input.payloads
    assert [payload.metadata["encryption-key-id"] for payload in inputs] == [b"new"]
    assert events[-1].event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED
