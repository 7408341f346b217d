"""What the Temporal server knows: of its workers and search attributes, and of a workflow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client, WorkflowExecutionDescription, WorkflowFailureError
from temporalio.exceptions import ApplicationError, TerminatedError
from temporalio.service import RPCError, RPCStatusCode

from thoughtgear.activities.roster import SEARCH_ATTRIBUTES, search_attributes_of
from thoughtgear.client import pollers, run_of
from thoughtgear.doctor.findings import Finding
from thoughtgear.payloads import WORKFLOW

REASON = 300
"""Characters of a reason that are kept."""

FAILURES = 3
"""After so many attempts at an activity, and a last failure, something is wrong."""


@dataclass(frozen=True)
class OpenWorkflow:
    """A workflow that goes on."""

    workflow_id: str
    temporal_run_id: str
    started_at: datetime


class Server:
    """A namespace and a task queue of a Temporal server. The methods raise `RPCError`."""

    def __init__(self, client: Client, task_queue: str) -> None:
        self._client, self._task_queue = client, task_queue
        self.namespace = client.namespace

    async def workers(self) -> Finding | None:
        """Say so where no worker asks for work."""
        if await pollers(self._client, self._task_queue):
            return None
        return Finding(
            "no worker",
            f"No worker polls the task queue {self._task_queue!r}: nothing there goes on.",
            "Start one",
            "worker",
        )

    async def search_attributes(self) -> Finding | None:
        """Say so where the namespace lacks search attributes."""
        known = await search_attributes_of(self._client)
        missing = [name for name in SEARCH_ATTRIBUTES if name not in known]
        if not missing:
            return None
        names = " ".join(f"--name {name} --type Keyword" for name in missing)
        listed = ", ".join(missing)
        return Finding(
            "search attributes",
            f"The namespace {self.namespace!r} lacks {listed}: runs can't be filtered by them.",
            f"Add them, then restart the workers: temporal operator search-attribute create {names}",
        )

    async def open_workflows(self) -> AsyncIterator[OpenWorkflow]:
        """Yield the workflows of this task queue that go on. The newest may be missing for a moment."""
        queue = self._task_queue.replace("\\", "\\\\").replace("'", "\\'")
        query = f"WorkflowType = '{WORKFLOW}' AND ExecutionStatus = 'Running' AND TaskQueue = '{queue}'"
        async for each in self._client.list_workflows(query):
            yield OpenWorkflow(each.id, each.run_id, each.start_time)

    async def describe(self, workflow_id: str) -> WorkflowExecutionDescription | None:
        """Return what the server knows of the newest workflow of this id, or None."""
        try:
            return await self._client.get_workflow_handle(workflow_id).describe()
        except RPCError as exc:
            if exc.status != RPCStatusCode.NOT_FOUND:
                raise
        return None

    async def retention(self) -> timedelta:
        """Return how long the namespace keeps a workflow that has ended."""
        request = DescribeNamespaceRequest(namespace=self.namespace)
        answer = await self._client.workflow_service.describe_namespace(request)
        return answer.config.workflow_execution_retention_ttl.ToTimedelta()

    async def reason(self, workflow_id: str) -> str:
        """Return why a workflow ended that did not complete, as an operator or its failure said."""
        try:
            await self._client.get_workflow_handle(workflow_id).result()
        except WorkflowFailureError as exc:
            if isinstance(exc.cause, ApplicationError):
                return f"{exc.cause.type}: {exc.cause.message}"[:REASON]
            if isinstance(exc.cause, TerminatedError):
                return exc.cause.message[:REASON]
        return ""

    async def failure(self, description: WorkflowExecutionDescription) -> str | None:
        """Return what fails again and again in a workflow that goes on."""
        for pending in description.raw_description.pending_activities:
            if pending.attempt >= FAILURES and pending.HasField("last_failure"):
                exc = await self._client.data_converter.decode_failure(pending.last_failure)
                name = exc.type if isinstance(exc, ApplicationError) else type(exc).__name__
                return f"attempt {pending.attempt}, {name}: {getattr(exc, 'message', exc)}"[:REASON]
        return None

    async def run_of(self, workflow: OpenWorkflow) -> str | None:
        """Return the id of the run that a workflow drives. None: it came by value, and has not begun. Raises
        `ValueError` where its input can't be read."""
        handle = self._client.get_workflow_handle(workflow.workflow_id, run_id=workflow.temporal_run_id)
        try:
            return await run_of(self._client, handle)
        except RPCError:
            raise
        except Exception as exc:  # a codec may raise anything
            raise ValueError(f"its input can't be read ({type(exc).__name__})") from None
