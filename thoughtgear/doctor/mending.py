"""What a repair does. It looks again first: what has changed since the scan is left alone."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Literal

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from thoughtgear.batches import find_run
from thoughtgear.client import workflow_id_for
from thoughtgear.doctor.findings import Finding
from thoughtgear.executors.temporal import schedule_run
from thoughtgear.handler import PromptHandler
from thoughtgear.protocols import OrmAdapter
from thoughtgear.registry import NO_MODEL

EndWorkflow = Literal["cancel", "terminate"]


@dataclass(frozen=True)
class Mended:
    """Whether a finding is mended, or no longer so, and what was done or why nothing."""

    done: bool
    said: str


class Mending:
    """Mends findings of a store and its Temporal server."""

    def __init__(self, store: OrmAdapter, client: Client | None, task_queue: str) -> None:
        self._store, self._client, self._task_queue = store, client, task_queue

    async def mend(self, finding: Finding, end_workflow: EndWorkflow | None) -> Mended:
        """Do what the finding's `repair` says."""
        if finding.repair is None or self._client is None:
            return Mended(False, "This takes a person.")
        if finding.repair == "end workflow":
            return await self._end_workflow(self._client, finding, end_workflow)
        if finding.repair == "close":
            return await self._close(self._client, finding)
        return await self._schedule(self._client, finding)

    async def _schedule(self, client: Client, finding: Finding) -> Mended:
        run_id = finding.run_id or ""
        name = finding.workflow_id or workflow_id_for(run_id)
        state = await find_run(self._store, run_id)
        if state is None:
            return Mended(True, "The run was deleted.")
        if state.over:
            await _if_there(client.get_workflow_handle(name).signal("wake"))
            return Mended(True, f"The run is {state.status}: its workflow was woken, and ends.")
        await schedule_run(
            client, run_id=run_id, handler=state.handler, workflow_id=name, task_queue=self._task_queue
        )
        return Mended(True, f"Scheduled in the task queue {self._task_queue!r}.")

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
            return Mended(True, "Its workflow was asked to cancel.")
        await _if_there(handle.terminate(reason="Its run is not in the store."))
        return Mended(True, "Its workflow was terminated.")


async def _if_there(call: Awaitable[None]) -> None:
    try:
        await call
    except RPCError as exc:
        if exc.status != RPCStatusCode.NOT_FOUND:
            raise
