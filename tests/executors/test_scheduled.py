"""Runs at a pace, in this process and by events; tests/temporal/test_paced_runs.py has those of Temporal."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from called_function import Function

from thoughtgear import LambdaExecutor, LocalExecutor, PromptHandler, ScheduledExecutor, tool
from thoughtgear.doctor import Doctor
from thoughtgear.errors import ConfigurationError, ExecutorUnavailableError, ModelUnavailableError
from thoughtgear.models import Driver, RunState
from thoughtgear.providers.scripted import ScriptedProvider, call

HOUR = 3600.0


@tool
def double(number: int) -> int:
    """Double."""
    return 2 * number


DOUBLE = call("double", number=1)


class Model:
    """Says `replies` to each run, and notes when it was asked."""

    def __init__(self, *replies: Any) -> None:
        self.asked: list[float] = []
        self._replies = replies
        self.news = asyncio.Event()
        self.provider = ScriptedProvider(replies=self._say, name="paced")

    async def _say(self, request: Any) -> Any:
        self.asked.append(time.monotonic())
        self.news.set()
        return self._replies[sum(message.role == "assistant" for message in request.messages)]

    def handler(self, **options: Any) -> PromptHandler:
        return PromptHandler(model=self.provider, tools=[double], **{"db": "memory://", **options})


async def test_a_delay_is_between_the_iterations() -> None:
    """The first iteration begins at once, each further one so long after the one before."""
    model = Model([DOUBLE], [DOUBLE], "end")
    begin = time.monotonic()
    async with model.handler(executor=ScheduledExecutor(delay=0.3)) as handler:
        state = await handler.handle_prompt("go")
    assert (state.status, state.driver.executor) == ("done", "local")
    assert model.asked[0] - begin < 0.3
    assert all(b - a >= 0.29 for a, b in pairwise(model.asked))


async def test_a_rate_is_over_all_runs() -> None:
    """However many runs there are, no iteration begins before the rate allows for it, and all end."""
    model = Model([DOUBLE], "end")
    executor = ScheduledExecutor(LocalExecutor(), rate=(3, 0.6))
    begin = time.monotonic()
    async with model.handler(executor=executor) as handler:
        states = await asyncio.gather(*(handler.handle_prompt(f"go {number}") for number in range(5)))
    assert {state.status for state in states} == {"done"}
    assert len(model.asked) == 10
    assert all(asked - begin >= number // 3 * 0.6 for number, asked in enumerate(model.asked))


async def test_a_message_ends_a_delay_and_a_cancel_too() -> None:
    """A run that waits an hour reads a message within seconds, and waits again; a cancel ends it likewise."""
    model = Model([DOUBLE], [DOUBLE], [DOUBLE], "end")
    async with model.handler(executor=ScheduledExecutor(delay=HOUR)) as handler:
        run = await handler.handle_prompt("go", wait=False)
        for times in (1, 2):
            async with asyncio.timeout(60):
                while len(model.asked) < times:
                    model.news.clear()
                    await model.news.wait()
            if times == 1:
                await _until_iteration(handler, run.run_id, 1)
                await handler.send(run.run_id, "now")
        await _until_iteration(handler, run.run_id, 2)
        await handler.cancel(run.run_id)
        state = await handler.wait(run.run_id, timeout=60)
    assert (state.status, len(model.asked)) == ("cancelled", 2)


async def _until_iteration(handler: PromptHandler, run_id: str, number: int) -> None:
    async with asyncio.timeout(60):
        while (await handler.get_run(run_id)).iteration < number:
            await asyncio.sleep(0.01)


async def test_a_delay_goes_on_in_another_process(tmp_path: Path) -> None:
    """A run that is continued elsewhere in the middle of its delay waits for what is left of it."""
    model = Model([DOUBLE], "end")
    db = f"sqlite:///{tmp_path}/runs.db"
    async with model.handler(db=db, executor=ScheduledExecutor(delay=2)) as handler:
        run = await handler.handle_prompt("go", wait=False)
        await _until_iteration(handler, run.run_id, 1)
    async with model.handler(db=db, executor=ScheduledExecutor(delay=2)) as handler:
        state = await handler.continue_run(run.run_id)
    assert state.status == "done"
    assert 1.9 <= model.asked[1] - model.asked[0] < 10


async def test_an_executor_of_ones_own_waits(tmp_path: Path) -> None:
    """Where the inner executor only schedules, `continue_run` sits the delay out before it does."""

    class Own:
        name = "own"
        scheduled: list[float]

        def __init__(self) -> None:
            self.scheduled = []

        async def schedule_next_iteration(self, run_id: str) -> None:
            self.scheduled.append(time.monotonic())

    own, model = Own(), Model([DOUBLE], "end")
    async with model.handler(executor=ScheduledExecutor(own, delay=0.3)) as handler:
        run = await handler.handle_prompt("go")
        await handler.continue_run(run.run_id)
        state = await handler.continue_run(run.run_id)
    assert (state.status, state.output) == ("done", "end")
    assert len(own.scheduled) == 2
    assert own.scheduled[1] - model.asked[0] >= 0.29


def test_an_event_says_when_the_next_iteration_is_due(function: Function) -> None:
    """Under Lambda the next event has the delay; what comes before is handed on, a schedule ends it; and a
    delivery that died before it could fire fires with what is left of the delay."""
    function.make([DOUBLE], [DOUBLE], "end", tools=[double], executor=_paced(function, delay=HOUR))
    run_id = function.start()
    first = function.fired.pop()
    function.broken = True
    with pytest.raises(ExecutorUnavailableError):
        function(first, name="one", seconds=0.1)
    function.broken = False
    function(first, name="one", seconds=0.1)
    event = function.fired.pop()
    assert event["notBefore"] == pytest.approx(time.time() + HOUR, abs=30)
    function(event, seconds=0.1)
    [again] = function.fired
    assert (again["notBefore"], len(function.asked)) == (pytest.approx(event["notBefore"], abs=1), 1)
    function.fired.clear()
    function.broken = True
    with pytest.raises(ExecutorUnavailableError):
        function({**again, "notBefore": time.time() + 1}, name="two", seconds=0.1)  # another clock's
    function.broken = False
    function({**again, "notBefore": time.time() - 1}, name="two", seconds=0.1)
    assert function.fired.pop()["notBefore"] == pytest.approx(event["notBefore"], abs=1)
    asyncio.run(function.handler.executor.schedule_next_iteration(run_id))
    function(function.fired.pop(), seconds=0.1)
    assert len(function.asked) == 2
    assert function.run(run_id).driver == Driver(executor="lambda")


def test_a_repeated_prompt_ends_no_delay(function: Function) -> None:
    """A prompt whose request id is known fires no event for a run that is in a delay; a message does."""
    function.make([DOUBLE], "end", tools=[double], executor=_paced(function, delay=HOUR))
    run_id = asyncio.run(_prompt(function)).run_id
    function(function.fired.pop(), seconds=1)
    function.fired.clear()
    assert asyncio.run(_prompt(function)).run_id == run_id
    assert function.fired == []
    asyncio.run(function.handler.send(run_id, "now"))
    assert len(function.fired) == 1


async def _prompt(function: Function) -> RunState:
    return await function.handler.handle_prompt("go", request_id="again")


async def test_nobody_is_at_work_in_a_delay() -> None:
    """A local run in a long delay is not claimed, so that another driver can have it at once."""
    model = Model([DOUBLE], "end")
    async with model.handler(executor=ScheduledExecutor(delay=HOUR)) as handler:
        run = await handler.handle_prompt("go", wait=False)
        await _until_iteration(handler, run.run_id, 1)
        async with asyncio.timeout(20):
            while (await handler.get_run(run.run_id)).claim.owner:
                await asyncio.sleep(0.01)
        assert (await handler.run_iteration(run.run_id, 2)).status == "done"


async def test_a_run_in_a_delay_is_not_left_alone(tmp_path: Path) -> None:
    """The doctor does not take a run that is in a delay for one that nobody drives; when that is long over it
    does."""
    model, db = Model([DOUBLE], "end"), f"sqlite:///{tmp_path}/runs.db"
    async with model.handler(db=db, executor=ScheduledExecutor(delay=HOUR)) as handler:
        run = await handler.handle_prompt("go", wait=False)
        await _until_iteration(handler, run.run_id, 1)
    async with model.handler(db=db) as handler:
        state = await handler.get_run(run.run_id)
        doctor = Doctor(handler.store, settled=timedelta(seconds=-60))
        assert (await doctor.scan()).findings == []
        late = state.model_copy(update={"version": state.version + 1, "due_at": state.created_at})
        await handler.store.save_run(late, [])
        assert [each.kind for each in (await doctor.scan()).findings] == ["not driven"]


def test_an_event_has_its_place(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under Lambda a run that has no place yet is told when to ask, is told the same when a message wakes it,
    and begins when the place is there."""
    function.make([DOUBLE], "one", executor=_paced(function, rate=(1, HOUR)), tools=[double])
    first, second = function.start("one"), function.start("two")
    one, two = function.fired
    function.fired.clear()
    function(one, seconds=0.5)
    function(two, seconds=0.5)
    waits = {event["runId"]: event for event in function.fired}
    assert "notBefore" not in waits[first]
    assert waits[second]["notBefore"] == pytest.approx(time.time() + HOUR / 2, abs=100)
    function.fired.clear()
    asyncio.run(function.handler.executor.schedule_next_iteration(second))
    function(function.fired.pop(), seconds=0.5)
    [again] = function.fired
    assert again["notBefore"] == pytest.approx(waits[second]["notBefore"], abs=100)
    assert len(function.asked) == 1
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 2 * HOUR)
    monkeypatch.setattr("thoughtgear.pace.time", later)
    function({**again, "notBefore": 0.0})
    assert (len(function.asked), function.run(second).status) == (2, "done")


