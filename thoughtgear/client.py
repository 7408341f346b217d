"""RunClient: runs from a plain Temporal client, with no store and no handler at hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType, TaskQueueType
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    GetWorkflowExecutionHistoryReverseRequest,
)
from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
)
from temporalio.common import WorkflowIDReusePolicy
from temporalio.envconfig import ClientConfig
from temporalio.exceptions import CancelledError, WorkflowAlreadyStartedError
from temporalio.service import GrpcCompression, RPCError, RPCStatusCode

from thoughtgear import registry
from thoughtgear.codec import converter_from_environment, require_codec
from thoughtgear.errors import (
    CodecError,
    ConfigurationError,
    ExecutorUnavailableError,
    InvalidInputError,
    RunNotFoundError,
    WaitTimeoutError,
)
from thoughtgear.ids import check_run_id
from thoughtgear.payloads import TASK_QUEUE, WORKFLOW, RunInput, RunResult, sparse
from thoughtgear.protocols import OrmAdapter
from thoughtgear.streaming import Events, patiently, stream

ClientSource = Client | Callable[[], Awaitable[Client]] | None
"""A client, or what makes one on first use; None: from the environment (see `connect`)."""

Handle = WorkflowHandle[Any, RunResult]

QUERY = timedelta(seconds=5)

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}

LOOK_SECONDS = 0.2
"""Between two looks at a workflow that has not stored its run."""

TASK_EVENTS = 5
"""How many of the last events are looked through for why a workflow's task failed."""

FIRST_EVENTS = 50
"""Events of a workflow that are read at once, until its first activity has ended."""

UNREACHED = "Temporal refuses or does not answer ({}); check the server, its address and the namespace."

_ENDED = {
    WorkflowExecutionStatus.FAILED: "failed",
    WorkflowExecutionStatus.TIMED_OUT: "failed",
    WorkflowExecutionStatus.TERMINATED: "terminated",
    WorkflowExecutionStatus.CANCELED: "cancelled",
}


@dataclass(frozen=True)
class RunProgress:
    """Where a run stands, as far as Temporal knows.

    `status` is the run's, or `terminated`, or `unknown` as long as no worker answers; `reason` says why it
    waits or why no worker can answer. `iterations` counts the completed ones; `totals` holds iterations,
    tool calls, tokens in, tokens out and seconds waited.
    """

    workflow_id: str
    temporal_run_id: str
    status: str
    run_id: str | None = None
    iterations: int = 0
    reason: str = ""
    totals: list[float] = field(default_factory=list)


async def connect(source: ClientSource = None) -> Client:
    """Return a client. None reads Temporal's profiles and environment variables (address, namespace, TLS, API
    key) and those of `thoughtgear.codec`, and defaults to localhost:7233; such a client connects with its
    first call. Raises `ConfigurationError` where encryption is required and the client has no codec."""
    if isinstance(source, Client):
        return require_codec(source)
    if source is not None:
        return require_codec(await source())
    settings: dict[str, Any] = {"target_host": "localhost:7233", **ClientConfig.load_client_connect_config()}
    settings["grpc_compression"] = compression_for(settings["target_host"])
    return await Client.connect(**settings, data_converter=converter_from_environment(), lazy=True)


def compression_for(target_host: str) -> GrpcCompression:
    """Return how to compress what is sent to a server: not at all on this machine, where it saves nothing and
    takes up to a millisecond of an iteration."""
    host = target_host.rpartition(":")[0].strip("[]")
    return GrpcCompression.NONE if host in _LOOPBACK else GrpcCompression.GZIP


def workflow_id_for(run_id: str) -> str:
    """Return the id of the workflow that drives a run which is in the store."""
    return f"thoughtgear-{run_id}"


async def pollers(client: Client, task_queue: str = TASK_QUEUE) -> int:
    """Return how many workers asked this queue for workflow tasks in the last minutes."""
    request = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=task_queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    answer = await client.workflow_service.describe_task_queue(request)
    return len({poller.identity for poller in answer.pollers})


async def trouble(client: Client, workflow_id: str) -> str:
    """Return why a workflow that has workers does not go on: it has failed, or what its task or an activity
    fails with again and again; nothing where nothing fails, or the server does not tell."""
    try:
        found = await client.get_workflow_handle(workflow_id).describe()
        if found.status == WorkflowExecutionStatus.FAILED:
            return "Its workflow has failed; a worker with another store, for example, does not find the run."
        described = found.raw_description
        failing = [each for each in described.pending_activities if each.attempt > 1]
        if described.pending_workflow_task.attempt > 1:
            failure = await _last_task_failure(client, described.workflow_execution_info.execution)
            why = failure and await _innermost(client, failure)
            return f"Its workers fail the workflow's task: {why}" if why else ""
    except RPCError:
        return ""
    if not failing:
        return ""
    why = await _innermost(client, failing[0].last_failure)
    return f"{failing[0].activity_type.name} failed {failing[0].attempt - 1} times and is tried again: {why}"


