"""The Lambda executor in AWS's own runtime client, its events delivered more than once and out of order."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lambda_platform import LambdaPlatform, running
from proofs.agent import (
    AFTER_COMMIT,
    AFTER_REPLY,
    DURING_TOOL,
    prompt,
)
from proofs.ledger import Ledger
from proofs.violations import Ended, violations

from thoughtgear.models import RunState
from thoughtgear.registry import open_store

STEPS = 4
SECONDS = 60.0


class Case:
    """A function over a store of its own, and what it did."""

    def __init__(self, folder: Path, store: str = "sqlite", fault: Any = None, **options: Any) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder}/runs.db" if store == "sqlite" else f"files:///{folder}/runs"
        self.ledger = Ledger(folder / "ledger.jsonl")
        environment = {"TESTS_FOLDER": str(folder), "THOUGHTGEAR_DB": self.url}
        if fault is not None:
            environment |= {"TESTS_FAULT": json.dumps(fault), "TESTS_CLAIM_SECONDS": "1"}
        self.log = folder / "function.log"
        self.platform = LambdaPlatform(environment, self.log, **options)
        self.text = prompt("lambda", STEPS)

    def start(self) -> None:
        self.platform.fire({"action": "start", "text": self.text, "requestId": "r1"})

    async def until(self, what: Callable[[], Any]) -> Any:
        """Wait for something to be so, and return it."""
        try:
            async with asyncio.timeout(SECONDS):
                while not (found := what()):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(self.log.read_text()[-3000:]) from None
        return found

    async def ended(self) -> RunState:
        """The run, once it is over and no event is left."""
        await self.until(lambda: self.platform.idle)
        store = open_store(self.url)
        [run] = (await store.list_runs()).runs
        self.history = await store.get_history(run.run_id)
        await store.aclose()
        return run

    async def wrong(self, run: RunState, **facts: Any) -> list[str]:
        """What is wrong with the run."""
        return await violations(Ended(self.text, STEPS, run, self.history, **facts), self.ledger)

    def continued(self) -> list[int]:
        """The epochs of the events that the executor fired."""
        return [each.payload["epoch"] for each in self.platform.fired if each.payload["action"] == "continue"]


@pytest.mark.parametrize("store", ["sqlite", pytest.param("files", marks=pytest.mark.long)])
async def test_a_run_is_one_chain_of_events(tmp_path: Path, store: str) -> None:
    """A prompt that came as an event is answered by one invocation per iteration, and one that stored it."""
    case = Case(tmp_path, store)
    with running(case.platform):
        case.start()
        run = await case.ended()
    assert await case.wrong(run) == []
    assert case.platform.errors() == []
    assert case.continued() == list(range(STEPS + 1))
    assert run.driver.executor == "lambda"


async def test_every_event_twice_is_still_one_chain(tmp_path: Path) -> None:
    """Of two deliveries of each event, also at the same time and in two processes, one is used: nothing is
    bought or done twice."""
    case = Case(tmp_path, instances=2, copies=2)
    with running(case.platform):
        case.start()
        run = await case.ended()
    assert await case.wrong(run) == []
    assert max(each.delivered for each in case.platform.fired) >= 2
    fired = Counter(case.continued())
    assert set(fired) == set(range(STEPS + 1))
    assert len(case.ledger.notes("reply")) == STEPS + 1


@pytest.mark.long
async def test_old_events_fire_nothing(tmp_path: Path) -> None:
    """Events that come late and out of order, in the middle of a run and after its end, begin no chain."""
    case = Case(tmp_path)
    platform = case.platform
    with running(platform):
        case.start()
        await case.until(lambda: len(case.continued()) >= 3)
        platform.held.set()
        await case.until(lambda: len(platform.answers) >= len(platform.fired) - 1)
        old = [each for each in reversed(platform.fired) if each.payload.get("epoch") != case.continued()[-1]]
        fired = len(platform.fired)
        for event in old:
            platform.fire(event.payload)
        platform.held.clear()
        run = await case.ended()
        again = list(platform.fired)
        for event in again:
            platform.fire(event.payload)
        await case.ended()
    assert await case.wrong(run) == []
    assert len(old) >= 2
    assert fired > 2
    assert Counter(case.continued()).keys() == set(range(STEPS + 1))
    assert len(platform.fired) == 2 * (len(old) + STEPS + 2)
    assert platform.errors() == []


@pytest.mark.parametrize(
    ("point", "lost"),
    [
        pytest.param(AFTER_REPLY, 1, marks=pytest.mark.long),
        (DURING_TOOL, 0),
        pytest.param(AFTER_COMMIT, 0, marks=pytest.mark.long),
    ],
    ids=["reply", "tool", "commit"],
)
async def test_a_function_that_dies_goes_on(tmp_path: Path, point: str, lost: int) -> None:
    """The event of a process that is killed comes again, and the run goes on from its last commit, also where
    the next event was not yet fired."""
    case = Case(tmp_path, fault=("die", point, 3))
    with running(case.platform):
        case.start()
        run = await case.ended()
    assert case.platform.deaths == 1
    assert case.ledger.notes("fault", point=point)
    assert await case.wrong(run, lost=lost, unknown=None) == []


async def test_the_example_runs(tmp_path: Path) -> None:
    """The function of the example, as it is, answers a prompt."""
    folder = Path(__file__).parents[2] / "examples" / "lambda"
    environment = {
        "THOUGHTGEAR_DB": f"sqlite:///{tmp_path}/runs.db",
        "THOUGHTGEAR_MODEL": "scripted:echo",
        "PYTHONPATH": str(folder.parent),
    }
    case = Case(tmp_path)
    case.platform = LambdaPlatform(environment, case.log, folder=folder)
    with running(case.platform):
        case.start()
        run = await case.ended()
    assert (run.status, run.output) == ("done", case.text)
