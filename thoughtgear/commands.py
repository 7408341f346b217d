"""What the commands about runs do: `run`, `wait`, `cancel`, `runs`, `show`. `cli` parses and calls."""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from temporalio.client import Client

from thoughtgear import config, registry
from thoughtgear.client import pollers, workflow_id_for
from thoughtgear.errors import ConfigurationError, WaitTimeoutError
from thoughtgear.executors.temporal import TemporalExecutor
from thoughtgear.follow import Follower
from thoughtgear.handler import PromptHandler
from thoughtgear.models import RunState, Status
from thoughtgear.protocols import OrmAdapter, RunFilter
from thoughtgear.render import RunView, print_json, run_record, runs_table, show_run, summary_line
from thoughtgear.ui import find_ui, workflow_link

CANCEL_SECONDS = 10.0
"""How long `cancel` waits to see the end of the run."""

NO_MODEL = "scripted:echo"
"""The model of a handler that only looks at runs: it is never asked."""


@dataclass(frozen=True)
class Place:
    """Where the runs are: a target, or a store alone; and the Temporal server where one drives them."""

    target: str | None = None
    handler: str | None = None
    db: str | None = field(default=None, repr=False)
    executor: str | None = None
    address: str | None = None
    namespace: str | None = None
    task_queue: str | None = None


@dataclass(frozen=True)
class Output:
    """How to answer: for people, as JSON, or with the model's answer alone."""

    out: Console
    err: Console
    as_json: bool = False
    quiet: bool = False

    @property
    def bare(self) -> bool:
        return self.as_json or self.quiet


@dataclass(frozen=True)
class NewPrompt:
    """What `run` sends."""

    text: str
    files: Sequence[Path] = ()
    session_id: str | None = None
    user_id: str | None = None
    request_id: str | None = None


async def run(place: Place, prompt: NewPrompt, output: Output, *, detach: bool = False) -> int:
    """Send a prompt and follow its run to the end. Returns the exit code."""
    async with _desk(place) as desk:
        if detach and desk.client is None:
            raise ConfigurationError(
                "--detach needs a worker elsewhere; this handler runs in this process (see --executor)."
            )
        state = await desk.handler.handle_prompt(
            prompt.text,
            files=prompt.files,
            session_id=prompt.session_id,
            user_id=prompt.user_id,
            request_id=prompt.request_id,
            stream=not (output.bare or detach),
            wait=False,
        )
        if detach:
            _tell_detached(desk, state, output)
            return 0
        return await _follow(desk, state, output, after=0)


async def resume(place: Place, run_id: str, output: Output) -> int:
    """Go on with a run that nothing drives, or hand it to another executor, and follow it."""
    async with _desk(place, run_id) as desk:
        state = await desk.handler.get_run(run_id)
        if not state.over:
            await desk.handler.executor.schedule_next_iteration(run_id)
        desk.resumed = state.version
        return await _follow(desk, state, output, after=state.message_count - 1)


async def wait(place: Place, run_id: str, output: Output, timeout: float | None = None) -> int:  # noqa: ASYNC109 - as asyncio's own functions have it
    """Follow a run that goes on elsewhere to its end."""
    async with _desk(place, run_id) as desk:
        state = await desk.handler.get_run(run_id)
        return await _follow(desk, state, output, after=state.message_count - 1, timeout=timeout)


async def cancel(place: Place, run_id: str, output: Output) -> int:
    """Cancel a run, and see whether it ends."""
    async with _desk(place, run_id) as desk:
        state = await desk.handler.get_run(run_id)
        already = state.over
        if not already:
            await desk.handler.cancel(run_id)
            state = await _until_over(desk.handler.store, run_id)
    if output.as_json:
        print_json(run_record(state))
    elif already:
        output.err.print(f"Run {run_id} is {state.status} already.", soft_wrap=True, highlight=False)
    elif not state.over:
        output.err.print(
            f"The cancel is on its way; run {run_id} is {state.status} still. "
            f"See its end with: thoughtgear wait {run_id}",
            soft_wrap=True,
            highlight=False,
        )
    else:
        output.err.print(summary_line(state), soft_wrap=True)
    return 0


