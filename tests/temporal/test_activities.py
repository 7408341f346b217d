"""What the activities tell Temporal of errors, and of a run that someone else holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from world import World

from thoughtgear import errors, tool
from thoughtgear.activities.failures import recorded, to_failure
from thoughtgear.activities.iteration import RunActivities
from thoughtgear.activities.reports import NAMES, tool_names
from thoughtgear.activities.roster import Roster
from thoughtgear.models import Claim
from thoughtgear.payloads import IterationInput, sparse
from thoughtgear.providers.scripted import call


@tool
def look() -> str:
    """Look."""
    return "seen"


@pytest.mark.parametrize(
    ("raised", "retries", "delay"),
    [
        (errors.ModelUnavailableError("busy", retry_after=7), True, (7, 8)),
        (errors.ModelUnavailableError("busy"), True, (0.5, 1)),
        (errors.StoreUnavailableError("away"), True, (0.5, 1)),
        (errors.NewerFormatError(), True, (0.5, 1)),
        (errors.ModelRejectedError("no", status=401), False, None),
        (errors.StateRegressionError(), False, None),
        (errors.InvalidInputError("no"), False, None),
        (ValueError("secret"), False, None),
        (errors.ToolInputError("secret"), False, None),
    ],
)
def test_errors_are_mapped(raised: Exception, retries: bool, delay: tuple[float, float] | None) -> None:
    """Retryable errors are retried, and say when; of foreign errors the name alone is told."""
    with pytest.raises(ApplicationError) as caught, recorded():
        raise raised
    failure = caught.value
    told = failure.next_retry_delay
    assert (failure.type, failure.non_retryable) == (type(raised).__name__, not retries)
    assert delay[0] <= told.total_seconds() <= delay[1] if delay and told else told is delay
    assert "secret" not in str(failure)
    assert failure.__cause__ is None
    assert failure.__suppress_context__


def test_messages_are_cut() -> None:
    """A long message is cut: it stays in the history for good."""
    assert len(to_failure(errors.StoreError("x" * 10_000)).message) == 500


def test_names_of_tools_are_bounded() -> None:
    """However many tools an iteration calls and however long their names, the report is small."""
    shown = tool_names(["n" * 100] * 64)
    assert (len(shown), shown[-1], len(shown[0])) == (NAMES + 1, f"+{64 - NAMES}", 64)


async def test_a_held_run_is_looked_at_later(world: World) -> None:
    """When another attempt took the run over, the activity reports so and does not fail."""
    handler = world.handler(["Never said."], executor=None)
    state = await handler.create_run("Hello")

    async def taken_over(*_: object) -> None:
        raise errors.SupersededError

    held = replace(IterationInput(state.run_id, 1, version=state.version))
    handler.run_iteration = taken_over  # type: ignore[method-assign,assignment] # stands for the other attempt
    report = await ActivityEnvironment().run(RunActivities(Roster([handler])).run_iteration, held)
    assert (report["status"], report["wait"]) == ("in_progress", 1.0)


async def test_a_claimed_run_is_left_to_its_holder(world: World) -> None:
    """An activity that meets another driver's live claim reports it and buys nothing."""
    handler = world.handler(["Never said."], executor=None)
    state = await handler.create_run("Hello")
    claimed = state.model_copy(
        update={
            "version": state.version + 1,
            "claim": Claim(epoch=1, owner="someone/1", driver="local", deadline=9e9),
        }
    )
    await handler.store.save_run(claimed, [])
    given = IterationInput(state.run_id, 1, version=claimed.version)
    report = await ActivityEnvironment().run(RunActivities(Roster([handler])).run_iteration, given)
    assert report["status"] == "in_progress"
    assert await handler.get_run(state.run_id) == claimed
    assert world.replies_bought() == 0


async def test_an_old_first_attempt_only_reports(world: World) -> None:
    """A retry of a workflow's first activity that comes when an iteration is complete runs none: it may be
    one that a worker was frozen with, and the workflow is further on."""
    handler = world.handler([[call("look")], "Done."], tools=[look], executor=None)
    state = await handler.create_run("Hello")
    environment = ActivityEnvironment(client=world.client)
    activities = RunActivities(Roster([handler]))
    first = await environment.run(activities.run_iteration, IterationInput(state.run_id, 1))
    environment.info = replace(environment.info, attempt=2)
    again = await environment.run(activities.run_iteration, IterationInput(state.run_id, 1))
    assert world.replies_bought() == 1
    assert (again["iteration"], again["version"]) == (first["iteration"], first["version"])
    assert "status" not in again or again["status"] == "running"


def test_defaults_are_not_sent() -> None:
    """What crosses into Temporal holds only what differs from the defaults."""
    assert sparse(IterationInput("r", 1)) == {"run_id": "r", "iteration": 1}
