"""The scan: the store, the server, the runs that are not over, and the workflows that go on."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Awaitable, Container
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from thoughtgear.batches import Unwatched, Watcher, all_runs, each, find_run
from thoughtgear.client import workflow_id_for
from thoughtgear.doctor.findings import Diagnosis, Finding
from thoughtgear.doctor.mending import EndWorkflow, Mended, Mending, is_stuck
from thoughtgear.doctor.server import OpenWorkflow, Server
from thoughtgear.errors import ConfigurationError, SchemaVersionError, StoreError
from thoughtgear.loop import reopened
from thoughtgear.models import LONGEST_HOLD, RunError, RunState, now
from thoughtgear.payloads import TASK_QUEUE
from thoughtgear.protocols import OrmAdapter, RunFilter
from thoughtgear.retention import UNFINISHED

T = TypeVar("T")

SETTLED = timedelta(seconds=120)
"""What has changed since then is not judged: it may be about to be scheduled, claimed or finished."""

_ENDED = {
    WorkflowExecutionStatus.TERMINATED: "was terminated",
    WorkflowExecutionStatus.TIMED_OUT: "timed out",
    WorkflowExecutionStatus.FAILED: "failed",
    WorkflowExecutionStatus.CANCELED: "was cancelled",
}


class Doctor:
    """Looks at a store and at the Temporal server that drives its runs, and mends what can be mended.

    Without a `client` it looks at the store alone. `task_queue` is that of the workers: only its workflows
    are looked at, since those of another queue may belong to another store. What has changed within `settled`
    is left alone. `closely`: read every run, for those that can't be read, and ask about every workflow that
    goes on whether it fails again and again, which is a request for each. `handlers`: look only at the runs
    of handlers of these names, and not at workflows that have no such run.
    """

    def __init__(
        self,
        store: OrmAdapter,
        client: Client | None = None,
        *,
        task_queue: str = TASK_QUEUE,
        settled: timedelta = SETTLED,
        closely: bool = True,
        handlers: Container[str] | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self._store, self._settled, self._closely, self._handlers = store, settled, closely, handlers
        self._server = Server(client, task_queue) if client is not None else None
        self._mending = Mending(store, client, task_queue, settled)
        self._watcher = watcher or Unwatched()

    async def scan(self) -> Diagnosis:
        """Look at everything once. What can't be reached is a finding, or told in `unchecked`."""
        return await _Scan(
            self._store, self._server, self._settled, self._closely, self._handlers, self._watcher
        ).run()

    async def repair(self, finding: Finding, *, end_workflow: EndWorkflow | None = None) -> Mended:
        """Mend what was found, if it is still so; a run that has ended is never made to go on. A workflow
        without a run is ended only where `end_workflow` says how. Raises `StoreError`,
        `ExecutorUnavailableError`."""
        return await self._mending.mend(finding, end_workflow)