async def list_runs(place: Place, where: RunFilter, output: Output, *, limit: int, after: str | None) -> int:
    """Show the runs of a store, newest first."""
    store = _open_store(place)
    try:
        page = await store.list_runs(where, after=after, limit=limit)
    finally:
        await store.aclose()
    if output.as_json:
        print_json({"runs": [run_record(state) for state in page.runs], "after": page.after})
    elif not page.runs:
        output.err.print("No runs.", highlight=False)
    else:
        output.out.print(runs_table(page.runs, output.out.width))
        if page.after:
            output.err.print(f"More: thoughtgear runs --after {page.after}", soft_wrap=True, highlight=False)
    return 0


async def show(place: Place, run_id: str | None, output: Output) -> int:
    """Show a transcript; without an id that of the newest run."""
    store = _open_store(place)
    try:
        run_id = run_id or await _newest(store)
        state = await store.load_run(run_id)
        messages = await store.get_history(run_id)
    finally:
        await store.aclose()
    if output.as_json:
        print_json(
            {**run_record(state), "messages": [message.model_dump(mode="json") for message in messages]}
        )
    else:
        show_run(output.out, state, messages)
    return 0


def load_handlers(place: Place) -> list[PromptHandler]:
    """Load the target; `--db` is the store of the handlers that name none themselves."""
    if place.db:
        os.environ["THOUGHTGEAR_DB"] = place.db
    return config.load_target(place.target or "")


class _Desk:
    """A handler, and the Temporal client where Temporal drives its runs."""

    def __init__(self, place: Place, handler: PromptHandler, client: Client | None, task_queue: str) -> None:
        self.place, self.handler = place, handler
        self.client, self.task_queue = client, task_queue
        self.resumed = -1
        self._ui = find_ui(client) if client else None

    def link(self, state: RunState) -> str | None:
        """The address of the run's page in Temporal's web interface."""
        if self.client is None or self._ui is None:
            return None
        name = state.driver.workflow_id or workflow_id_for(state.run_id)
        return workflow_link(self._ui, self.client.namespace, name)

    def again(self, command: str) -> str:
        """The line to type in order to come back to this place."""
        given = (("-t", self.place.target), ("--db", None), ("--address", self.place.address))
        options = [word for name, value in given if value for word in (name, value)]
        if self.place.db:
            options += ["--db", "…" if "@" in self.place.db else self.place.db]
        return f"thoughtgear {command} {shlex.join(options)}".strip()

    async def why_idle(self, state: RunState) -> str | None:
        """Why nothing happens, as far as that can be known."""
        if self.client is not None and state.driver.executor == "temporal":
            if await pollers(self.client, self.task_queue):
                return None
            target = self.place.target or "TARGET"
            return (
                f"No worker polls the task queue {self.task_queue!r}; start one: thoughtgear worker {target}"
            )
        if state.version == self.resumed and state.claim.live():
            left = state.claim.deadline - time.time()
            return f"Whoever worked on this run before holds it for up to {left:.0f} s more."
        if state.driver.executor == "local" and not state.claim.live() and self.client is None:
            return (
                f"Nothing works on this run now; go on with: {self.again(f'run --continue {state.run_id}')}"
            )
        return None


@asynccontextmanager
async def _desk(place: Place, run_id: str | None = None) -> AsyncIterator[_Desk]:
    handler = await _open_handler(place, run_id)
    try:
        executor = await _executor_of(place, handler, run_id)
        if executor != "temporal":
            yield _Desk(place, handler, None, "")
            return
        mine = isinstance(handler.executor, TemporalExecutor) and not place.address
        queue = place.task_queue or getattr(handler.executor, "task_queue", None)
        queue = queue or config.Settings.load().task_queue
        if mine and isinstance(handler.executor, TemporalExecutor):
            client = await handler.executor.client()
        else:
            client = await config.connect(address=place.address, namespace=place.namespace)
            handler.executor = TemporalExecutor(client, queue)
            handler.executor.bind(handler)
        yield _Desk(place, handler, client, queue)
    finally:
        await handler.aclose()


async def _executor_of(place: Place, handler: PromptHandler, run_id: str | None) -> str:
    """What drives: as asked, else what drives the run already, else the handler's own."""
    if place.executor or place.address:
        return place.executor or "temporal"
    if run_id is not None and not place.target:
        return (await handler.get_run(run_id)).driver.executor
    return handler.executor.name