async def run_of(client: Client, handle: WorkflowHandle[Any, Any]) -> str | None:
    """Return the id of the run that a workflow drives, by its history. None: it came by value, and has not
    begun. Raises `RPCError`, and what the client's converter raises where the history can't be read."""
    async for event in handle.fetch_history_events(page_size=FIRST_EVENTS):
        facts = await _facts(client, event)
        if facts.get("run_id"):
            return str(facts["run_id"])
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            break  # the first one tells, or none
    return None


async def _facts(client: Client, event: HistoryEvent) -> dict[str, Any]:
    """Return what the workflow was given, or what an activity of it reported."""
    if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
        payloads = event.workflow_execution_started_event_attributes.input.payloads
    elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
        payloads = event.activity_task_completed_event_attributes.result.payloads
    else:
        return {}
    values = await client.data_converter.decode(payloads)
    return values[0] if values and isinstance(values[0], dict) else {}


@contextmanager
def _reached() -> Iterator[None]:
    """Say in our own words that Temporal can't be reached. `from None`: the SDK's text may quote request
    metadata, where the API key is."""
    try:
        yield
    except RPCError as exc:
        raise ExecutorUnavailableError(UNREACHED.format(exc.status.name)) from None
    except RuntimeError as exc:
        if not str(exc).startswith("Failed client connect"):
            raise
        raise ExecutorUnavailableError(UNREACHED.format("no connection")) from None


async def _last_task_failure(client: Client, execution: WorkflowExecution) -> Failure | None:
    request = GetWorkflowExecutionHistoryReverseRequest(
        namespace=client.namespace, execution=execution, maximum_page_size=TASK_EVENTS
    )
    answer = await client.workflow_service.get_workflow_execution_history_reverse(request)
    failed = [
        event for event in answer.history.events if event.HasField("workflow_task_failed_event_attributes")
    ]
    return failed[0].workflow_task_failed_event_attributes.failure if failed else None


async def _innermost(client: Client, failure: Failure) -> str:
    """Type and message of a failure's first cause, as far as this client can read them."""
    while failure.HasField("cause"):
        failure = failure.cause
    try:
        return str(await client.data_converter.decode_failure(failure))
    except CodecError as exc:
        return f"{failure.application_failure_info.type}, whose message can't be read here: {exc}"


