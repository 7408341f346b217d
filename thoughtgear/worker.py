"""Workers: `build_worker` for everyone, `ThoughtgearPlugin` for those who build their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from copy import copy
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

from temporalio.client import Client
from temporalio.plugin import SimplePlugin
from temporalio.worker import ReplayerConfig, UnsandboxedWorkflowRunner, Worker, WorkerConfig

from thoughtgear import __version__, registry
from thoughtgear.activities.iteration import RunActivities
from thoughtgear.activities.roster import Roster
from thoughtgear.codec import require_codec
from thoughtgear.executors.members import members
from thoughtgear.handler import PromptHandler
from thoughtgear.payloads import TASK_QUEUE
from thoughtgear.reconciler import EVERY, Reconciler
from thoughtgear.workflows.run import RunWorkflow

THROTTLE = timedelta(seconds=0.5)
"""How often heartbeats reach the server. The SDK's 8 s would keep a cancel from a running model call."""

_VERSIONED = {"build_id", "deployment_config", "use_worker_versioning"}
"""Options that say which code this is. Else the SDK hashes every module, which takes a second."""

_reconciled: WeakKeyDictionary[Worker, set[str]] = WeakKeyDictionary()
"""The names of the handlers that a plugin of the worker reconciles already."""


def build_worker(
    client: Client,
    handlers: Sequence[PromptHandler],
    task_queue: str = TASK_QUEUE,
    *,
    reconcile_every: timedelta | None = EVERY,
    **options: Any,
) -> Worker:
    """Return a worker that drives the runs of these handlers; `await worker.run()` or use `async with`.

    `options` go to `temporalio.worker.Worker`. The workflow runs without the SDK's sandbox, which costs
    1.7 ms per iteration and finds nothing in a workflow that is tested by replay; pass `workflow_runner` to
    have it. `reconcile_every` is that of `ThoughtgearPlugin`. Raises `ConfigurationError`: no handler, two of
    one name, a store in one process's memory, or a client without a codec where `THOUGHTGEAR_CODEC_REQUIRED`
    is set.
    """
    plugin = ThoughtgearPlugin(handlers, reconcile_every=reconcile_every)
    settings: dict[str, Any] = {"workflow_runner": UnsandboxedWorkflowRunner(), **options}
    if not settings.keys() & _VERSIONED:
        settings["build_id"] = f"thoughtgear-{__version__}"
    settings["plugins"] = [*settings.get("plugins", ()), plugin]
    return Worker(client, task_queue=task_queue, **settings)


class ThoughtgearPlugin(SimplePlugin):
    """Adds the workflow and the activities of these handlers to a worker.

    Give it to the worker, or to its client, or to both. A handler whose executor is not Temporal's is
    served with one of this worker's client and task queue; outside of the worker it stays as it is.

    While a worker runs it looks about every five minutes (`reconcile_every`; None: never) for runs of these
    handlers that a dead client left unscheduled, and for those whose workflow somebody has ended. Turn it off
    (in the client's plugin, too, where there is one) where handlers of one name serve one store from several
    namespaces or task queues.
    """

    def __init__(
        self, handlers: Sequence[PromptHandler], *, reconcile_every: timedelta | None = EVERY
    ) -> None:
        super().__init__("thoughtgear")
        Roster(handlers)
        self._handlers = list(handlers)
        self._reconcile_every = reconcile_every

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Add what is not there yet, and lower the throttle of heartbeats. Raises `ConfigurationError`."""
        client, task_queue = require_codec(config["client"]), config["task_queue"]
        roster = _roster(config)
        roster.add(self._handlers, lambda handler: _driven(handler, client, task_queue))
        workflows = list(config.get("workflows", ()))
        config["workflows"] = workflows if RunWorkflow in workflows else [*workflows, RunWorkflow]
        config["max_heartbeat_throttle_interval"] = min(config["max_heartbeat_throttle_interval"], THROTTLE)
        return config

    async def run_worker(
        self,
        worker: Worker,
        next: Callable[[Worker], Awaitable[None]],  # noqa: A002  the SDK's name
    ) -> None:
        """Reconcile while the worker runs."""
        async with self._reconciling(worker):
            await super().run_worker(worker, next)

    def _reconciling(self, worker: Worker) -> AbstractAsyncContextManager[None]:
        """One plugin looks after a handler, although another one of the same worker names it, too."""
        if self._reconcile_every is None:
            return nullcontext()
        others = _reconciled.setdefault(worker, set())
        handlers = [handler for handler in self._handlers if handler.name not in others]
        others.update(handler.name for handler in handlers)
        if not handlers:
            return nullcontext()
        return Reconciler(handlers, worker.client, worker.task_queue).running(self._reconcile_every)

    def configure_replayer(self, config: ReplayerConfig) -> ReplayerConfig:
        """Add the workflow."""
        workflows = list(config.get("workflows", ()))
        config["workflows"] = workflows if RunWorkflow in workflows else [*workflows, RunWorkflow]
        return config


def _roster(config: WorkerConfig) -> Roster:
    """Return the roster of the activities that another plugin has put there, or that of new ones."""
    activities = list(config.get("activities", ()))
    for activity in activities:
        owner = getattr(activity, "__self__", None)
        if isinstance(owner, RunActivities):
            return owner.roster
    added = RunActivities(Roster(()))
    config["activities"] = [*activities, *added.all()]
    return added.roster


def _driven(handler: PromptHandler, client: Client, task_queue: str) -> PromptHandler:
    """Return a handler that schedules through Temporal: what a run starts must outlive this worker."""
    if any(each.name == "temporal" for each in members(handler.executor)):
        return handler
    served = copy(handler)
    executor = registry.load(registry.EXECUTORS["temporal"])(client, task_queue)
    executor.bind(served)
    served.executor = executor
    return served
