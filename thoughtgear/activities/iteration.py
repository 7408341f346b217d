"""The activities of a run. They call the handler, report small facts, and map errors to Temporal's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from temporalio import activity

from thoughtgear.activities.failures import LONGEST_RETRY, MESSAGE, recorded, retry_after
from thoughtgear.activities.heartbeat import Heartbeat
from thoughtgear.activities.reports import of_result, standing
from thoughtgear.activities.roster import Roster
from thoughtgear.errors import ModelUnavailableError, SupersededError
from thoughtgear.handler import PromptHandler
from thoughtgear.ids import request_id_of
from thoughtgear.loop import retry_delay
from thoughtgear.models import OVER, Driver, RunError, RunState
from thoughtgear.payloads import (
    CLOSE_RUN,
    DELIVER,
    RUN_ITERATION,
    START_RUN,
    CloseInput,
    DeliverInput,
    IterationInput,
    Report,
    StartInput,
    sparse,
)
from thoughtgear.protocols import Attempt

LAST_CLOSE, LAST_DELIVERY = 4, 15
"""At which attempt these give up on a handler that no worker knows: a workflow has to be able to end."""

WATCH = 10.0
"""Seconds between two looks at the store during a long step. A cancel comes through the heartbeat."""

LOOK_AGAIN = 1.0
"""Seconds until the workflow looks again at a run that another attempt holds."""


class RunActivities:
    """The activities over the handlers of one worker. Raises nothing but `ApplicationError`."""

    def __init__(self, roster: Roster) -> None:
        self.roster = roster

    def all(self) -> list[Callable[..., Any]]:
        """Return the activities, as a Temporal worker takes them."""
        return [self.start_run, self.run_iteration, self.close_run, self.deliver]

    @activity.defn(name=START_RUN)
    async def start_run(self, given: StartInput) -> dict[str, Any]:
        """Create the run of a prompt that came by value; a second time it finds the same run."""
        with recorded():
            handler = self.roster.find(given.handler)
            state = await _create(handler, given)
            facts = await self._facts(handler, state)
            report = standing(state, by_value=True)
            return sparse(replace(report, run_id=state.run_id, facts=facts, stale=state.over))

    @activity.defn(name=RUN_ITERATION)
    async def run_iteration(self, given: IterationInput) -> dict[str, Any]:
        """Run one iteration, or find that it was run."""
        with recorded():
            handler = self.roster.find(given.handler)
            with Heartbeat(given.version) as heartbeat:
                if given.version:
                    return sparse(await _iterate(handler, given, heartbeat))
                return sparse(await self._first(handler, given, heartbeat))

    @activity.defn(name=CLOSE_RUN)
    async def close_run(self, given: CloseInput) -> dict[str, Any]:
        """End a run as failed or cancelled. One that is over stays what it is."""
        with recorded():
            handler = self.roster.find(given.handler, last=activity.info().attempt >= LAST_CLOSE)
            run_id = given.run_id
            if run_id is None and given.start is not None:
                run_id = (await _create(handler, given.start)).run_id
            error = RunError(type=given.error[0], message=given.error[1]) if given.error else None
            by = activity.info().workflow_run_id or ""  # a second attempt ends no run that was retried since
            state = await handler.close_run(run_id or "", given.status, error, by)
            return sparse(replace(standing(state, by_value=given.by_value), run_id=state.run_id))

    @activity.defn(name=DELIVER)
    async def deliver(self, given: DeliverInput) -> None:
        """Put a message that came by value into the run's inbox."""
        with recorded():
            handler = self.roster.find(given.handler, last=activity.info().attempt >= LAST_DELIVERY)
            await handler.send(given.run_id, given.text, request_id=given.request_id)

    async def _first(self, handler: PromptHandler, given: IterationInput, heartbeat: Heartbeat) -> Report:
        """The first iteration of a workflow: a run that is over already is left alone.

        A later attempt may be an old one, which a worker that was frozen starts when the workflow has long
        gone on. Where an iteration is complete it can't tell, and only reports.
        """
        state = await handler.get_run(given.run_id)
        facts = await self._facts(handler, state)
        if state.over:
            report = standing(state, by_value=given.by_value)
            return replace(report, facts=facts, stale=activity.info().attempt == 1)
        if state.iteration and activity.info().attempt > 1:
            return replace(standing(state, by_value=given.by_value), facts=facts)
        given.iteration = state.iteration + 1
        report = await _iterate(handler, given, heartbeat)
        report.facts = facts
        return report

    async def _facts(self, handler: PromptHandler, state: RunState) -> dict[str, Any]:
        facts = {"model": handler.model.model[:255], "session": (state.session_id or "")[:255]}
        search = await self.roster.search_attributes(activity.client())
        return {key: value for key, value in {**facts, "search": search}.items() if value}


async def _create(handler: PromptHandler, given: StartInput) -> RunState:
    """Create the run, or find it: its id follows from the workflow's."""
    info = activity.info()
    return await handler.create_run(
        given.prompt,
        session_id=given.session_id,
        user_id=given.user_id,
        metadata=given.metadata,
        request_id=request_id_of(info.namespace, info.workflow_id or "", given.execution),
        driver=Driver(executor="temporal", workflow_id=info.workflow_id),
    )


async def _iterate(handler: PromptHandler, given: IterationInput, heartbeat: Heartbeat) -> Report:
    try:
        result = await handler.run_iteration(given.run_id, given.iteration, _attempt(given, heartbeat))
    except SupersededError:
        state = await handler.get_run(given.run_id)
        report = standing(state, by_value=given.by_value)
        return report if state.over else replace(report, status="in_progress", wait=LOOK_AGAIN)
    except ModelUnavailableError as exc:
        asked = retry_after(exc) or 0.0
        if asked <= LONGEST_RETRY:
            raise
        wait = round(retry_delay(activity.info().attempt, asked), 3)
        reason = str(exc)[:MESSAGE]
        return Report("waiting", given.iteration, heartbeat.version, wait=wait, reason=reason)
    report = of_result(result)
    if result.status not in OVER:
        return report
    end = standing(await handler.get_run(given.run_id), by_value=given.by_value)
    return replace(end, tools=report.tools, tokens=report.tokens)


def _attempt(given: IterationInput, heartbeat: Heartbeat) -> Attempt:
    """One scope for all attempts of an activity: Temporal starts one at a time, but stops no frozen one."""
    info = activity.info()
    return Attempt(
        driver="temporal",
        scope=f"{info.workflow_run_id}/{info.activity_id}",
        number=info.attempt,
        serialised=True,
        lane=given.lane,
        version=heartbeat.version,
        acknowledged=heartbeat.acknowledged,
        watch=WATCH,
    )
