"""What is compared, on one server: a run, a bare workflow as the floor, and one as the SDK makes it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from bare import Bare, nothing
from temporalio.client import Client
from temporalio.worker import Worker

from thoughtgear import Limits, Message, PromptHandler, RunState, TemporalExecutor, build_worker, tool
from thoughtgear.adapters.sql import SqlAdapter
from thoughtgear.client import workflow_id_for
from thoughtgear.config import connect
from thoughtgear.devserver import DevServer
from thoughtgear.protocols import ModelReply, ModelRequest, OnText, RequestedCall

QUEUE, PLAIN_QUEUE = "overhead", "overhead-plain"
RESULT = "x" * 1024


@tool
async def look(page: int) -> str:
    """Return a page of 1 KB."""
    return RESULT


class InstantModel:
    """Asks for a tool call in each iteration but the last, whose number is the prompt.

    A call takes the same work in every iteration.
    """

    model = "instant"

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        iteration = 1 + (len(request.messages) - 1) // 2  # a prompt, then a reply and a result each
        if iteration >= int(request.messages[0].text):
            return ModelReply("done")
        return ModelReply(calls=[RequestedCall("look", f'{{"page": {iteration}}}')])

    async def aclose(self) -> None:
        """It holds nothing."""


class CountingStore(SqlAdapter):
    """SQLite, and how often it was written and read."""

    commits = 0
    reads = 0

    async def save_run(self, state: RunState, messages: Sequence[Message]) -> None:
        self.commits += 1
        await super().save_run(state, messages)

    async def load_run(self, run_id: str) -> RunState:
        self.reads += 1
        return await super().load_run(run_id)


class Contender(Protocol):
    """What is measured. `run` resolves when all iterations are done, and returns the workflow's id."""

    name: str

    async def run(self, iterations: int) -> str: ...


class BareWorkflow:
    def __init__(self, name: str, client: Client, task_queue: str) -> None:
        self.name, self._client, self._task_queue = name, client, task_queue

    async def run(self, iterations: int) -> str:
        name = f"bare-{uuid4().hex}"
        await self._client.execute_workflow(Bare.run, iterations, id=name, task_queue=self._task_queue)
        return name


class Run:
    name = "run"

    def __init__(self, handler: PromptHandler) -> None:
        self._handler = handler

    async def run(self, iterations: int) -> str:
        state = await self._handler.handle_prompt(str(iterations), wait=True)
        assert (state.status, state.iteration) == ("done", iterations), state
        return workflow_id_for(state.run_id)


@dataclass(frozen=True)
class Bench:
    """The contenders on their server."""

    client: Client
    run: Run
    bare: BareWorkflow
    plain: BareWorkflow
    store: CountingStore


@asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    """Start the server with a database file, one worker for the run and the floor, and one for the bare
    workflow as the SDK makes it: its own client and worker, no option set."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(DevServer(db=folder / "temporal.db", ui=False))
        client = await connect(address=server.address)
        untuned = await Client.connect(server.address)
        store = CountingStore.from_dict({"path": str(folder / "runs.db")})
        assert isinstance(store, CountingStore)
        handler = PromptHandler(
            tools=[look],
            model=InstantModel(),
            orm=store,
            executor=TemporalExecutor(client, QUEUE),
            limits=Limits(iterations=1_000_000),
        )
        await stack.enter_async_context(handler)
        worker = build_worker(client, [handler], QUEUE, workflows=[Bare], activities=[nothing])
        await stack.enter_async_context(worker)
        plain = Worker(untuned, task_queue=PLAIN_QUEUE, workflows=[Bare], activities=[nothing])
        await stack.enter_async_context(plain)
        yield Bench(
            client,
            Run(handler),
            BareWorkflow("floor", client, QUEUE),
            BareWorkflow("as the SDK makes it", untuned, PLAIN_QUEUE),
            store,
        )
