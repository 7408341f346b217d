"""The function that AWS Lambda invokes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from thoughtgear.errors import ConfigurationError
from thoughtgear.executors.events import ContinueEvent, StartEvent, read_event
from thoughtgear.executors.lambda_ import LambdaExecutor
from thoughtgear.executors.members import members_of
from thoughtgear.executors.turns import Delivery, take, turn_in

if TYPE_CHECKING:
    from thoughtgear.handler import PromptHandler

MARGIN_SECONDS = 5.0
"""What an iteration leaves of its invocation's time, to save what is finished and to fire the next event.
Of a function with less than four times as much it is a quarter."""

log = logging.getLogger("thoughtgear")


def make_lambda_handler(
    handler: PromptHandler, *, executor: LambdaExecutor | None = None
) -> Callable[[Any, Any], dict[str, Any]]:
    """Return the function that AWS Lambda calls with an event and its context.

    `executor` is the one that fires at this function, where the handler has several: a function of another
    region fires its next event at itself, and not at the one that is out.
    It stores a prompt (`start`, which answers `{"runId": …, "status": …}`) or runs one iteration
    (`continue`). A mistake in an event raises `InvalidInputError`. Whatever else it raises asks Lambda to
    deliver the event again, which it does twice, after one and two minutes: leave the function's retries on.
    Raises `ConfigurationError` where the handler's executor fires no events, or which one does is open.
    """
    function = _Function(handler, _served(handler, executor))
    runner = asyncio.Runner()  # one loop for all invocations: the connections of the store are bound to it

    def lambda_handler(event: Any, context: Any = None) -> dict[str, Any]:
        return runner.run(function.invoked(event, context))

    return lambda_handler


def _served(handler: PromptHandler, executor: LambdaExecutor | None) -> LambdaExecutor:
    found = members_of(handler.executor, LambdaExecutor)
    if executor is None and len(found) > 1:
        raise ConfigurationError(
            "This handler has several LambdaExecutors: make_lambda_handler(handler, executor=…) names that "
            "which fires at this function."
        )
    if not found or (executor is not None and not any(each is executor for each in found)):
        raise ConfigurationError("make_lambda_handler needs a handler with executor=LambdaExecutor(…).")
    return executor or found[0]


class _Function:
    def __init__(self, handler: PromptHandler, executor: LambdaExecutor) -> None:
        self._handler, self._executor = handler, executor

    async def invoked(self, event: Any, context: Any) -> dict[str, Any]:
        asked = read_event(event)
        delivery = str(getattr(context, "aws_request_id", None) or uuid4().hex)
        if isinstance(asked, StartEvent):
            return await self._start(asked, delivery)
        return await self._continue(asked, delivery, _Clock(context))

    async def _start(self, event: StartEvent, delivery: str) -> dict[str, Any]:
        """Store the prompt and fire its first event, unless its run has begun: Lambda may deliver twice."""
        state = await self._handler.create_run(
            event.text,
            files=event.loaded(self._handler.limits),
            session_id=event.session_id,
            user_id=event.user_id,
            metadata=event.metadata,
            request_id=event.request_id or f"lambda-{delivery}",
            stream=event.stream,
        )
        if not state.over and not state.claim.epoch:
            await self._handler.executor.schedule_next_iteration(state.run_id)
        return {"runId": state.run_id, "status": state.status}

    async def _continue(self, event: ContinueEvent, delivery: str, clock: _Clock) -> dict[str, Any]:
        turn = turn_in(event)
        given = Delivery("lambda", delivery, clock.left(), self._executor.claim_seconds)
        taken = await take(self._handler, turn, given)
        if taken.next is not None:
            await asyncio.sleep(min(taken.next.seconds, clock.left() or 0.0))
            await self._executor.follow(taken.next)
        log.info(taken.reason or "the next event is fired", extra={"run_id": turn.run_id})
        return {"runId": turn.run_id, "continues": taken.next is not None, "reason": taken.reason}


class _Clock:
    """The time that an invocation has. Where nobody tells there is no end to an iteration, and no pause."""

    def __init__(self, context: Any) -> None:
        self._tell = getattr(context, "get_remaining_time_in_millis", None)
        self._margin = min(MARGIN_SECONDS, (self._remaining() or 0.0) / 4)

    def left(self) -> float | None:
        """Seconds, less the margin."""
        remaining = self._remaining()
        return None if remaining is None else max(0.0, remaining - self._margin)

    def _remaining(self) -> float | None:
        return None if self._tell is None else self._tell() / 1000
