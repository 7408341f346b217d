"""Who may drive a run's next iteration, where events come late, twice, and out of order."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from called_function import Function

from thoughtgear import Done, Limits, OutcomeUnknownError, PromptHandler, tool
from thoughtgear.errors import (
    ExecutorUnavailableError,
    ModelRejectedError,
    ModelUnavailableError,
    RunBusyError,
    RunNotFoundError,
    StateRegressionError,
)
from thoughtgear.executors.turns import MOST_CUTS
from thoughtgear.models import Claim
from thoughtgear.providers.scripted import call


@tool
def double(number: int) -> int:
    """Double."""
    return 2 * number


DOUBLE = call("double", number=1)


def test_each_event_carries_the_next_epoch(function: Function) -> None:
    """A run of two iterations takes three events, each with the epoch at which it may be used."""
    function.make(DOUBLE, "2", tools=[double])
    run_id = function.start()
    seen = []
    while function.fired:
        seen.append(function.fired.pop(0))
        function(seen[-1])
    assert seen == [{"action": "continue", "runId": run_id, "epoch": epoch} for epoch in (0, 1)]
    assert function.run(run_id).output == "2"


def test_a_used_event_is_used_up(function: Function) -> None:
    """A copy of an event whose turn is over fires nothing and buys nothing, before the next one and after."""
    function.make(DOUBLE, DOUBLE, "2", tools=[double])
    function.start()
    first = function.fired.pop()
    function(first)
    assert function(first)["continues"] is False
    second = function.fired.pop()
    function(second)
    for old in (first, second):
        assert function(old)["continues"] is False
    assert (len(function.fired), len(function.asked)) == (1, 2)


def test_the_same_delivery_fires_again(function: Function) -> None:
    """An invocation that could not fire the next event fires it when it is delivered again."""
    function.make(DOUBLE, "2", tools=[double])
    run_id = function.start()
    event = function.fired.pop()
    function.broken = True
    with pytest.raises(ExecutorUnavailableError):
        function(event, name="one")
    function.broken = False
    function(event, name="one")
    assert [each["epoch"] for each in function.fired] == [1]
    function.drain()
    function(event, name="one")
    assert (function.run(run_id).status, function.fired, len(function.asked)) == ("done", [], 2)


def test_any_number_of_schedules_is_one_chain(function: Function) -> None:
    """Whoever schedules a run that is between two iterations fires events of one turn: one is used."""
    function.make(DOUBLE, DOUBLE, "2", tools=[double])
    run_id = function.start()
    function(function.fired.pop())
    for _ in range(5):
        asyncio.run(_schedule(function, run_id))
    events, function.fired[:] = list(function.fired), []
    assert [event["epoch"] for event in events] == [1] * 6
    for event in events:
        function(event)
    assert (len(function.asked), len(function.fired)) == (2, 1)


async def _schedule(function: Function, run_id: str) -> None:
    await function.handler.executor.schedule_next_iteration(run_id)


def test_an_event_of_a_person_takes_the_turn(function: Function) -> None:
    """`{"action": "continue", "runId": …}` without more goes on with the run, and the chain's own event then
    ends."""
    function.make(DOUBLE, "2", tools=[double])
    run_id = function.start()
    function(function.fired[0])
    own = function.fired[-1]
    function({"action": "continue", "runId": run_id})
    assert function.run(run_id).status == "done"
    assert function(own)["continues"] is False
    with pytest.raises(RunNotFoundError):
        function({"action": "continue", "runId": "nobody"})
    assert function({"action": "continue", "runId": "nobody", "epoch": 3})["continues"] is False


@pytest.mark.parametrize(
    ("driver", "deadline", "outcome"),
    [
        ("lambda", 60, "left alone"),
        ("lambda", -1, "taken"),
        ("local", 60, "comes again"),
        ("local", -1, "taken"),
    ],
)
def test_a_run_that_is_held(function: Function, driver: str, deadline: float, outcome: str) -> None:
    """A live claim of another invocation is left alone; one of another driver has Lambda deliver the event
    again, for that driver may have died; a claim that has run out is taken over."""
    function.make("hi")
    run_id = function.start()
    function.ask(lambda store: _held(store, run_id, driver, deadline))
    event = {"action": "continue", "runId": run_id, "epoch": 1}
    if outcome == "comes again":
        with pytest.raises(RunBusyError):
            function(event)
    else:
        assert function(event)["continues"] is False
    assert len(function.asked) == (outcome == "taken")


async def _held(store: Any, run_id: str, driver: str, seconds: float) -> None:
    state = await store.load_run(run_id)
    claim = Claim(epoch=1, owner="somebody/1", driver=driver, deadline=time.time() + seconds)
    await store.save_run(state.model_copy(update={"claim": claim, "version": state.version + 1}), [])


def test_an_event_from_the_future_is_refused(function: Function) -> None:
    """Where a store knows an older epoch than the event it has gone back: nothing is bought."""
    function.make("hi")
    run_id = function.start()
    with pytest.raises(StateRegressionError):
        function({"action": "continue", "runId": run_id, "epoch": 7})
    assert not function.asked


def test_a_provider_that_is_busy_is_asked_again(function: Function) -> None:
    """After a retryable error the next event comes when the provider has asked for it, with the failures."""
    busy = ModelUnavailableError("HTTP 429", retry_after=0.05)
    function.make(busy, busy, "hi")
    run_id = function.start()
    function(function.fired.pop())
    [event] = function.fired
    assert (event["epoch"], event["failures"]) == (1, 1)
    assert event["notBefore"] > time.time() - 60
    function.drain()
    assert (function.run(run_id).output, len(function.asked)) == ("hi", 3)


def test_a_long_wait_is_handed_on(function: Function) -> None:
    """A wait that is longer than an invocation is handed from one to the next: nothing is bought meanwhile, a
    copy of a waiting event begins no second wait, and a schedule ends the wait."""
    function.make(ModelUnavailableError("HTTP 429", retry_after=3600), "hi")
    run_id = function.start()
    function(function.fired.pop(), seconds=0.5)
    first = function.fired.pop()
    function(first, seconds=0.05)
    assert function(first, seconds=0.05)["continues"] is False
    [second] = function.fired
    assert (second["epoch"], second["failures"], len(function.asked)) == (2, 1, 1)
    assert second["notBefore"] - first["notBefore"] == pytest.approx(0, abs=1)
    asyncio.run(_schedule(function, run_id))
    function(function.fired.pop())
    assert function.run(run_id).output == "hi"
    assert function(second)["continues"] is False


def test_a_wait_that_is_delivered_again_keeps_its_end(function: Function) -> None:
    """An invocation that died after it had passed a wait on, and before it could fire, fires with what is
    left when it is delivered again."""
    function.make(ModelUnavailableError("HTTP 429", retry_after=3600), "hi")
    function.start()
    function(function.fired.pop(), seconds=0.5)
    waits = function.fired.pop()
    function.broken = True
    with pytest.raises(ExecutorUnavailableError):
        function(waits, name="one", seconds=0.1)
    function.broken = False
    function(waits, name="one", seconds=0.1)
    [event] = function.fired
    assert event["notBefore"] == pytest.approx(waits["notBefore"], abs=1)
    assert (event["epoch"], event["failures"], len(function.asked)) == (2, 1, 1)


def test_a_run_that_is_queued_is_looked_at_again(function: Function) -> None:
    """A run behind another one of its session waits without a model call, in one chain, and then goes on."""
    function.make(DOUBLE, "one", "two", tools=[double])
    first = function.start("first", sessionId="s")
    second = function.start("second", sessionId="s")
    [one, two] = function.fired
    function.fired.clear()
    function(two)
    woken, again = function.fired  # whoever waits wakes the run that it waits for, if nobody has begun it
    assert (woken, again["runId"], again["epoch"], function.asked) == (one, second, 1, [])
    assert function(two)["continues"] is False
    function.fired[:] = [again, one]
    function.drain()
    assert (function.run(first).output, function.run(second).output) == ("one", "two")
    assert len(function.asked) == 3


def test_an_error_that_no_retry_mends_ends_the_run(function: Function) -> None:
    """What the model rejects fails the run with its reason, and no event is fired."""
    function.make(ModelRejectedError("HTTP 400"))
    run_id = function.start()
    function(function.fired.pop())
    state = function.run(run_id)
    assert (state.status, state.error and state.error.type) == ("failed", "ModelRejectedError")
    assert not function.fired


def test_an_iteration_without_time_fails_in_the_end(function: Function) -> None:
    """An iteration that never fits into an invocation is cut off, gives its claim back, and after three times
    the run fails with what to do."""

    async def slow(request: Any) -> str:
        await asyncio.sleep(60)
        return "late"

    function.make(slow, slow, slow)
    run_id = function.start()
    for cuts in range(1, MOST_CUTS + 1):
        event = function.fired.pop()
        function(event, seconds=0.1)
        assert not function.run(run_id).claim.owner
        assert len(function.asked) == cuts
    error = function.run(run_id).error
    assert error
    assert (error.type, "SQS or Temporal" in error.message) == ("IterationCutOffError", True)
    assert not function.fired


def test_a_failure_is_no_cut(function: Function) -> None:
    """A provider that was busy twice leaves a run all of its cuts, and a failure in between has them count
    anew."""
    busy = ModelUnavailableError("HTTP 429", retry_after=0.0)

    async def slow(request: Any) -> str:
        await asyncio.sleep(60)
        return "late"

    function.make(busy, busy, *[slow] * (MOST_CUTS - 1), busy, *[slow] * (MOST_CUTS - 1), "hi")
    run_id = function.start()
    while function.fired:
        function({**function.fired.pop(0), "notBefore": 0.0}, seconds=0.5)
    assert function.run(run_id).output == "hi"


def test_what_comes_again_after_a_success_has_no_failures(function: Function) -> None:
    """An invocation that succeeded after failures, or cuts, and died before it could fire, fires an event
    without them when it is delivered again; one that failed itself fires those that it came with."""
    busy = ModelUnavailableError("HTTP 429", retry_after=0.0)
    for failed in (False, True):
        function.make(busy, busy if failed else DOUBLE, "2", tools=[double])
        function.start()
        function(function.fired.pop())
        counted = {**function.fired.pop(), "cuts": MOST_CUTS - 1, "notBefore": 0.0}
        function.broken = True
        with pytest.raises(ExecutorUnavailableError):
            function(counted, name=f"one {failed}")
        function.broken = False
        function(counted, name=f"one {failed}")
        event = function.fired.pop()
        assert (event.get("failures", 0), event.get("cuts", 0)) == ((1, MOST_CUTS - 1) if failed else (0, 0))


def test_an_iteration_that_is_cut_off_keeps_what_is_done(function: Function) -> None:
    """A reply that was saved before the time was over is not bought again, and the count begins anew."""
    tries = []

    @tool
    async def dawdle() -> str:
        """Take long, at first."""
        tries.append(1)
        await asyncio.sleep(60 if len(tries) == 1 else 0)
        return "done"

    function.make(call("dawdle"), "hi", tools=[dawdle])
    run_id = function.start()
    function(function.fired.pop(), seconds=0.5)
    assert [event.get("failures", 0) for event in function.fired] == [0]
    function.drain()
    assert (function.run(run_id).output, len(function.asked), len(tries)) == ("hi", 2, 2)


def test_who_waits_for_a_person_costs_nothing(function: Function) -> None:
    """A run that waits for a person has no event; the decision fires one."""

    @tool(policy="at_most_once", on_unknown="ask_person")
    def pay() -> str:
        """Pay."""
        raise OutcomeUnknownError

    function.make(call("pay"), "paid", tools=[pay])
    run_id = function.start()
    function.drain()
    assert function.run(run_id).status == "waiting"

    async def settle() -> None:
        async with PromptHandler(
            model="scripted:echo", db=function.url, executor=function.executor()
        ) as desk:
            await desk.settle(run_id, "1.0", Done("yes"))

    asyncio.run(settle())
    function.drain()
    assert function.run(run_id).output == "paid"


def test_a_limit_ends_the_run(function: Function) -> None:
    """The limits of a run hold from invocation to invocation."""
    function.make(*[DOUBLE] * 5, tools=[double], limits=Limits(iterations=2))
    run_id = function.start()
    function.drain()
    error = function.run(run_id).error
    assert error
    assert (error.type, len(function.asked)) == ("LimitExceededError", 2)