def test_what_is_tried_again_has_its_place(function: Function) -> None:
    """An attempt after an error is counted like any other: none begins before the rate allows for it."""
    busy = ModelUnavailableError("HTTP 429", retry_after=0.0)
    function.make(busy, "hi", executor=_paced(function, rate=(1, HOUR)))
    run_id = function.start()
    function(function.fired.pop())
    [event] = function.fired
    function({**event, "notBefore": 0.0}, seconds=0.1)
    event = function.fired.pop()
    assert (len(function.asked), event["failures"]) == (1, 1)
    assert event["notBefore"] > time.time() + 60
    assert function.run(run_id).status == "running"


async def test_a_message_in_a_line_wakes_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A local run that waits for its place with a message in its inbox waits once, and holds no claim."""
    model = Model([DOUBLE], "end")
    async with model.handler(executor=ScheduledExecutor(rate=(1, 4.0))) as handler:
        with caplog.at_level(logging.INFO, "thoughtgear"):
            run = await handler.handle_prompt("go", wait=False)
            await _until_iteration(handler, run.run_id, 1)
            await handler.send(run.run_id, "now")
            async with asyncio.timeout(60):
                while (await handler.get_run(run.run_id)).claim.live():
                    await asyncio.sleep(0.01)
            state = await handler.wait(run.run_id, timeout=60)
    assert state.status == "done"
    assert sum("the executor's pace" in record.message for record in caplog.records) <= 1


async def test_ones_own_executor_asks_for_a_place_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the inner executor only schedules, a long wait for a place is no long sleep: the next invocation
    asks again."""
    monkeypatch.setattr("thoughtgear.waiting.LONGEST_PAUSE", 0.01)

    class Own:
        name = "own"

        async def schedule_next_iteration(self, run_id: str) -> None:
            pass

    model = Model([DOUBLE], "end")
    async with model.handler(executor=ScheduledExecutor(Own(), rate=(1, HOUR))) as handler:
        run = await handler.handle_prompt("go")
        async with asyncio.timeout(60):
            for _ in range(4):
                state = await handler.continue_run(run.run_id)
    assert (state.status, len(model.asked)) == ("running", 1)


def _paced(function: Function, **pace: Any) -> ScheduledExecutor:
    return ScheduledExecutor(function.executor(), **pace)


def test_the_inner_executor_keeps_its_checks() -> None:
    """A store in one process's memory is refused for a remote executor at a pace, too."""
    with pytest.raises(ConfigurationError, match="LambdaExecutor needs a store"):
        Model("end").handler(executor=ScheduledExecutor(LambdaExecutor(print), delay=1))
