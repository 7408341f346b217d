"""Clients: each prompts, sends, cancels or settles, and insists until it is told that it is done."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import cache
from typing import Any

from simulation.ledger import MARK, Sent
from simulation.shop import receipt
from simulation.world import PATIENCE, World
from thoughtgear import Done, PromptHandler, Void
from thoughtgear.errors import InvalidInputError
from thoughtgear.executors.local import LocalExecutor
from thoughtgear.ids import run_id_for
from thoughtgear.models import RunState

Actor = Callable[[World], Coroutine[Any, Any, None]]

LOOK = 0.25
"""Seconds between two looks of an actor at what it waits for."""


@cache
def run_of(request_id: str) -> str:
    """The id of the run of a prompt."""
    return run_id_for("default", None, request_id)


def prompts(text: str, *, at: float = 0.0, **options: Any) -> Actor:
    """A client that prompts; locally its process drives the run, too."""

    async def actor(world: World) -> None:
        sent = Sent("prompt", text, MARK + text, run_of(text))
        await world.loop.tick(at)
        world.ledger.sent.append(sent)

        async def act(handler: PromptHandler) -> None:
            state = await handler.handle_prompt(sent.text, request_id=text, wait=False, **options)
            world.acknowledge(sent)
            await _see_to_its_end(handler, state)

        await world.insist(act)

    return actor


def sends(text: str, to: str, *, at: float) -> Actor:
    """A client that sends a message to the run of a prompt."""

    async def actor(world: World) -> None:
        run_id = run_of(to)
        sent = Sent("message", text, MARK + text, run_id)
        await _until(world, at, lambda: run_id in world.ledger.writes)
        world.ledger.sent.append(sent)

        async def act(handler: PromptHandler) -> None:
            state = await handler.send(run_id, sent.text, request_id=text)
            world.acknowledge(sent)
            await _see_to_its_end(handler, state)

        await world.insist(act)

    return actor


def cancels(request_id: str, *, at: float) -> Actor:
    """A client that cancels the run of a prompt, until it is over."""

    async def actor(world: World) -> None:
        run_id = run_of(request_id)
        sent = Sent("cancel", f"cancel {request_id}", "", run_id)
        await _until(world, at, lambda: run_id in world.ledger.writes)
        world.ledger.sent.append(sent)
        while not world.is_over(run_id) and world.loop.now < PATIENCE:
            await world.insist(lambda handler: handler.cancel(run_id))
            await world.loop.tick(5.0)
        world.acknowledge(sent)

    return actor


def retries(request_id: str) -> Actor:
    """A client that has the run of a prompt go on where it failed or was cancelled, until it is done."""

    async def actor(world: World) -> None:
        run_id = run_of(request_id)
        while (state := world.newest(run_id)) is None or state.status != "done":
            await world.loop.tick(1.0)
            if state is not None and state.over and state.status != "done":
                await world.insist(lambda handler: _retry(handler, run_id))
            if world.loop.now > PATIENCE:
                return

    return actor


async def _retry(handler: PromptHandler, run_id: str) -> None:
    with suppress(InvalidInputError):  # it is done meanwhile
        await _see_to_its_end(handler, await handler.retry(run_id, wait=False))


def starts_by_value(text: str) -> Actor:
    """Any Temporal client: it starts a workflow with a prompt."""

    async def actor(world: World) -> None:
        sent = Sent("prompt", text, MARK + text, "")
        world.ledger.sent.append(sent)
        world.driver.start_by_value(text, sent.text)
        world.acknowledge(sent)
        while not world.ledger.writes and world.loop.now < PATIENCE:
            await world.loop.tick(LOOK)

    return actor


def signals(text: str, to: str, *, at: float) -> Actor:
    """Any Temporal client: it signals a message to a workflow."""

    async def actor(world: World) -> None:
        await world.loop.tick(world.between(at, 3 * at))
        sent = Sent("message", text, MARK + text, "")
        if world.driver.signal_send(to, sent.text, text):
            world.ledger.sent.append(sent)
            world.acknowledge(sent)

    return actor


def settles(request_id: str) -> Actor:
    """A person who decides about whatever the run of a prompt asks: what the world outside says."""

    async def actor(world: World) -> None:
        run_id = run_of(request_id)
        while not world.is_over(run_id) and world.loop.now < PATIENCE:
            await world.loop.tick(LOOK)
            state = world.newest(run_id)
            for row in state.unsettled if state else ():
                await _settle(world, run_id, row.call.id, row.call.name)

    return actor


async def _settle(world: World, run_id: str, call_id: str, tool: str) -> None:
    key = f"{run_id}:{call_id}"
    done = any(effect.key == key for effect in world.ledger.effects)
    sent = Sent("settle", key, "done" if done else "void", run_id)
    if not done:
        world.ledger.voided.add(key)
    world.ledger.sent.append(sent)

    async def act(handler: PromptHandler) -> None:
        try:
            state = await handler.settle(run_id, call_id, Done(receipt(tool, key)) if done else Void("No."))
        except InvalidInputError:  # an earlier try has told it, and the run has gone on
            return
        world.acknowledge(sent)
        await _see_to_its_end(handler, state)

    await world.insist(act)


def takes_over(request_id: str, *, at: float) -> Actor:
    """Another process goes on with the run, by a loop of its own."""

    async def actor(world: World) -> None:
        run_id = run_of(request_id)
        await _until(world, at, lambda: run_id in world.ledger.writes)

        async def act(handler: PromptHandler) -> None:
            handler.executor = executor = LocalExecutor()
            executor.bind(handler)
            await handler.continue_run(run_id)

        await world.insist(act)

    return actor


async def _until(world: World, at: float, holds: Callable[[], bool]) -> None:
    await world.loop.tick(world.between(at, 3 * at))
    while not holds():
        await world.loop.tick(LOOK)


async def _see_to_its_end(handler: PromptHandler, state: RunState) -> None:
    """Stay while this very process drives the run."""
    if getattr(handler.executor, "waits", False) and not state.over:
        await handler.wait(state.run_id)
