"""Without any codec, nothing of a run by reference reaches Temporal or a log, whatever goes wrong."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.json_format import MessageToDict
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import RawValue
from world import World, chain, everything

from thoughtgear import PromptHandler, RunClient, TemporalExecutor
from thoughtgear.prompts import File
from thoughtgear.worker_process import WorkerProcess

NEST = f"canary{uuid4().hex[:12]}"

FATES = {
    "tools": "done",
    "callbacks": "done",
    "context": "failed",
    "model": "failed",
    "rejected": "failed",
    "hanging": "cancelled",
}


async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A model server that quotes the key and the prompt in its error."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    [length] = re.findall(r"(?i)content-length: (\d+)", head)
    prompt = (await reader.readexactly(int(length))).decode()
    body = json.dumps({"error": {"message": head + prompt, "type": f"{NEST}-type", "code": f"{NEST} code"}})
    answer = f"HTTP/1.1 400 {NEST}\r\ncontent-type: application/json\r\nx-request-id: r-1\r\n"
    writer.write(f"{answer}content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode())
    await writer.drain()
    writer.close()


@pytest.fixture
async def model_url() -> AsyncIterator[str]:
    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
def worker(
    world: World, server: str, model_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WorkerProcess]:
    """A worker at INFO, in a process of its own: its log has what the SDK's core writes, too."""
    settings = {"NEST": NEST, "NEST_FOLDER": str(world.folder), "NEST_MODEL_URL": model_url}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    here = Path(__file__).parent
    log = world.folder / "worker.log"
    made = WorkerProcess(
        "nest:handlers", address=server, log=log, folder=here, task_queue=world.queue, environment=settings
    )
    made.start()
    yield made
    made.kill()


@asynccontextmanager
async def senders(world: World) -> AsyncIterator[dict[str, PromptHandler]]:
    """The same handlers here, which only send."""
    sys.modules.pop("nest", None)
    nest = importlib.import_module("nest")
    made = {}
    for handler in nest.handlers():
        if handler.name in FATES:
            executor = TemporalExecutor(world.client, world.queue)
            made[handler.name] = PromptHandler(
                handler.name, model="scripted:echo", db=nest.STORE, executor=executor
            )
        await handler.aclose()
    yield made
    for handler in made.values():
        await handler.aclose()


async def play(world: World, sender: PromptHandler) -> Any:
    state = await sender.handle_prompt(
        f"{NEST}-prompt",
        files=[File(f"{NEST}-file.txt", f"{NEST}-content".encode())],
        user_id=f"{NEST}-user",
        metadata={f"{NEST}-key": f"{NEST}-value"},
        request_id=f"{NEST}-request",
    )
    if sender.name == "hanging":
        async with asyncio.timeout(20):
            while not (world.folder / "hanging").exists():
                await asyncio.sleep(0.05)
        await sender.send(state.run_id, f"{NEST}-message")
        await until_beaten(world, state.run_id)
        await sender.cancel(state.run_id)
    return await sender.wait(state.run_id, timeout=30)


async def until_beaten(world: World, run_id: str) -> None:
    async with asyncio.timeout(20):
        while not await _beats(world, run_id):
            await asyncio.sleep(0.1)


async def _beats(world: World, run_id: str) -> list[Any]:
    pending = (await world.workflow(run_id).describe()).raw_description.pending_activities
    return [each for each in pending if each.heartbeat_details.payloads]


async def held(client: Client, workflow_id: str) -> str:
    """All that the server has of a workflow, payloads decoded, and what it answers queries with."""
    handle = client.get_workflow_handle(workflow_id)
    described = await handle.describe()
    words = [str(MessageToDict(described.raw_description)), repr(described.raw_description)]
    for events in await chain(handle):
        words += [everything(events), *(repr(event) for event in events)]
    if described.status != WorkflowExecutionStatus.TERMINATED:
        for query in ("progress", "__temporal_workflow_metadata"):
            words.append(repr((await handle.query(query, result_type=RawValue)).payload))
    return "\n".join(words)


def found(text: str) -> set[str]:
    return set(re.findall(rf"{NEST}[A-Za-z-]*", text))


async def test_no_canary_reaches_temporal_or_the_log(world: World, worker: WorkerProcess) -> None:
    """Prompts, files, metadata, users, contexts, replies, arguments, tool names, results, messages, errors of
    tools, models, callbacks and context functions, API keys, URLs and passwords: all went through the worker,
    and none of it is in a history, a description, a heartbeat, a query's answer or the worker's log."""
    assert await worker.until_ready(world.client)
    async with senders(world) as handlers:
        lost = await RunClient(world.client, world.queue, "lost").start("A prompt by value without a canary")
        states = dict(
            zip(
                handlers,
                await asyncio.gather(*(play(world, each) for each in handlers.values())),
                strict=True,
            )
        )
        stored = [
            message.model_dump_json()
            for name, state in states.items()
            for message in await handlers[name].history(state.run_id)
        ]
        names = [f"thoughtgear-{state.run_id}" for state in states.values()]
        held_of_lost = await until_failing(world.client, lost)
        await world.client.get_workflow_handle(lost).terminate()
        texts = [await held(world.client, name) for name in [*names, lost]]
    log = worker.log.read_text()
    assert {name: state.status for name, state in states.items()} == FATES
    assert found("".join(texts) + held_of_lost) == set()
    assert found(log) == set(), log
    assert_fired("".join(stored), held_of_lost, log, states)


async def until_failing(client: Client, workflow_id: str) -> str:
    """What the server has of an activity that failed and is tried again."""
    async with asyncio.timeout(20):
        while True:
            pending = (
                await client.get_workflow_handle(workflow_id).describe()
            ).raw_description.pending_activities
            if pending and pending[0].HasField("last_failure"):
                return str(MessageToDict(pending[0]))
            await asyncio.sleep(0.1)


def assert_fired(stored: str, lost: str, log: str, states: dict[str, Any]) -> None:
    """Each canary was where it could have escaped from."""
    there = {
        "prompt", "file", "reply", "argument", "bad-argument", "unknown-tool", "tool-raised", "tool-returned",
    }  # fmt: skip
    assert there <= {each.removeprefix(f"{NEST}-") for each in found(stored)}
    assert "PostgreSQL at 127.0.0.1:1 can't be reached" in lost
    assert "HTTP 400" in states["rejected"].error.message
    for event in ("on_tool_start", "on_tool_end", "on_iteration", "on_done", "on_error", "on_partial_reply"):
        assert f"The callback {event} raised; the run goes on." in log
    assert log.count("The activity raised CanaryError") == 2
    assert "nest.CanaryError: (its message shows at DEBUG)" in log
    assert "KeyError: (its message shows at DEBUG)" in log
    assert "handler lost: model scripted, store" in log