class RunClient:
    """Starts runs by value and follows them. `run_id` may as well be a workflow id, and has to be for runs
    that came by value; an unknown one raises `RunNotFoundError`. `db` (a URL) or `orm` is where the runs
    are: `stream` alone needs it."""

    def __init__(
        self,
        client: Client,
        task_queue: str = TASK_QUEUE,
        handler: str = "default",
        *,
        db: str | Mapping[str, Any] | None = None,
        orm: OrmAdapter | None = None,
    ) -> None:
        if db is not None and orm is not None:
            raise ConfigurationError("Give db= or orm=, not both.")
        self._client = client
        self._task_queue = task_queue
        self._handler = handler
        self._store = orm or (registry.open_store(db) if db is not None else None)

    async def start(
        self,
        prompt: str,
        handler: str | None = None,
        *,
        workflow_id: str | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> str:
        """Start a run and return its workflow id. The prompt and the answer go through Temporal's history.
        The same `workflow_id` again is the same run, as long as Temporal keeps it."""
        name = workflow_id or f"thoughtgear-{uuid4().hex}"
        given = RunInput(prompt, handler or self._handler, None, session_id, user_id, metadata)
        with suppress(WorkflowAlreadyStartedError):
            await self._client.start_workflow(
                WORKFLOW,
                sparse(given),
                id=name,
                task_queue=self._task_queue,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                static_summary=f"thoughtgear · {given.handler}",
                static_details=f"A run of the handler `{given.handler}`, started by value.",
            )
        return name

    async def get(self, run_id: str) -> RunProgress:
        """Return where the run stands."""
        handle, described = await self._find(run_id)
        temporal_run_id = described.run_id or ""
        if described.status in _ENDED:
            return RunProgress(handle.id, temporal_run_id, _ENDED[described.status])
        if described.status == WorkflowExecutionStatus.COMPLETED:
            result = await handle.result()
            return RunProgress(handle.id, temporal_run_id, result.status, result.run_id, result.iterations)
        answers = await pollers(self._client, described.task_queue)
        retried = described.raw_description.pending_workflow_task.attempt > 1
        reason = await trouble(self._client, handle.id) if answers and retried else ""
        facts = await _progress(handle) if answers and not reason else None
        if facts is None:
            return RunProgress(handle.id, temporal_run_id, "unknown", reason=reason)
        return RunProgress(
            handle.id,
            temporal_run_id,
            facts["status"],
            facts.get("run_id"),
            facts.get("iterations", 0),
            facts.get("reason", ""),
            facts.get("totals", []),
        )

    async def wait(self, run_id: str, timeout: float | None = None) -> RunResult:  # noqa: ASYNC109
        """Return the result once the workflow is over; a run that failed or was cancelled gives a result with
        that status. Raises `WaitTimeoutError` after `timeout` seconds; the run goes on."""
        handle, _ = await self._find(run_id)
        try:
            async with asyncio.timeout(timeout):
                return await handle.result()
        except TimeoutError:
            raise WaitTimeoutError(f"Workflow {handle.id} goes on after {timeout:g} s.") from None
        except WorkflowFailureError as exc:
            status = "cancelled" if isinstance(exc.cause, CancelledError) else "failed"
            facts = await _progress(handle) or {}
            return RunResult(run_id=facts.get("run_id") or "", status=status)

    async def stream(self, run_id: str, after: str | None = None, *, text: bool = True) -> Events:
        """Yield the events of a run as `PromptHandler.stream` does: they come from the store, where nothing
        of it goes through Temporal. A workflow that has not stored its run yet is waited for; no worker is
        asked. Raises `ConfigurationError` where this client has no store, and `ExecutorUnavailableError`
        where Temporal is asked for a workflow and is away for longer than a minute."""
        if self._store is None:
            raise ConfigurationError("The events of a run are in its store: RunClient(client, db=…).")
        name = await self._stored(self._store, run_id)
        async with aclosing(stream(self._store, name, after, text=text)) as events:
            async for event in events:
                yield event

    async def aclose(self) -> None:
        """Free the store's connections. The Temporal client stays as it is."""
        if self._store is not None:
            await self._store.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _stored(self, store: OrmAdapter, name: str) -> str:
        """Return the id in the store of a run, or of what a workflow drives."""
        with suppress(RunNotFoundError, InvalidInputError):
            return (await patiently(partial(store.load_run, check_run_id(name)))).run_id
        while True:
            run_id, goes_on = await patiently(partial(self._driven, name))
            if run_id:
                return run_id
            if not goes_on:
                raise RunNotFoundError(f"Workflow {name} ended before it stored a run.")
            await asyncio.sleep(LOOK_SECONDS)

    async def _driven(self, name: str) -> tuple[str | None, bool]:
        """Return the run of a workflow, if it has one, and whether the workflow goes on; asks no worker."""
        with _reached():
            handle, described = await self._find(name)
            if described.workflow_type != WORKFLOW:
                raise RunNotFoundError(
                    f"Workflow {handle.id} is a {described.workflow_type}, and has no run."
                )
            run_id = await run_of(self._client, handle)
        return run_id, described.status == WorkflowExecutionStatus.RUNNING

    async def send(self, run_id: str, text: str, *, request_id: str | None = None) -> None:
        """Send a message to a run that goes on; it goes through Temporal's history. The same `request_id`
        again is the same message."""
        handle, _ = await self._find(run_id)
        message = {"text": text, "request_id": request_id or uuid4().hex}
        await _answered(handle.signal("send", message), run_id)

    async def cancel(self, run_id: str) -> None:
        """Cancel a run that goes on."""
        handle, _ = await self._find(run_id)
        await _answered(handle.cancel(), run_id)

    async def _find(self, run_id: str) -> tuple[Handle, WorkflowExecutionDescription]:
        """Look under the id itself, then under that of a run which a handler started."""
        for name in (run_id, workflow_id_for(run_id)):
            handle = self._client.get_workflow_handle(name, result_type=RunResult)
            try:
                return handle, await handle.describe()
            except RPCError as exc:
                if exc.status != RPCStatusCode.NOT_FOUND:
                    raise
        raise RunNotFoundError(
            f"Temporal has no workflow {run_id!r} or {workflow_id_for(run_id)!r} in this namespace."
        )


async def _answered(call: Awaitable[None], name: str) -> None:
    try:
        await call
    except RPCError as exc:
        if exc.status != RPCStatusCode.NOT_FOUND:
            raise
        raise RunNotFoundError(f"The workflow of {name!r} is over.") from None


async def _progress(handle: Handle) -> dict[str, Any] | None:
    """Ask the workflow; None when no worker answers."""
    try:
        facts: dict[str, Any] = await handle.query("progress", rpc_timeout=QUERY)
    except (RPCError, WorkflowQueryFailedError):
        return None
    return facts
