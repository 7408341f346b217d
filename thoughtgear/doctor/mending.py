"""What a repair does. It looks again first: what has changed since the scan is left alone."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from thoughtgear.batches import find_run
from thoughtgear.client import pollers, workflow_id_for
from thoughtgear.commit import RunWriter, unchanged
from thoughtgear.doctor.findings import Finding
from thoughtgear.errors import SupersededError
from thoughtgear.executors.temporal import schedule_run
from thoughtgear.handler import PromptHandler
from thoughtgear.models import RunState, now
from thoughtgear.protocols import Attempt, OrmAdapter
from thoughtgear.registry import NO_MODEL

EndWorkflow = Literal["cancel", "terminate"]


@dataclass(frozen=True)
class Mended:
    """Whether a finding is mended, or no longer so, and what was done or why nothing."""

    done: bool
    said: str


class Mending:
    """Mends findings of a store and its Temporal server."""

    def __init__(self, store: OrmAdapter, client: Client | None, task_queue: str, settled: timedelta) -> None:
        self._store, self._client, self._task_queue = store, client, task_queue
        self._settled = settled

    async def mend(self, finding: Finding, end_workflow: EndWorkflow | None) -> Mended:
        """Do what the finding's `repair` says."""
        if finding.repair == "release":
            return await self._release(finding)
        if finding.repair is None or self._client is None:
            return Mended(False, "This takes a person.")
        if finding.repair == "end workflow":
            return await self._end_workflow(self._client, finding, end_workflow)
        if finding.repair == "close":
            return await self._close(self._client, finding)
        return await self._schedule(self._client, finding)

    async def _release(self, finding: Finding) -> Mended:
        """Give back a claim that nobody will: whoever made it is fenced, if it is there at all."""
        while True:
            state = await find_run(self._store, finding.run_id or "")
            if state is None:
                return Mended(True, "The run was deleted.")
            if not is_stuck(state, self._settled):
                return Mended(True, "The claim is stuck no more.")
            writer = RunWriter(self._store, state, Attempt(driver=state.driver.executor))
            try:
                await writer.commit(unchanged, release=True)
            except SupersededError:
                continue
            return await self._go_on(finding, state)

    async def _go_on(self, finding: Finding, state: RunState) -> Mended:
        if self._client is not None and state.driver.executor == "temporal":
            woken = await self._schedule(self._client, finding)
            return Mended(True, f"The claim is released. {woken.said}")
        # What a queue or a platform still has of it is of the epoch before, and does nothing any more.
        again = f"thoughtgear run --continue {shlex.quote(state.run_id)}"
        return Mended(True, f"The claim is released. Unless a process of yours still waits, go on: {again}")

    async def _schedule(self, client: Client, finding: Finding) -> Mended:
        run_id = finding.run_id or ""
        name = finding.workflow_id or workflow_id_for(run_id)
        state = await find_run(self._store, run_id)
        if state is None:
            return Mended(True, "The run was deleted.")
        if state.over:
            await _if_there(client.get_workflow_handle(name).signal("wake"))
            unless = await self._unless_polled(client)
            return Mended(True, f"The run is {state.status}: its workflow was woken, and ends{unless}.")
        await schedule_run(
            client, run_id=run_id, handler=state.handler, workflow_id=name, task_queue=self._task_queue
        )
        return Mended(
            True, f"Scheduled in the task queue {self._task_queue!r}{await self._unless_polled(client)}."
        )

    async def _unless_polled(self, client: Client) -> str:
        """Say so where a workflow has to wait for a worker."""
        try:
            polled = await pollers(client, self._task_queue)
        except RPCError:  # it may not tell
            return ""
        return "" if polled else ", once a worker polls it: none does"

    async def _close(self, client: Client, finding: Finding) -> Mended:
        found = await client.get_workflow_handle(finding.workflow_id or "").describe()
        if found.status == WorkflowExecutionStatus.RUNNING:
            return Mended(True, "Its workflow goes on again.")
        run = await find_run(self._store, finding.run_id or "")
        if run is None or run.claim.live():
            return Mended(True, "The run was deleted." if run is None else "Somebody works on the run again.")
        handler = PromptHandler(model=NO_MODEL, orm=self._store)
        run_id, status = finding.run_id or "", finding.status or "failed"
        state = await handler.close_run(run_id, status, finding.error, by=found.run_id)
        return Mended(True, f"The run is {state.status}.")

    async def _end_workflow(self, client: Client, finding: Finding, how: EndWorkflow | None) -> Mended:
        if how is None:
            return Mended(False, "Say how its workflow is to be ended: cancel, or terminate.")
        if await find_run(self._store, finding.run_id or "") is not None:
            return Mended(True, "The run is there now.")
        handle = client.get_workflow_handle(finding.workflow_id or "")
        if how == "cancel":
            await _if_there(handle.cancel())
            unless = await self._unless_polled(client)
            return Mended(True, f"Its workflow was asked to cancel{unless}.")
        await _if_there(handle.terminate(reason="Its run is not in the store."))
        return Mended(True, "Its workflow was terminated.")


def is_stuck(state: RunState, settled: timedelta) -> bool:
    """Whether a claim keeps everybody off for longer than any lasts. Not where somebody has committed within
    `settled`, who is well; a commit from the future is by the clock that is wrong."""
    return state.claim.stuck() and abs(now() - state.updated_at) > settled


async def _if_there(call: Awaitable[None]) -> None:
    try:
        await call
    except RPCError as exc:
        if exc.status != RPCStatusCode.NOT_FOUND:
            raise
