"""`PromptHandler`: what people build, and what every driver calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from uuid import uuid4

from pydantic import BaseModel

from thoughtgear import control, inbox, registry, streaming
from thoughtgear.agent import Agent, Context
from thoughtgear.callbacks import Callbacks
from thoughtgear.context import Trim, check_policy
from thoughtgear.errors import ExecutorUnavailableError, RunBusyError
from thoughtgear.ids import check_label, check_run_id
from thoughtgear.iteration import run_iteration
from thoughtgear.loop import Limits, next_step
from thoughtgear.models import Driver, InboxItem, Message, RunError, RunState
from thoughtgear.outcomes import Outcome
from thoughtgear.pace import Pace
from thoughtgear.payloads import IterationResult
from thoughtgear.prices import PriceList, Prices
from thoughtgear.prompts import File, Prompt, create_run
from thoughtgear.protocols import Attempt, Executor, ModelProvider, OrmAdapter
from thoughtgear.sessions import OnBusy, Sessions
from thoughtgear.structured import OutputType
from thoughtgear.threads import ToolThreads
from thoughtgear.tools import Tool, ToolBox
from thoughtgear.transcript import Transcripts
from thoughtgear.waiting import sit_out, until_over

T = TypeVar("T")


class PromptHandler:
    """Answers prompts with a model and tools, durably.

    `context` is the system prompt, or a function of the run that makes it. `model` is `"provider:name"`, a
    dict with `provider` and `name`, or a `ModelProvider`; those of `fallback` are asked in turn when it is
    out; `db` a URL or a dict with a `type`, or `orm` an `OrmAdapter`; `executor` drives the iterations
    (default: a loop in this process). `on_busy` says what a prompt does while the last run of its session
    goes on. `model_options` go to the model as they are. The final answer has to fit `output_type`, a
    pydantic model. `context_policy` (`Trim`, `Summarise`) bounds what is sent of a long conversation.
    `prices` say what replies cost. Up to `tool_threads` plain tools run at once. Raises `ConfigurationError`.
    """

    def __init__(
        self,
        name: str = "default",
        *,
        context: Context = "",
        tools: Sequence[Tool | Callable[..., Any]] = (),
        model: str | Mapping[str, Any] | ModelProvider | None = None,
        fallback: Sequence[str | Mapping[str, Any] | ModelProvider] = (),
        db: str | Mapping[str, Any] | None = None,
        orm: OrmAdapter | None = None,
        executor: str | Executor | None = None,
        callbacks: Callbacks | None = None,
        limits: Limits | None = None,
        on_busy: OnBusy = "queue",
        model_options: Mapping[str, Any] | None = None,
        output_type: type[BaseModel] | None = None,
        context_policy: Trim | None = None,
        prices: Prices | Sequence[Prices] | None = None,
        tool_threads: int = 32,
    ) -> None:
        self.name = check_label(name, "handler name")
        self.store = registry.given_store(db, orm)
        self.limits = limits or Limits()
        transcripts = Transcripts(self.store)
        self.executor = registry.open_executor(executor)
        self.pace: Pace | None = getattr(self.executor, "pace", None)
        self._agent = Agent(
            name=name,
            context=context,
            toolbox=ToolBox(tools),
            model=registry.open_models(model, fallback),
            store=self.store,
            sessions=Sessions(self.store, transcripts, on_busy),
            transcripts=transcripts,
            threads=ToolThreads(tool_threads),
            reconcile_threads=ToolThreads(tool_threads),
            callbacks=callbacks or Callbacks(),
            limits=self.limits,
            model_options=dict(model_options or {}),
            output_type=OutputType.of(output_type),
            context_policy=check_policy(context_policy),
            prices=PriceList(prices),
            pace=self.pace,
        )
        self._runner: asyncio.Runner | None = None
        bind = getattr(self.executor, "bind", None)
        if bind is not None:
            bind(self)

    def __repr__(self) -> str:
        return f"<PromptHandler {self.name!r}, model {self.model.model}, executor {self.executor.name}>"

    @property
    def model(self) -> ModelProvider:
        return self._agent.model

    @property
    def abandoned_threads(self) -> int:
        """Threads of plain tools that go on although their call was given up."""
        return self._agent.threads.abandoned

    # --- prompts ---

    async def handle_prompt(
        self,
        text: str,
        *,
        files: Sequence[File | str | Path] | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        stream: bool = False,
        wait: bool | None = None,
    ) -> RunState:
        """Make the prompt durable, schedule it, and return its run.

        With the local executor it resolves when the run is over, with a remote one at once; `wait`
        overrides either. The same `request_id` again is the same run, and ends no delay of it. Look at
        `status`, `output` and `error`. With `stream` replies can be read from their first word on, before
        anybody does. Raises `InvalidInputError`, `SessionBusyError`, `StoreError`, and
        `ExecutorUnavailableError` when nothing could be told to drive it: `continue_run` mends that.
        """
        state = await self.create_run(
            text,
            files=files,
            session_id=session_id,
            user_id=user_id,
            metadata=metadata,
            request_id=request_id,
            stream=stream,
        )
        if not state.over and not (self.pace is not None and self.pace.sat_out(state)):
            await self._schedule(state.run_id)
        if wait if wait is not None else getattr(self.executor, "waits", False):
            return await self.wait(state.run_id)
        return state

    def handle_prompt_sync(self, text: str, **options: Any) -> RunState:
        """`handle_prompt` for code without an event loop. Raises `RuntimeError` inside of one.

        A local run goes on only while such a call lasts: with `wait=False` it stays where it is until
        the next one.
        """
        return self._run_sync(self.handle_prompt(text, **options))

    async def create_run(
        self,
        text: str,
        *,
        files: Sequence[File | str | Path] | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        stream: bool = False,
        driver: Driver | None = None,
    ) -> RunState:
        """Make the prompt durable and schedule nothing: for drivers that schedule by themselves."""
        prompt = Prompt(text, tuple(files or ()), session_id, user_id, metadata or {}, request_id, stream)
        return await create_run(
            prompt,
            store=self.store,
            sessions=self._agent.sessions,
            handler=self.name,
            limits=self.limits,
            driver=driver or Driver(executor=self.executor.name),
        )

    async def send(self, run_id: str, text: str, *, request_id: str | None = None) -> RunState:
        """Send a message to a run; it is read before the next model call. A handler with the executor that
        drives the run wakes it from a delay or a wait; any other stores the message alone.

        To a run that is over: a new run in the same session (or, without a session, on its own). The same
        `request_id` again is the same message. Raises `RunNotFoundError`, `InvalidInputError`,
        `ExecutorUnavailableError` (the message is stored).
        """
        Prompt(text, request_id=request_id).check(self.limits)
        item = InboxItem(request_id=request_id or uuid4().hex, text=text)
        state = await inbox.put(self.store, check_run_id(run_id), item, self.limits)
        if not state.over:
            await self._wake(state)
        if not state.over or inbox.knows(state, item.request_id):
            return state
        return await self.handle_prompt(
            text,
            session_id=state.session_id,
            user_id=state.user_id,
            request_id=inbox.follow_up_id(run_id, item.request_id),
            wait=False,
        )

    # --- iterations ---

    async def continue_run(self, run_id: str) -> RunState:
        """Go on with a run: for a driver that invokes, one iteration and the next schedule.

        With an executor that drives by itself (local, Temporal) it is the schedule alone; the local one
        then resolves when the run is over. Also the way to hand a run over to this handler's executor.
        Raises what `run_iteration` raises, and `RunBusyError` (retryable) for a duplicate.
        """
        state = await self.get_run(run_id)
        if state.over:
            return state
        if not getattr(self.executor, "self_driving", False):
            return await self._continue_here(state)
        await self._schedule(run_id)
        return await self.wait(run_id) if getattr(self.executor, "waits", False) else state

    async def _continue_here(self, state: RunState) -> RunState:
        """One iteration, then the next schedule. A duplicate that meets another attempt schedules nothing and
        raises `RunBusyError`."""
        attempt = Attempt(driver=self.executor.name)
        result = await self.run_iteration(state.run_id, state.iteration + 1, attempt)
        step = next_step(result)
        if result.status == "in_progress":
            # Its driver goes on, or has died: then the platform delivers this invocation again.
            raise RunBusyError(
                f"Another attempt is at work on run {state.run_id} for {result.wait:.0f} s more."
            )
        if step.kind == "wait":
            await sit_out(step.seconds, whole=result.paced and self.pace is not None and self.pace.delay > 0)
        if step.kind != "stop":
            await self._schedule(state.run_id)
        return await self.get_run(state.run_id)

    async def run_iteration(
        self, run_id: str, iteration: int, attempt: Attempt | None = None
    ) -> IterationResult:
        """Run one iteration (the first is 1), or report where the run stands when that one is not due.

        Re-entrant: what was saved is not done again. Raises `RunNotFoundError`, `SupersededError`,
        `StoreError`, `ModelError`; `retryable` says whether to try again.
        """
        attempt = attempt or Attempt()
        result = await run_iteration(self._agent, check_run_id(run_id), iteration, attempt)
        await control.stand_down(self._agent, run_id, attempt, result)
        if result.status == "waiting" and not result.paced:
            await self._wake_parent(run_id)
        return result

    async def release(self, run_id: str, scope: str) -> None:
        """Give back the claim that a driver's scope holds, if it does: for a driver that stops between its
        attempts. Nothing else changes."""
        await control.release(self._agent, check_run_id(run_id), scope)

    async def pass_on(self, run_id: str, attempt: Attempt) -> None:
        """Use up a turn without an iteration: for a driver that invokes and has to wait. Raises
        `SupersededError` where somebody else has taken it."""
        await control.pass_on(self._agent, check_run_id(run_id), attempt)

    async def close_run(
        self, run_id: str, status: Literal["failed", "cancelled"], error: RunError | None = None, by: str = ""
    ) -> RunState:
        """End a run from outside: fence whoever is at work on it, and give every open call a result.

        A run that is over is returned as it is, and so is one that `by`, a name, has ended before: it was
        retried since.
        """
        return await control.close_run(self._agent, check_run_id(run_id), status, error, by)

    async def retry(self, run_id: str, *, wait: bool | None = None) -> RunState:
        """Go on with a run that failed or was cancelled, from its last commit; resolves as `handle_prompt`.

        Its transcript stays: a reply that was saved is not bought again, and calls that were cut off keep
        their results, `cancelled` or `unknown`. Its time limit begins anew; one that reached another limit
        fails again at once, unless this handler's is higher. Later runs of its session, which saw how it had
        ended, don't see what it says from now on. A run that goes on is returned as it is. Raises
        `InvalidInputError` for one that is done, and `ExecutorUnavailableError` (the run is reopened).
        """
        driver = Driver(executor=self.executor.name)
        state = await control.reopen_run(self._agent, check_run_id(run_id), driver)
        await self._wake(state)
        if wait if wait is not None else getattr(self.executor, "waits", False):
            return await self.wait(run_id)
        return state

    async def settle(self, run_id: str, call_id: str, outcome: Outcome, *, schedule: bool = True) -> RunState:
        """Say what became of a call that waits for a person (`on_unknown="ask_person"`), and go on with the
        run: `Done(result)`, `Void(reason)`, or None where nobody can tell. The first decision counts.
        `schedule=False` stores it alone.

        Raises `InvalidInputError` when that call waits for none, `RunNotFoundError`, and
        `ExecutorUnavailableError` (the decision is stored).
        """
        state = await control.settle(self._agent, check_run_id(run_id), call_id, outcome)
        if not schedule or state.over:
            return state
        driver = state.driver.executor
        if driver != "local" and not self._drives(driver):  # a local loop looks every second
            raise ExecutorUnavailableError(
                f"The decision is stored; {driver} drives the run and looks for it within an hour, and this "
                "handler can't wake it: settle once more through a handler with that executor.",
                run_id=run_id,
            )
        await self._wake(state)
        return state

    async def cancel(self, run_id: str) -> RunState:
        """Cancel a run: at once where nobody is at work on it, else before the next effect.

        Under Temporal this cancels the workflow. Returns the state as it is known now. Where the process
        that held the run has died, its claim has to run out first: cancel again then.
        """
        state = await self.get_run(run_id)
        if state.over or await self._cancel_in_driver(state):
            return state
        item = InboxItem(request_id=f"{inbox.OURS}cancel", kind="cancel")
        state = await inbox.put(self.store, run_id, item, self.limits)
        if state.over or state.claim.live():
            return state
        return await self.close_run(run_id, "cancelled")

    # --- looking ---

    async def get_run(self, run_id: str) -> RunState:
        """Return the newest state. Raises `RunNotFoundError`."""
        return await self.store.load_run(check_run_id(run_id))

    async def history(self, run_id: str, after: int = -1, limit: int | None = None) -> list[Message]:
        """Return the transcript from seq `after + 1` on."""
        return await self.store.get_history(check_run_id(run_id), after, limit)

    def stream(self, run_id: str, after: str | None = None, *, text: bool = True) -> streaming.Events:
        """Return the events of a run until it is over, wherever it goes on. `after` is the `cursor` of the
        last one that is known. `text` asks whoever works on the run for the reply while it is being made.
        Raises as `streaming.stream`."""
        return streaming.stream(self.store, run_id, after, text=text)

    async def wait(self, run_id: str, timeout: float | None = None) -> RunState:  # noqa: ASYNC109
        """Return the state once the run is over. Raises `WaitTimeoutError` after `timeout` seconds; the
        run goes on."""
        return await until_over(self.store, self.executor, check_run_id(run_id), timeout)

    # --- the handler's own life ---

    async def aclose(self) -> None:
        """Stop driving, and free the store's and the model's connections."""
        close = getattr(self.executor, "aclose", None)
        if close is not None:
            await close()
        await self.model.aclose()
        await self.store.aclose()

    def close(self) -> None:
        """`aclose` for code without an event loop."""
        self._run_sync(self.aclose())
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _run_sync(self, work: Coroutine[Any, Any, T]) -> T:
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(work)

    async def _schedule(self, run_id: str) -> None:
        try:
            await self.executor.schedule_next_iteration(run_id)
        except ExecutorUnavailableError as exc:
            exc.run_id = run_id
            raise

    async def _wake(self, state: RunState) -> None:
        """Schedule through this executor unless another one drives the run: that one reads the inbox."""
        if self._drives(state.driver.executor) or not state.claim.epoch:
            await self._schedule(state.run_id)

    def _drives(self, name: str) -> bool:
        """Whether the executor of that name is this handler's, or one of several in it."""
        return name in getattr(self.executor, "names", (self.executor.name,))

    async def _wake_parent(self, run_id: str) -> None:
        """Drive the run that this one waits for, if its sender died before it was scheduled."""
        earlier = await control.unclaimed_parent(self._agent, run_id)
        if earlier is not None:
            await self._schedule(earlier)

    async def _cancel_in_driver(self, state: RunState) -> bool:
        cancel = getattr(self.executor, "cancel", None)
        return cancel is not None and bool(await cancel(state.run_id))
