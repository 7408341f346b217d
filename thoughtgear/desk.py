"""The desk of a command: a handler to work with, and the Temporal client where Temporal drives its runs."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from thoughtgear import config, registry
from thoughtgear.errors import ConfigurationError
from thoughtgear.executors.local import LocalExecutor
from thoughtgear.executors.members import member
from thoughtgear.handler import PromptHandler
from thoughtgear.ids import check_run_id
from thoughtgear.models import RunState
from thoughtgear.payloads import TASK_QUEUE
from thoughtgear.place import Place, open_named_store
from thoughtgear.protocols import OrmAdapter
from thoughtgear.render import waiting_text

if TYPE_CHECKING:
    from temporalio.client import Client

    from thoughtgear.executors.temporal import TemporalExecutor

# What knows Temporal is imported where it is used: it takes a second, and a local run does without.


def load_handlers(place: Place) -> list[PromptHandler]:
    """Load the target; `--db` is the store of the handlers that name none themselves."""
    if place.db:
        os.environ["THOUGHTGEAR_DB"] = place.db
    return config.load_target(place.target or "")


class Desk:
    """A handler, and the Temporal client where Temporal drives its runs."""

    def __init__(self, place: Place, handler: PromptHandler, client: Client | None, task_queue: str) -> None:
        self.place, self.handler = place, handler
        self.client, self.task_queue = client, task_queue
        self.resumed: str | None = None  # the nonce of the last commit before

    def link(self, state: RunState) -> str | None:
        """The address of the run's page in Temporal's web interface."""
        if self.client is None:
            return None
        from thoughtgear.client import workflow_id_for
        from thoughtgear.ui import find_ui, workflow_link

        ui = find_ui(self.client)
        if ui is None:
            return None
        name = state.driver.workflow_id or workflow_id_for(state.run_id)
        return workflow_link(ui, self.client.namespace, name)

    def require_model(self) -> None:
        """Raise `ConfigurationError` where a run would go on here, and no target says with which model."""
        if self.client is None and self.place.target is None:
            raise ConfigurationError(
                "No target: a run goes on here with its handler's model and tools; give -t module:attribute, "
                "or set THOUGHTGEAR_TARGET."
            )

    def again(self, command: str) -> str:
        """The line to type in order to come back to this place."""
        return self.place.again(command)

    def _worker(self, client: Client) -> str:
        """The line that starts a worker for this place; what is the default goes without saying."""
        address, queue = client.service_client.config.target_host, self.task_queue
        place = Place(
            db=self.place.db,
            address=None if address == config.DEFAULT_ADDRESS else address,
            namespace=None if client.namespace == "default" else client.namespace,
            task_queue=None if queue == TASK_QUEUE else queue,
        )
        return place.again(f"worker {shlex.quote(self.place.target or 'TARGET')}")

    async def why_idle(self, state: RunState) -> str | None:
        """Why nothing happens, as far as that can be known."""
        if state.unsettled:
            return waiting_text(state, self.again)
        if self.client is not None and state.driver.executor == "temporal":
            from thoughtgear.client import pollers, trouble, workflow_id_for

            if await pollers(self.client, self.task_queue):
                return await trouble(self.client, state.driver.workflow_id or workflow_id_for(state.run_id))
            return (
                f"No worker polls the task queue {self.task_queue!r}; start one: {self._worker(self.client)}"
            )
        if state.nonce == self.resumed and state.claim.live():
            left = state.claim.deadline - time.time()
            return f"Whoever worked on this run before holds it for up to {left:.0f} s more."
        if state.driver.executor == "local" and not state.claim.live() and self.client is None:
            return (
                f"Nothing works on this run now; go on with: {self.again(f'run --continue {state.run_id}')}"
            )
        return None


@asynccontextmanager
async def open_desk(place: Place, run_id: str | None = None, *, retries: bool = False) -> AsyncIterator[Desk]:
    """Open the handler of a place, with the executor that was asked for. `retries`: a run that is over may
    go on. Raises `ConfigurationError`."""
    handler = await _open_handler(place, run_id)
    try:
        if await _executor_of(place, handler, run_id, retries) == "temporal":
            executor = await _use_temporal(place, handler)
            yield Desk(place, handler, await executor.client(), executor.task_queue)
        else:
            if handler.executor.name == "temporal":
                _use(handler, LocalExecutor())
            yield Desk(place, handler, None, "")
    finally:
        await handler.aclose()


async def _executor_of(place: Place, handler: PromptHandler, run_id: str | None, retries: bool) -> str:
    """What drives: as asked, else the handler's own unless Temporal drives the run already. A run that stays
    over needs no server."""
    state = None if run_id is None else await handler.get_run(run_id)
    if state is not None and state.over and not (retries and state.status != "done"):
        return "local"
    if place.executor or place.address:
        return place.executor or "temporal"
    if state is not None and state.driver.executor == "temporal":
        return "temporal"
    return handler.executor.name


async def _use_temporal(place: Place, handler: PromptHandler) -> TemporalExecutor:
    """The handler's own executor where it is Temporal's and nothing else was asked for."""
    from thoughtgear.executors.temporal import TemporalExecutor

    own = member(handler.executor, TemporalExecutor)
    if own is not None and not (place.address or place.namespace or place.task_queue):
        return own
    client = await config.connect(address=place.address, namespace=place.namespace)
    executor = TemporalExecutor(client, config.Settings.load(task_queue=place.task_queue).task_queue)
    _use(handler, executor)
    return executor


def _use(handler: PromptHandler, executor: LocalExecutor | TemporalExecutor) -> None:
    executor.bind(handler)
    handler.executor = executor


async def _stand_in(store: OrmAdapter, run_id: str) -> PromptHandler:
    """A handler that can look at a run, and schedule it under the name of its own one."""
    try:
        name = (await store.load_run(run_id)).handler
    except BaseException:
        await store.aclose()
        raise
    return PromptHandler(name, model=registry.NO_MODEL, orm=store)


async def _open_handler(place: Place, run_id: str | None) -> PromptHandler:
    if place.target is None:
        if run_id is None:
            raise ConfigurationError("No target; give -t module:attribute, or set THOUGHTGEAR_TARGET.")
        return await _stand_in(open_named_store(place), check_run_id(run_id))
    handlers = load_handlers(place)
    if len(handlers) == 1 and place.handler is None:
        return handlers[0]
    name = place.handler
    if name is None and run_id is not None:
        name = (await handlers[0].get_run(run_id)).handler
    known = ", ".join(sorted(handler.name for handler in handlers))
    for handler in handlers:
        if handler.name == name:
            return handler
    raise ConfigurationError(f"{place.target} has the handlers {known}; choose one with --handler.")
