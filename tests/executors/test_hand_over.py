"""Every executor goes on with what any other one began: the conformance suite of executors.

What a run did is in the ledger of its model and its tools, which no executor writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import pytest
from drivers import DRIVERS, WRAPPED, Driver, Scene
from proofs.agent import prompt
from proofs.violations import Ended, violations
from sqs_server import SqsServer
from temporalio.client import Client

from thoughtgear.devserver import DevServer

EVERY_DAY = [("temporal", "local"), ("sqs", "lambda")]
"""The pairs that are tried every day, beside those of the chain."""

PAIRS = [
    pytest.param(*pair, marks=[] if pair in EVERY_DAY else [pytest.mark.long])
    for pair in permutations(DRIVERS, 2)
]


@pytest.fixture
async def scene(tmp_path: Path, temporal: DevServer, sqs: SqsServer) -> Scene:
    return Scene(tmp_path, await Client.connect(temporal.address), sqs)


@pytest.mark.parametrize("name", [*DRIVERS, *WRAPPED])
async def test_an_executor_drives_a_run_to_its_end(scene: Scene, name: str) -> None:
    """Under each executor a run has the same transcript; each reply is bought once, and each payment is made
    once."""
    await _driven(scene, [name], steps=3)


@pytest.mark.parametrize(("first", "second"), PAIRS)
async def test_a_run_changes_its_executor(scene: Scene, first: str, second: str) -> None:
    """A run that one executor began, and was stopped in the middle of, is ended by another one: nothing is
    lost or doubled, also when the first one comes back with what it was told before."""
    await _driven(scene, [first, second], steps=4)


async def test_a_run_goes_through_all_executors(scene: Scene) -> None:
    """A run that was started locally is continued by Lambda, then by Temporal, then by SQS, two iterations
    each."""
    await _driven(scene, ["local", "lambda", "temporal", "sqs"], steps=7)


async def _driven(scene: Scene, names: Sequence[str], steps: int) -> None:
    drivers = [{**DRIVERS, **WRAPPED}[name](scene) for name in names]
    text = prompt("-".join(names), steps)
    run_id = await _begun(scene, drivers[0], text)
    for number, driver in enumerate(drivers, 1):
        last = driver is drivers[-1]
        await driver.drive(run_id, None if last else 2 * number)
        state = await scene.state(run_id)
        assert state.driver.executor == driver.name
        assert last or state.iteration == 2 * number
    ended = await scene.state(run_id)
    for driver in drivers:
        await driver.come_back()
    state = await scene.state(run_id)
    assert state == ended
    history = await scene.store.get_history(run_id)
    await scene.store.aclose()
    assert await violations(Ended(text, steps, state, history), scene.ledger) == []


async def _begun(scene: Scene, driver: Driver, text: str) -> str:
    async with scene.handler(driver.executor()) as handler:
        return (await handler.create_run(text)).run_id
