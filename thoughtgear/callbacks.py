"""Callbacks: what a handler tells its owner while a run goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from thoughtgear.foreign import contained
from thoughtgear.logs import loggable, run_logger
from thoughtgear.models import RunError, RunState, ToolCall, ToolResult
from thoughtgear.payloads import IterationResult

_Answer = Awaitable[object] | object
"""What a callback returns is not looked at; an awaitable is awaited."""

Event = Literal["on_partial_reply", "on_tool_start", "on_tool_end", "on_iteration", "on_done", "on_error"]


@dataclass(kw_only=True)
class Callbacks:
    """Functions, plain or async, that are told what happens. The run waits for each of them; one that
    raises is logged, and the run goes on. A plain one runs in the event loop and should be quick.

    - `on_partial_reply(run_id, text)`: a piece of the reply that is being written
    - `on_tool_start(run_id, call)`: a tool is about to run
    - `on_tool_end(run_id, result)`: a call has a result, also where no tool ran for it: a cached result, or
      arguments that don't fit
    - `on_iteration(run_id, result)`: an iteration is saved
    - `on_done(state)`: the run has ended as done
    - `on_error(state, error)`: the run has ended as failed, or as cancelled (there may be no error then)
    """

    on_partial_reply: Callable[[str, str], _Answer] | None = None
    on_tool_start: Callable[[str, ToolCall], _Answer] | None = None
    on_tool_end: Callable[[str, ToolResult], _Answer] | None = None
    on_iteration: Callable[[str, IterationResult], _Answer] | None = None
    on_done: Callable[[RunState], _Answer] | None = None
    on_error: Callable[[RunState, RunError | None], _Answer] | None = None

    async def fire(self, event: Event, *args: Any) -> None:
        """Call one. Only the cancellation of this very task comes through."""
        callback: Callable[..., Any] | None = getattr(self, event)
        if callback is None:
            return
        try:
            await contained(event, callback, *args)
        except Exception as exc:
            _log(event, args, exc)


def _log(event: str, args: tuple[Any, ...], exc: BaseException) -> None:
    run_id = args[0].run_id if isinstance(args[0], RunState) else str(args[0])
    run_logger(run_id).error("The callback %s raised; the run goes on.", event, exc_info=loggable(exc))