class _Scan:
    """One scan."""

    def __init__(
        self,
        store: OrmAdapter,
        server: Server | None,
        settled: timedelta,
        closely: bool,
        handlers: Container[str] | None,
        watcher: Watcher,
    ) -> None:
        self._store, self._server, self._watcher = store, server, watcher
        self._settled, self._closely, self._handlers = settled, closely, handlers
        self._diagnosis = Diagnosis()
        self._open: dict[str, OpenWorkflow] = {}
        self._known: set[str] = set()
        self._retention: timedelta | None = None

    async def run(self) -> Diagnosis:
        if self._server is not None and not await self._look_at_server(self._server):
            self._server = None
        try:
            await self._look_at_runs()
        except (StoreError, ConfigurationError) as exc:
            upgrade = "db upgrade" if isinstance(exc, SchemaVersionError) and exc.older else None
            self._add(Finding("store", str(exc), "Upgrade it" if upgrade else "", upgrade))
            self._diagnosis.unchecked.append("Runs and workflows: the store can't be used.")
        self._diagnosis.findings.sort(key=_order)
        return self._diagnosis

    def _add(self, finding: Finding | None) -> None:
        if finding is not None:
            self._diagnosis.findings.append(finding)

    async def _look_at_runs(self) -> None:
        self._watcher.begin("runs", None)
        await each(self._unfinished(), self._run)
        if self._server is not None and self._handlers is None:
            self._watcher.begin("workflows", None)
            await each(self._others(), self._workflow)

    async def _look_at_server(self, server: Server) -> bool:
        """Return whether the server has the namespace, as far as it tells."""
        try:
            self._retention = await server.retention()
        except RPCError as exc:
            if exc.status == RPCStatusCode.NOT_FOUND:
                self._add(Finding("temporal", f"The Temporal server has no namespace {server.namespace!r}."))
                self._diagnosis.unchecked.append("Workflows: there is no such namespace.")
                return False
        self._add(await self._asked("Workers", server.workers()))
        self._add(await self._asked("Search attributes", server.search_attributes()))
        await self._asked("Workflows", self._list_open(server))
        return True

    async def _list_open(self, server: Server) -> None:
        async for workflow in server.open_workflows():
            self._open[workflow.workflow_id] = workflow

    async def _asked(self, what: str, answer: Awaitable[T]) -> T | None:
        try:
            return await answer
        except RPCError as exc:
            self._diagnosis.unchecked.append(f"{what}: Temporal answered {exc.status.name}.")
        return None

    async def _unfinished(self) -> AsyncIterator[RunState]:
        damaged: dict[str, str] = {}
        filters = [RunFilter()] if self._closely else [RunFilter(status=each) for each in sorted(UNFINISHED)]
        for where in filters:
            async for state in all_runs(self._store, where, damaged):
                self._watcher.step()
                if not state.over and (self._handlers is None or state.handler in self._handlers):
                    yield state
        for run_id, why in damaged.items():
            todo = "Restore its record from a backup, or delete it"
            command = f"runs delete --force {shlex.quote(run_id)}"
            self._add(Finding("damaged", f"It can't be read. {why}", todo, command, run_id))

    async def _run(self, state: RunState) -> None:
        name = _workflow_of(state)
        on_temporal = state.driver.executor == "temporal" or name in self._open
        self._known.add(name)
        self._diagnosis.runs += 1
        self._diagnosis.on_temporal += on_temporal
        if is_stuck(state, self._settled):
            self._add(_stuck(state, name))
        elif on_temporal and self._server is not None:
            await self._asked(f"Run {state.run_id}", self._with_temporal(self._server, state, name))
        elif not on_temporal and self._is_settled(state):
            await self._without_temporal(state)

    def _is_settled(self, state: RunState) -> bool:
        return not state.claim.live() and state.updated_at < now() - self._settled

    async def _without_temporal(self, state: RunState) -> None:
        """A run whose driver is a process somewhere, which holds no claim any more. It may wait for its next
        iteration to be due."""
        due = state.due_at is not None and state.due_at > now() - self._settled
        if due or state.unsettled or await self._waits_for_parent(state):
            return
        begun = "Nobody works on it" if state.claim.epoch else "Nobody has begun with it"
        what = f"{begun} (driver {state.driver.executor}), and it is unchanged since {_moment(state)}."
        todo, again = "Unless a process of yours still waits, go on", f"run --continue {state.run_id}"
        if state.cancel_requested:
            todo, again = "End it", f"cancel {state.run_id}"
        self._add(Finding("not driven", what, todo, again, state.run_id))

    async def _waits_for_parent(self, state: RunState) -> bool:
        parent = state.parent
        if parent is None or parent.seq is not None or state.model_replies:
            return False
        earlier = await find_run(self._store, parent.run_id)
        return earlier is not None and not earlier.over

    async def _with_temporal(self, server: Server, state: RunState, name: str) -> None:
        if not (self._closely if name in self._open else self._is_settled(state)):
            return
        found = await server.describe(name)
        if found is None:
            self._add(self._absent(state, name) if self._is_settled(state) else None)
        elif found.status == WorkflowExecutionStatus.RUNNING:
            await self._failing(server, state, found)
        elif self._is_settled(state):
            self._add(await _ended(server, state, found))

    def _absent(self, state: RunState, name: str) -> Finding:
        """A run without a workflow. One that was claimed may have had one that was ended on purpose; as long
        as the server would still know of it, it had none."""
        what = f"It has no workflow, and is unchanged since {_moment(state)}."
        kept = self._retention is not None and state.updated_at > now() - self._retention
        if not state.claim.epoch or kept:
            todo = "Schedule it (--repair)"
            return Finding("no workflow", what, todo, None, state.run_id, name, repair="schedule")
        what += " How its workflow ended is not known any more."
        again = f"run --continue {state.run_id} -x temporal"
        return Finding("no workflow", what, "Go on with it, or cancel it", again, state.run_id, name)

    async def _failing(self, server: Server, state: RunState, found: WorkflowExecutionDescription) -> None:
        failure = await server.failure(found)
        if failure is not None:
            what, todo = f"It fails again and again: {failure}", "Mend the cause, and it goes on by itself"
            self._add(Finding("failing", what, todo, None, state.run_id, found.id))

    async def _others(self) -> AsyncIterator[OpenWorkflow]:
        """Yield the workflows that no run which is not over has for its own."""
        for workflow in self._open.values():
            if workflow.workflow_id not in self._known and workflow.started_at < now() - self._settled:
                yield workflow

    async def _workflow(self, workflow: OpenWorkflow) -> None:
        self._watcher.step()
        self._diagnosis.workflows += 1
        assert self._server is not None
        name = workflow.workflow_id
        try:
            run_id = await self._asked(f"Workflow {name}", self._server.run_of(workflow))
        except ValueError as exc:
            self._diagnosis.unchecked.append(f"Workflow {name}: {exc}.")
            return
        state = await find_run(self._store, run_id) if run_id else None
        if run_id and state is None:
            what = f"A workflow goes on, and there is no run {run_id} in this store."
            todo = "If it belongs to no other store, end it (--repair --workflows terminate)"
            self._add(Finding("no run", what, todo, None, run_id, name, repair="end workflow"))
        elif state is not None and state.over and state.updated_at < now() - self._settled:
            what = f"Its workflow goes on, although the run is {state.status} since {_moment(state)}."
            todo = "Wake it, and it ends (--repair)"
            self._add(Finding("run is over", what, todo, None, run_id, name, repair="schedule"))


