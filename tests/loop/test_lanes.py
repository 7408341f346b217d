"""Two drivers on one run, neither of which knows of the other."""

from __future__ import annotations

from typing import Any

import pytest

from thoughtgear import control
from thoughtgear.handler import PromptHandler
from thoughtgear.models import Claim, Driver
from thoughtgear.protocols import Attempt, ModelRequest
from thoughtgear.providers.scripted import ScriptedProvider, call
from thoughtgear.testing import FaultyStore
from thoughtgear.tools import tool

REPLIES = 6


@tool
async def double(number: int) -> int:
    """Double it."""
    return 2 * number


def attempt(driver: str, lane: str) -> Attempt:
    return Attempt(driver=driver, lane=lane, scope=f"{driver}-{lane}", serialised=driver == "temporal")


@pytest.mark.parametrize(
    "rivals",
    [[("temporal", "a"), ("temporal", "b")], [("temporal", "a"), ("local", "")]],
    ids=["lanes", "drivers"],
)
async def test_whoever_is_at_work_keeps_the_other_off(
    store: FaultyStore, rivals: list[tuple[str, str]]
) -> None:
    """Where two workflows, or two drivers, drive one run, every reply but the first is bought once, and also
    where the same one goes on: whoever is at work has claimed the run."""
    asked: list[Any] = []

    async def say(request: ModelRequest) -> Any:
        number = sum(message.role == "assistant" for message in request.messages)
        asked.append(number)
        if number:
            idle = await handlers[1 - turn].run_iteration(run.run_id, number + 1, attempt(*rivals[1 - turn]))
            assert idle.status == "in_progress"
        return call("double", number=number) if number < REPLIES - 1 else "done"

    handlers = [PromptHandler(orm=store, model=ScriptedProvider(replies=say), tools=[double]) for _ in rivals]
    run = await handlers[0].create_run("go")
    for number, turn in enumerate((0, 1, 1, 0, 0, 0), 1):
        result = await handlers[turn].run_iteration(run.run_id, number, attempt(*rivals[turn]))
    assert result.status == "done"
    assert asked == list(range(REPLIES))


async def test_one_workflow_needs_no_claim_of_its_own(store: FaultyStore) -> None:
    """Where one workflow alone drives a run, the claim comes with the reply: two commits per iteration."""
    handler = PromptHandler(
        orm=store, model=ScriptedProvider(replies=[[call("double", number=1)], "done"]), tools=[double]
    )
    run = await handler.create_run("go")
    for number in (1, 2):
        await handler.run_iteration(run.run_id, number, attempt("temporal", "a"))
    assert (await handler.get_run(run.run_id)).version == run.version + 3


async def test_a_retried_run_needs_no_claim_of_its_own(store: FaultyStore) -> None:
    """The workflow that drives a run after its retry is alone, whoever drove it before: two commits per
    iteration again."""

    calls = [call("double", number=number) for number in (1, 2)]
    handler = PromptHandler(orm=store, model=ScriptedProvider(replies=[*calls, "done"]), tools=[double])
    run = await handler.create_run("go")
    for number, lane in enumerate("ab", 1):
        await handler.run_iteration(run.run_id, number, attempt("temporal", lane))
    assert (await handler.get_run(run.run_id)).claim.contested
    await handler.close_run(run.run_id, "failed")
    again = await control.reopen_run(handler._agent, run.run_id, Driver(executor="temporal"))
    await handler.run_iteration(run.run_id, 3, attempt("temporal", "c"))
    ended = await handler.get_run(run.run_id)
    assert (ended.status, ended.version) == ("done", again.version + 1)


async def test_a_run_keeps_the_name_of_its_workflow(store: FaultyStore) -> None:
    """A run that came by value, and was driven by something else for a while, keeps its workflow's id."""
    handler = PromptHandler(orm=store, model=ScriptedProvider(replies=["done"]))
    run = await handler.create_run("go", driver=Driver(executor="temporal", workflow_id="order-7"))
    await handler.run_iteration(run.run_id, 1, attempt("local", ""))
    assert (await handler.get_run(run.run_id)).driver == Driver(executor="local", workflow_id="order-7")


async def test_a_claim_keeps_what_a_newer_worker_notes(store: FaultyStore) -> None:
    """A field of the claim that this version doesn't know is there after its commits."""
    handler = PromptHandler(orm=store, model=ScriptedProvider(replies=["done"]))
    run = await handler.create_run("go")
    newer = Claim.model_validate({"epoch": 1, "driver": "temporal", "novel": "kept"})
    await store.save_run(run.model_copy(update={"version": run.version + 1, "claim": newer}), [])
    await handler.run_iteration(run.run_id, 1, attempt("temporal", "a"))
    assert (await handler.get_run(run.run_id)).claim.model_dump()["novel"] == "kept"
