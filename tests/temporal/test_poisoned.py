"""Runs that can't go on fail alone and say why; the others on their worker notice nothing."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError
from world import World, chain, of_type

from thoughtgear import Callbacks, PromptHandler, RunState, tool
from thoughtgear.errors import StoreError
from thoughtgear.protocols import ModelReply
from thoughtgear.providers.scripted import call

OTHERS = 20
SECRET = "canary"


@tool
async def look(path: str) -> str:
    """Look at a file."""
    await asyncio.sleep(0.05)
    return "seen"


@tool
async def leave() -> str:
    """Leave the program, as a command line does that was made a tool."""
    sys.exit(3)


def raising(error: BaseException) -> Callable[..., Any]:
    def function(*_: Any) -> Any:
        raise error

    return function


async def cancel_myself(*_: Any) -> str:
    raise asyncio.CancelledError


@dataclass(frozen=True)
class Poison:
    """What is wrong with a run, and the error that it ends with."""

    kind: str
    says: str
    said: Any = "Never said."
    options: dict[str, Any] = field(default_factory=dict)
    damage: str = ""

    async def prepare(self, world: World, name: str) -> tuple[PromptHandler, RunState]:
        """Schedule the run, and damage its record before a worker comes."""
        handler = world.handler([self.said], name=name, **self.options)
        state = await handler.handle_prompt(f"Hello {SECRET}")
        if self.damage:
            with sqlite3.connect(world.folder / "runs.db") as database:
                assert database.execute(self.damage, (state.run_id,)).rowcount == 1
        return handler, state


def context(made: Any) -> dict[str, Any]:
    return {"context": made}


LOGGED = "log has the details"
EXITS = raising(SystemExit(1))
UNASKED = "raised CancelledError, and nobody had cancelled it"
POISONS: dict[str, Poison] = {
    "a-context-that-raises": Poison("KeyError", LOGGED, options=context(raising(KeyError(SECRET)))),
    "a-context-that-exits": Poison("ConfigurationError", "SystemExit", options=context(EXITS)),
    "a-context-that-cancels": Poison("ConfigurationError", UNASKED, options=context(cancel_myself)),
    "a-context-that-is-no-text": Poison("ConfigurationError", "not a text", options=context(lambda _: 5)),
    "a-provider-that-raises": Poison("RuntimeError", LOGGED, raising(RuntimeError(SECRET))),
    "a-provider-that-exits": Poison("ConfigurationError", "SystemExit", EXITS),
    "a-provider-that-cancels": Poison("ConfigurationError", UNASKED, cancel_myself),
    "a-text-that-is-none": Poison("TypeError", LOGGED, lambda _: ModelReply(text=None, model="m")),  # type: ignore[arg-type]
    "damaged-messages": Poison(
        "StoreError", "Message is damaged", damage="UPDATE messages SET body = 'canary' WHERE run_id = ?"
    ),
    "a-damaged-state": Poison(
        "StoreError", "RunState is damaged", damage="UPDATE run_states SET body = '{}' WHERE run_id = ?"
    ),
}  # fmt: skip


async def test_poisoned_runs_fail_alone(world: World) -> None:
    """Runs whose record, context function or provider is broken fail with that reason in Temporal and, as far
    as it can be written, in the store; twenty others at work at the same time are never tried twice."""
    good = world.handler([[call("look", path="a")], "Done."], tools=[look])
    others = [await good.handle_prompt(str(number)) for number in range(OTHERS // 2)]
    prepared = {name: await poison.prepare(world, name) for name, poison in POISONS.items()}
    others += [await good.handle_prompt(str(number)) for number in range(OTHERS // 2)]
    async with world.worker(good, *(handler for handler, _ in prepared.values())):
        failures = {name: await failure(world, state.run_id) for name, (_, state) in prepared.items()}
        others = await asyncio.gather(*(good.wait(state.run_id, 60) for state in others))
        assert [await attempts(world, state.run_id) for state in others] == [{1}] * OTHERS
    assert {(state.status, state.model_replies, state.output) for state in others} == {("done", 2, "Done.")}
    for name, (handler, state) in prepared.items():
        poison, failed = POISONS[name], failures[name]
        assert (name, failed.type, SECRET in failed.message) == (name, poison.kind, False)
        assert poison.says in failed.message
        await check_store(handler, state.run_id, poison)


async def failure(world: World, run_id: str) -> ApplicationError:
    """How the run's workflow failed."""
    async with asyncio.timeout(30):
        with pytest.raises(WorkflowFailureError) as caught:
            await world.workflow(run_id).result()
    assert isinstance(caught.value.cause, ApplicationError)
    return caught.value.cause


async def attempts(world: World, run_id: str) -> set[int]:
    """At which attempts the run's activities were done."""
    [events] = await chain(world.workflow(run_id))
    started = of_type(events, "ACTIVITY_TASK_STARTED")
    return {event.activity_task_started_event_attributes.attempt for event in started}


async def check_store(handler: PromptHandler, run_id: str, poison: Poison) -> None:
    """The store says the same; a record that can't be read is left as it is."""
    if "RunState" in poison.says:
        with pytest.raises(StoreError, match=poison.says):
            await handler.wait(run_id, 5)
        return
    state = await handler.get_run(run_id)
    assert (state.status, state.error and state.error.type) == ("failed", poison.kind)
    assert SECRET not in state.model_dump_json()


async def test_what_a_tool_or_a_callback_exits_is_not_the_worker(world: World) -> None:
    """`SystemExit` in a tool is the call's result, in a callback a line of the log; the run goes on."""
    callbacks = Callbacks(on_tool_end=EXITS, on_iteration=EXITS)
    handler = world.handler([[call("leave")], "Done."], tools=[leave], callbacks=callbacks)
    async with world.worker(handler):
        state = await handler.handle_prompt("Hello")
        state = await handler.wait(state.run_id, 20)
    results = [m.tool_result for m in await handler.history(state.run_id) if m.tool_result]
    assert [(result.status, result.content) for result in results] == [("error", "SystemExit: 3")]
    assert (state.status, world.replies_bought()) == ("done", 2)