async def _ended(server: Server, state: RunState, found: WorkflowExecutionDescription) -> Finding:
    """A run that is not over, and whose workflow is."""
    if reopened(state):
        what = f"It was retried at {_moment(state)}, and its workflow has not begun again."
        todo = "Schedule it (--repair)"
        return Finding("not driven", what, todo, None, state.run_id, found.id, repair="schedule")
    stands = f"The run is {state.status} since {_moment(state)}"
    if found.status not in _ENDED:
        what = f"Its Temporal workflow has completed. {stands}: the store may have been set back."
        again = f"run --continue {state.run_id} -x temporal"
        return Finding("workflow ended", what, "If you restored it, go on", again, state.run_id, found.id)
    reason = await server.reason(found.id)
    sentence = f"Its Temporal workflow {_ENDED[found.status]}{f': {reason}' if reason else ''}."
    cancelled = found.status == WorkflowExecutionStatus.CANCELED
    return Finding(
        "workflow ended",
        f"{sentence} {stands}.",
        f"Mark it {'cancelled' if cancelled else 'failed'} (--repair)",
        None,
        state.run_id,
        found.id,
        repair="close",
        status="cancelled" if cancelled else "failed",
        error=None if cancelled else RunError(type="WorkflowEndedError", message=sentence),
    )


def _order(finding: Finding) -> tuple[bool, bool, str, str]:
    """The store and the servers first, then what keeps everybody from a run."""
    run_id = finding.run_id or ""
    return bool(run_id), finding.kind != "stuck claim", run_id, finding.workflow_id or ""


def _stuck(state: RunState, name: str) -> Finding:
    """A run that nobody goes on with before its claim's deadline."""
    what = (
        f"Its claim keeps everybody off until {_day(state.claim.deadline)}, and none lasts for over "
        f"{LONGEST_HOLD / 3600:.0f} h: the clock of whoever made it was wrong, or this machine's is."
    )
    todo = "If this machine's clock is right, release it (--repair)"
    return Finding("stuck claim", what, todo, None, state.run_id, name, repair="release")


def _day(moment: float) -> str:
    try:
        return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):
        return "the end of time"


def _workflow_of(state: RunState) -> str:
    return state.driver.workflow_id or workflow_id_for(state.run_id)


def _moment(state: RunState) -> str:
    return f"{state.updated_at:%Y-%m-%d %H:%M} UTC"
