"""The executor that Temporal drives: a workflow per run, an activity per iteration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from temporalio import exceptions
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import RawValue, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError, RPCStatusCode

from thoughtgear.client import ClientSource, connect, workflow_id_for
from thoughtgear.codec import require_codec
from thoughtgear.errors import CodecError, ConfigurationError, ExecutorUnavailableError, RunNotFoundError
from thoughtgear.executors.reach import check_reach
from thoughtgear.models import RunError, RunState
from thoughtgear.payloads import TASK_QUEUE, WORKFLOW, RunInput, sparse
from thoughtgear.protocols import Reach

if TYPE_CHECKING:
    from thoughtgear.handler import PromptHandler

RPC_SECONDS = 10.0

_ENDED_FROM_OUTSIDE = {
    WorkflowExecutionStatus.TERMINATED: "was terminated",
    WorkflowExecutionStatus.TIMED_OUT: "timed out",
}


class TemporalExecutor:
    """Has the workers of a task queue drive the runs.

    `client` is a Temporal client or an async function that makes one; without, Temporal's profiles and
    environment variables say where the server is (default: localhost:7233). The workers need the same
    handler (see `build_worker`) and reach the same store. One executor serves one handler.
    """

    name = "temporal"
    needs: Reach = "host"
    self_driving = True
    waits = False

    def __init__(self, client: ClientSource = None, task_queue: str = TASK_QUEUE) -> None:
        self.task_queue = task_queue
        self._source = client
        self._client = require_codec(client) if isinstance(client, Client) else None
        self._handler: PromptHandler | None = None

    def bind(self, handler: PromptHandler) -> None:
        """Called by the handler that this executor is given to. Raises `ConfigurationError`."""
        if self._handler is not None and self._handler is not handler:
            raise ConfigurationError("A TemporalExecutor serves one handler; they can share the client.")
        check_reach(handler, type(self).__name__, self.needs)
        self._handler = handler

    def workflow_id(self, run_id: str) -> str:
        """Return the id of the workflow that drives a run which a handler started."""
        return workflow_id_for(run_id)

    async def schedule_next_iteration(self, run_id: str) -> None:
        """Start the run's workflow, or wake the one that is there. Raises `ExecutorUnavailableError`."""
        await self._start(run_id, await self._address(run_id))

    async def drive(self, state: RunState) -> None:
        """`schedule_next_iteration` where the state is known: there is nothing to do but to ask Temporal."""
        await self._start(state.run_id, state.driver.workflow_id or workflow_id_for(state.run_id))

    async def _start(self, run_id: str, name: str) -> None:
        handler = self._handler.name if self._handler is not None else "default"
        with _reached():
            client = await self.client()
        await schedule_run(
            client, run_id=run_id, handler=handler, workflow_id=name, task_queue=self.task_queue
        )

    async def wait(self, run_id: str) -> None:
        """Return when the run's workflow is over, however it ended, or when there is none. A run whose
        workflow was terminated, or timed out, is marked failed: nothing drives it any more. Raises
        `ConfigurationError` where a worker looked for the run in another store."""
        name = await self._address(run_id)
        handle = (await self.client()).get_workflow_handle(name, result_type=RawValue)
        try:
            with _reached(or_absent=True):
                await handle.result()
        except CodecError:
            return  # it is over, and how is in the store: the key is for those who read Temporal
        except WorkflowFailureError as exc:
            if isinstance(exc.cause, exceptions.TerminatedError | exceptions.TimeoutError):
                await self._close(run_id, handle)
            elif getattr(exc.cause, "type", None) == RunNotFoundError.__name__:
                await self._check_missing(run_id)

    async def _check_missing(self, run_id: str) -> None:
        """A worker did not find the run: it was deleted, or that worker has another store."""
        if self._handler is not None and not (await self._handler.get_run(run_id)).over:
            raise ConfigurationError(
                f"A worker of the task queue {self.task_queue!r} has another store, without this run. Give "
                f"all workers of a queue the same store, then go on with continue_run: {run_id}"
            )

    async def _close(self, run_id: str, handle: WorkflowHandle[Any, Any]) -> None:
        """Mark the run failed, once for each execution: it may have been retried, and go on, in another."""
        with _reached():
            last = await handle.describe()
        reason = _ENDED_FROM_OUTSIDE.get(last.status) if last.status is not None else None
        if self._handler is not None and reason is not None:
            error = RunError(type="WorkflowEndedError", message=f"Its Temporal workflow {reason}.")
            await self._handler.close_run(run_id, "failed", error, by=last.run_id)

    async def cancel(self, run_id: str) -> bool:
        """Ask the run's workflow to cancel. Returns False when there is none that goes on: the server takes a
        cancel for one that has ended, too, so that it is asked first."""
        name = await self._address(run_id)
        with _reached(or_absent=True):
            handle = (await self.client()).get_workflow_handle(name)
            if (await handle.describe()).status == WorkflowExecutionStatus.RUNNING:
                await handle.cancel()
                return True
        return False

    async def client(self) -> Client:
        """Return the client, connected on first use. Raises `ConfigurationError`, see `connect`."""
        if self._client is None:
            made = await connect(self._source)
            self._client = self._client or made
        return self._client

    async def _address(self, run_id: str) -> str:
        """A run that came by value has a workflow id of its own, which its state tells."""
        if self._handler is None:
            return workflow_id_for(run_id)
        try:
            driver = (await self._handler.get_run(run_id)).driver
        except RunNotFoundError:
            return workflow_id_for(run_id)
        return driver.workflow_id or workflow_id_for(run_id)


async def schedule_run(
    client: Client, *, run_id: str, handler: str, workflow_id: str, task_queue: str = TASK_QUEUE
) -> None:
    """Start the workflow of a run, or wake the one that is there. Raises `ExecutorUnavailableError`."""
    with _reached():
        await client.start_workflow(
            WORKFLOW,
            sparse(RunInput(run_id=run_id, handler=handler)),
            id=workflow_id,
            task_queue=task_queue,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            start_signal="wake",
            static_summary=f"thoughtgear · {handler}",
            static_details=f"Run `{run_id}` of the handler `{handler}`. The transcript is in its store.",
            rpc_timeout=timedelta(seconds=RPC_SECONDS),
        )


@contextmanager
def _reached(*, or_absent: bool = False) -> Iterator[None]:
    """Say in our own words that Temporal can't be reached; `or_absent`: leave quietly where nothing is there.

    `from None`: the SDK's text may quote request metadata, where the API key is.
    """
    try:
        yield
    except RPCError as exc:
        if not (or_absent and exc.status == RPCStatusCode.NOT_FOUND):
            raise ExecutorUnavailableError(_unscheduled(exc.status.name)) from None
    except RuntimeError as exc:
        if not str(exc).startswith("Failed client connect"):
            raise
        raise ExecutorUnavailableError(_unscheduled("no connection")) from None


def _unscheduled(why: str) -> str:
    return f"Temporal refuses or does not answer ({why}). The run is in the store: go on with continue_run."