async def _open_handler(place: Place, run_id: str | None) -> PromptHandler:
    if place.target is None:
        if run_id is None:
            raise ConfigurationError("No target; give -t module:attribute, or set THOUGHTGEAR_TARGET.")
        return PromptHandler(model=NO_MODEL, orm=_open_store(place))
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


def _open_store(place: Place) -> OrmAdapter:
    """The store that was named, else the target's, else the one in this folder, which must be there."""
    if place.db is None and place.target:
        return load_handlers(place)[0].store
    default = Path(registry.DEFAULT_DB.removeprefix("sqlite:///"))
    if place.db is None and not default.exists():
        raise ConfigurationError(
            f"There is no {default} in this folder; name a store with --db URL, THOUGHTGEAR_DB or -t TARGET."
        )
    return registry.open_store(place.db)


async def _newest(store: OrmAdapter) -> str:
    page = await store.list_runs(limit=1)
    if not page.runs:
        raise ConfigurationError("The store has no runs yet; make one with: thoughtgear run -t TARGET PROMPT")
    return page.runs[0].run_id


async def _follow(
    desk: _Desk,
    state: RunState,
    output: Output,
    *,
    after: int,
    timeout: float | None = None,  # noqa: ASYNC109 - as asyncio's own functions have it
) -> int:
    view = _Silent(output.out, output.err) if output.bare else RunView(output.out, output.err)
    link = desk.link(state)
    if not output.bare:
        view.note(f"run {state.run_id}" + (f"  {link}" if link else ""))

    async def on_idle(idle: RunState) -> None:
        reason = await desk.why_idle(idle)
        if reason:
            output.err.print(reason, soft_wrap=True, highlight=False)

    try:
        async with asyncio.timeout(timeout):
            state = await Follower(desk.handler.store, state.run_id, view, after).until_over(on_idle)
    except TimeoutError:
        view.end_line()
        raise WaitTimeoutError(f"Run {state.run_id} is not over after {timeout:g} s; it goes on.") from None
    except asyncio.CancelledError:
        view.end_line()
        _tell_left(desk, state, output)
        raise
    _tell_end(state, output, link)
    return 0 if state.status == "done" else 1


class _Silent(RunView):
    """Shows notes alone: for scripts."""

    def text(self, piece: str) -> None:
        """Nothing."""

    def message(self, *_: object, **__: object) -> None:
        """Nothing."""


def _tell_end(state: RunState, output: Output, link: str | None) -> None:
    if output.as_json:
        print_json(run_record(state) | ({"link": link} if link else {}))
        return
    if output.quiet and state.output:
        print(state.output)
    if not output.quiet or state.status != "done":
        output.err.print(summary_line(state, link), soft_wrap=True)


def _tell_left(desk: _Desk, state: RunState, output: Output) -> None:
    if desk.client is not None:
        text = f"Left; the run goes on. Come back with: {desk.again(f'wait {state.run_id}')}"
    else:
        text = (
            "Stopped; what is done is in the store. "
            f"Go on with: {desk.again(f'run --continue {state.run_id}')}"
        )
    output.err.print(text, soft_wrap=True, highlight=False)


def _tell_detached(desk: _Desk, state: RunState, output: Output) -> None:
    if output.as_json:
        link = desk.link(state)
        print_json(run_record(state) | ({"link": link} if link else {}))
        return
    print(state.run_id)
    output.err.print(
        f"The run goes on. See it with: {desk.again(f'wait {state.run_id}')}", soft_wrap=True, highlight=False
    )


async def _until_over(store: OrmAdapter, run_id: str) -> RunState:
    """Return the state once the run is over, or as it is after 10 s."""
    deadline = asyncio.get_running_loop().time() + CANCEL_SECONDS
    while True:
        state = await store.load_run(run_id)
        if state.over or asyncio.get_running_loop().time() > deadline:
            return state
        await asyncio.sleep(0.1)


def filter_of(status: Status | None, handler: str | None, session: str | None, user: str | None) -> RunFilter:
    """Return the filter of `runs`."""
    return replace(RunFilter(), status=status, handler=handler, session_id=session, user_id=user)
