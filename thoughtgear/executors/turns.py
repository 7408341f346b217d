"""Turns: how drivers that invoke (Lambda, SQS) keep one chain of events per run.

An event carries the epoch that the run's claim had when the event was sent: the right to the next turn.
Whoever finds the run at that epoch, and nobody at work, may claim it; every turn ends under a newer epoch,
and the event that follows carries that one. So of any number of events with one epoch one is used, the
others end. Only the delivery that had the last turn, come again because its process died before it could
send the next event, sends it then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from thoughtgear.errors import (
    ModelUnavailableError,
    RunBusyError,
    RunNotFoundError,
    StateRegressionError,
    SupersededError,
    ThoughtgearError,
)
from thoughtgear.executors.events import ContinueEvent
from thoughtgear.executors.local import describe
from thoughtgear.ids import check_run_id
from thoughtgear.logs import loggable
from thoughtgear.loop import retry_delay
from thoughtgear.models import Claim, RunError, RunState
from thoughtgear.protocols import Attempt

if TYPE_CHECKING:
    from thoughtgear.handler import PromptHandler

MOST_CUTS = 3
"""How often in a row an iteration may be cut off by its time, with nothing to show for it."""

CLAIM_SECONDS = 30.0
"""How long the run of a process that died stays untouched by others: less than it takes until its event is
delivered again."""

log = logging.getLogger("thoughtgear")


@dataclass(frozen=True)
class Turn:
    """The right to drive one iteration of a run: as long as its claim has this epoch (None: any).

    `failures` counts the attempts in a row that failed, `cuts` those that were cut off with nothing to show
    for it, since the run has `reached` what that digest is of; before `not_before` (Unix seconds) it is not
    due.
    """

    run_id: str
    epoch: int | None = None
    failures: int = 0
    not_before: float = 0.0
    cuts: int = 0
    reached: str = ""

    @property
    def seconds(self) -> float:
        """How long until it is due."""
        return max(0.0, self.not_before - time.time())


@dataclass(frozen=True)
class Taken:
    """How a turn ended: with the next one, or with the end of this chain and its reason. `dead`: it was the
    last delivery, whose run was ended instead."""

    next: Turn | None
    reason: str = ""
    dead: bool = False


def turn_in(event: ContinueEvent) -> Turn:
    """Return the turn of an event. Raises `InvalidInputError` where its run id is none."""
    run_id = check_run_id(event.run_id)
    return Turn(run_id, event.epoch, event.failures, event.not_before, event.cuts, event.reached)


def turn_of(state: RunState) -> Turn:
    """Return the turn that a run is at."""
    return Turn(state.run_id, state.claim.epoch)


@dataclass(frozen=True)
class Delivery:
    """An event or message as it was delivered: when it comes again it has the same `name`.

    `driver` is the executor's name. An iteration is cut off after `seconds`; `hold` is how long the run of a
    process that died stays untouched by others. `last`: it will not come again, and those before have failed;
    a run that still is at this turn is ended as failed.
    """

    driver: str
    name: str
    seconds: float | None = None
    hold: float = CLAIM_SECONDS
    last: bool = False


def event_of(turn: Turn) -> dict[str, Any]:
    """Return the event of a turn, without what says nothing."""
    event: dict[str, Any] = {"action": "continue", "runId": turn.run_id}
    if turn.epoch is not None:
        event["epoch"] = turn.epoch
    if turn.failures:
        event["failures"] = turn.failures
    if turn.cuts:
        event["cuts"] = turn.cuts
    if turn.reached:
        event["reached"] = turn.reached
    if turn.not_before:
        event["notBefore"] = round(turn.not_before, 3)
    return event


async def take(handler: PromptHandler, turn: Turn, delivery: Delivery) -> Taken:
    """Use a turn: run the iteration that is due, or find that somebody else has this turn.

    Of an iteration that is cut off, what is finished by then is saved. What fails for good ends the run as
    failed.

    Raises what asks for another delivery: `RunBusyError` while a claim lives that may be of a process that
    died, `StoreUnavailableError` and other retryable `StoreError`s; `StateRegressionError`; and
    `RunNotFoundError` for a turn without an epoch.
    """
    try:
        return await _Taking(handler, turn, delivery).take()
    except SupersededError:
        return Taken(None, "another turn goes on")
    except RunNotFoundError:
        if turn.epoch is None:
            raise
        return Taken(None, "the run was deleted")


class _Taking:
    def __init__(self, handler: PromptHandler, turn: Turn, delivery: Delivery) -> None:
        self._handler, self._turn, self._delivery = handler, turn, delivery
        self._extra = {"run_id": turn.run_id}

    async def take(self) -> Taken:
        state = await self._handler.get_run(self._turn.run_id)
        if state.over:
            return Taken(None, f"the run is {state.status}")
        right = self._right(state.claim)
        if right == "busy":
            left = max(0.0, state.claim.deadline - time.time())
            raise RunBusyError(f"Another attempt is at work on run {state.run_id} for {left:.0f} s more.")
        if right == "others":
            return Taken(None, "another delivery has this turn")
        if right == "sent":
            # What was still to wait is handed on. How long after an error, only the process knew that died; a
            # delay is known.
            rest = self._handler.pace.rest(state) if self._handler.pace else 0.0
            turn = self._turn
            stands = turn.reached == _progress(state)  # else that one failed, or was cut off, no more
            failures, cuts = (turn.failures, turn.cuts) if stands else (0, 0)
            return self._follow(state, state.claim.epoch, failures, max(turn.seconds, rest), cuts=cuts)
        if self._delivery.last:
            return await self._bury()
        given, turn = self._delivery, self._turn
        attempt = Attempt(driver=given.driver, scope=given.name, hold=given.hold, epoch=state.claim.epoch)
        if turn.seconds:
            await self._handler.pass_on(state.run_id, attempt)
            return self._follow(state, state.claim.epoch + 1, turn.failures, turn.seconds, cuts=turn.cuts)
        return await self._iterate(state, attempt)

    def _right(self, claim: Claim) -> Literal["take", "sent", "others", "busy"]:
        """What this delivery may do: take the turn, send the next event for a predecessor of its own that
        died, leave it to others, or come again."""
        epoch, mine = self._turn.epoch, self._is_mine(claim)
        if epoch is not None and claim.epoch < epoch:
            raise StateRegressionError
        if epoch is not None and not (claim.epoch == epoch or (claim.epoch == epoch + 1 and mine)):
            return "others"
        if claim.live():
            # One of this driver sends the next event, or is delivered again. Of any other nobody knows.
            return "busy" if mine or claim.driver != self._delivery.driver else "others"
        return "sent" if mine and not claim.owner and claim.epoch != epoch else "take"

    def _is_mine(self, claim: Claim) -> bool:
        scope = claim.owner.rpartition("/")[0] if claim.owner else claim.last
        return scope == self._delivery.name and claim.driver == self._delivery.driver

    async def _iterate(self, state: RunState, attempt: Attempt) -> Taken:
        failures, delay, cut, cuts = 0, 0.0, False, 0
        scope = asyncio.timeout(self._delivery.seconds)
        try:
            async with scope:
                result = await self._handler.run_iteration(state.run_id, state.iteration + 1, attempt)
            delay = result.wait
            if result.wait and result.iteration == state.iteration + 1:  # it had to wait: no attempt
                cuts, failures = self._turn.cuts, self._turn.failures
        except (SupersededError, RunNotFoundError):
            raise
        except ModelUnavailableError as exc:
            failures = self._turn.failures + 1
            delay = retry_delay(failures, exc.retry_after)
            log.info("tried again in %.1f s: %s", delay, exc, extra=self._extra)
        except Exception as exc:
            cut = scope.expired() and isinstance(exc, TimeoutError)
            if not cut:
                return await self._fail(exc)
        after = await self._handler.get_run(state.run_id)
        if cut and _progress(after) == _progress(state):
            cuts = self._turn.cuts + 1
            if cuts >= MOST_CUTS:
                return await self._give_up()
        ended = await self._ended(after, attempt)
        return ended or self._follow(after, (attempt.epoch or 0) + 1, failures, delay, cuts=cuts)

    async def _ended(self, state: RunState, attempt: Attempt) -> Taken | None:
        """Why this chain ends after an attempt, or None: the turn is used up then, also by one that had to
        wait for an earlier run, or for its pace, and has not claimed the run."""
        if state.over:
            return Taken(None, f"the run is {state.status}")
        if state.status == "waiting" and state.unsettled:
            return Taken(None, "a person has to settle a call, which sends the next event")
        claim, began = state.claim, attempt.epoch or 0
        if claim.live():
            if self._is_mine(claim):
                raise RunBusyError(f"The claim of run {state.run_id} could not be given back.")
            return Taken(None, "another turn goes on")
        if claim.epoch == began:
            await self._handler.pass_on(state.run_id, attempt)
        elif claim.epoch != began + 1 or not self._is_mine(claim):
            return Taken(None, "another turn goes on")
        return None

    def _follow(self, state: RunState, epoch: int, failures: int, delay: float, *, cuts: int = 0) -> Taken:
        not_before = time.time() + delay if delay else 0.0
        reached = _progress(state) if failures or cuts else ""
        return Taken(Turn(state.run_id, epoch, failures, not_before, cuts, reached))

    async def _fail(self, exc: Exception) -> Taken:
        """End the run; what is retryable here is about the store, and comes out."""
        if isinstance(exc, ThoughtgearError) and exc.retryable:
            raise exc
        log.error("the run fails", exc_info=loggable(exc), extra=self._extra)
        return await self._close(describe(exc))

    async def _give_up(self) -> Taken:
        seconds = self._delivery.seconds or 0.0
        text = (
            f"An iteration was cut off {MOST_CUTS} times after {seconds:.0f} s, the time of one "
            "invocation; give it more (AWS Lambda: 900 s at the most), or use SQS or Temporal."
        )
        log.error("the run fails: %s", text, extra=self._extra)
        return await self._close(RunError(type="IterationCutOffError", message=text))

    async def _bury(self) -> Taken:
        text = "The workers of this iteration died again and again; its message is in the dead-letter queue."
        log.error("the run fails: %s", text, extra=self._extra)
        return replace(await self._close(RunError(type="PoisonMessageError", message=text)), dead=True)

    async def _close(self, error: RunError) -> Taken:
        by = f"{self._delivery.driver}-{self._delivery.name}"
        state = await self._handler.close_run(self._turn.run_id, "failed", error, by)
        return Taken(None, f"the run is {state.status}")


def _progress(state: RunState) -> str:
    """A digest of what of a run an attempt leaves changed that has something to show for it."""
    facts = state.iteration, state.message_count, [row.status for row in state.ledger]
    return sha256(repr(facts).encode()).hexdigest()[:16]
