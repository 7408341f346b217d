"""One case of a crash window: a run of its own on a store, its workers, and the checks at its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from histories import chain, everything
from temporalio.client import Client

from proofs.agent import Agent, At, ledger_of, nothing, prompt
from proofs.faults import Fault
from proofs.violations import Ended, open_workflows, secrets, violations
from proofs.workers import Job, WorkerProcess
from thoughtgear import PromptHandler, TemporalExecutor, build_worker
from thoughtgear.models import RunState
from thoughtgear.registry import open_store

SECONDS = 120.0
"""How long a case waits for what must come: a death is seen after ten seconds, on a machine that has time."""

STEPS = 3
TIMES = 5
"""How often each window is tried on each store. `time` says which one this is; it varies where it strikes."""


class Case:
    """`passwords` must be in no history and no log, beside what the prompt says."""

    def __init__(self, client: Client, job: Job, time: int = 0, passwords: Sequence[str] = ()) -> None:
        self.client, self.job, self.time = client, job, time
        self.ledger = ledger_of(job.folder)
        self.iteration = 1 if time % 2 == 0 else 3
        self.steps = STEPS
        self.prompt = ""
        self.run_id = ""
        self.passwords = passwords
        self._processes: list[WorkerProcess] = []
        self._handler = self.handler()

    def handler(self, at: At = nothing) -> PromptHandler:
        """A handler of this process, that Temporal drives."""
        executor = TemporalExecutor(self.client, self.job.queue)
        return Agent(self.ledger, at).handler(open_store(self.job.url), executor)

    async def ask(self, steps: int = STEPS) -> None:
        """Have the prompt acknowledged: stored, and scheduled."""
        self.steps, self.prompt = steps, prompt(uuid4().hex, steps)
        self.run_id = (await self._handler.handle_prompt(self.prompt)).run_id

    def process(self, fault: Fault) -> WorkerProcess:
        """Start a worker of its own process, for this fault to strike."""
        started = WorkerProcess(self.job.striking(fault))
        self._processes.append(started)
        return started

    @asynccontextmanager
    async def worker(self, at: At = nothing) -> AsyncIterator[PromptHandler]:
        """A worker of this process."""
        handler = self.handler(at)
        try:
            async with build_worker(self.client, [handler], self.job.queue):
                yield handler
        finally:
            await handler.aclose()

    async def until(self, what: Callable[[], Any]) -> Any:
        """Wait for something to be so, and return it."""
        async with asyncio.timeout(SECONDS):
            while not (found := what()):
                await asyncio.sleep(0.02)
        return found

    async def until_closed(self) -> None:
        """Wait until no workflow of the queue goes on."""
        async with asyncio.timeout(SECONDS):
            while await open_workflows(self.client, self.job.queue):
                await asyncio.sleep(0.2)

    async def over(self) -> RunState:
        """Wait for the run's end."""
        return await self._handler.wait(self.run_id, SECONDS)

    async def check(
        self,
        *,
        lost: int = 0,
        unknown: Collection[str] = (),
        status: str = "done",
        sent: Sequence[Sequence[str]] = (),
    ) -> dict[str, str]:
        """Check all that is promised, and return how each call ended."""
        await self.until_closed()
        for process in self._processes:
            process.kill()
        state = await self._handler.get_run(self.run_id)
        history = await self._handler.history(self.run_id)
        ended = Ended(self.prompt, self.steps, state, history, sent, lost, unknown, status)
        executions = await chain(self.client.get_workflow_handle(f"thoughtgear-{self.run_id}"))
        said = [everything(events) for events in executions]
        logged = [self.job.log.read_text()] if self.job.log.exists() else []
        found = await violations(ended, self.ledger)
        # What is sent by a signal goes through the history: that is said where it is offered.
        found += secrets([*([] if sent else said), *logged], *self.passwords)
        assert not found, "\n".join(found)
        return {m.tool_result.call_id: m.tool_result.status for m in history if m.tool_result}

    async def close(self) -> None:
        """End what goes on."""
        for process in self._processes:
            process.kill()
        await self._handler.aclose()
