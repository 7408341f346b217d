"""The world outside: tools whose effects the ledger keeps, and a bank that settles what became of a key."""

from __future__ import annotations

from datetime import timedelta

from simulation.ledger import MARK, Effect
from simulation.process import PROCESS
from thoughtgear import Done, Tool, Void, tool
from thoughtgear.errors import OutcomeUnknownError
from thoughtgear.outcomes import Outcome
from thoughtgear.tools import ToolContext


class VoidedError(Exception):
    """The bank refuses this key for good."""


def receipt(name: str, key: str) -> str:
    """Return what a tool returns: the same for the same call, whoever runs it."""
    return f"{MARK}{name} {key}"


async def take_effect(name: str, key: str) -> str:
    """Change the world outside, once; a fault may come before and after."""
    process = PROCESS.get()
    world = process.world
    if fault := world.due("tool:before", process):
        await world.strike(fault, "tool:before", process)
    if key in world.ledger.voided:
        raise VoidedError
    world.ledger.effects.append(Effect(key, name, process, world.attempt(), world.loop.now))
    await world.loop.tick(world.between(0.1, 2.0))
    if fault := world.due("tool:after", process):
        await world.strike(fault, "tool:after", process)
    world.ledger.returned.add(key)
    return receipt(name, key)


async def ask_bank(key: str) -> Outcome:
    """Say what became of a key; one that is not known is refused from now on."""
    process = PROCESS.get()
    world = process.world
    if fault := world.due("reconcile:before", process):
        await world.strike(fault, "reconcile:before", process)
    taken = [effect for effect in world.ledger.effects if effect.key == key]
    if not taken:
        world.ledger.voided.add(key)
    await world.loop.tick(0.05)
    if fault := world.due("reconcile:after", process):
        await world.strike(fault, "reconcile:after", process)
    return Done(receipt(taken[0].tool, key)) if taken else Void("Refused.")


TIMEOUT = 40.0


@tool(policy="at_most_once", timeout=TIMEOUT)
async def pay(what: str, ctx: ToolContext) -> str:
    """At most once; what is unknown is told to the model."""
    return await take_effect("pay", ctx.idempotency_key)


@tool(timeout=TIMEOUT)
async def look(what: str, ctx: ToolContext) -> str:
    """May run again."""
    return await take_effect("look", ctx.idempotency_key)


@tool(policy="at_most_once", timeout=TIMEOUT, reconcile=ask_bank)
async def book(what: str, ctx: ToolContext) -> str:
    """At most once; the bank knows."""
    return await take_effect("book", ctx.idempotency_key)


@tool(policy="at_most_once", timeout=TIMEOUT, reconcile=ask_bank)
async def transfer(what: str, ctx: ToolContext) -> str:
    """At most once, and it never knows what came of it; the bank does."""
    await take_effect("transfer", ctx.idempotency_key)
    raise OutcomeUnknownError


@tool(policy="at_most_once", timeout=TIMEOUT, on_unknown="ask_person")
async def sign(what: str, ctx: ToolContext) -> str:
    """At most once; a person finds out."""
    return await take_effect("sign", ctx.idempotency_key)


@tool(policy="at_most_once", timeout=TIMEOUT, on_unknown="fail")
async def wire(what: str, ctx: ToolContext) -> str:
    """At most once; the run fails where it is unknown."""
    return await take_effect("wire", ctx.idempotency_key)


@tool(timeout=TIMEOUT, parallel=False)
async def note(what: str, ctx: ToolContext) -> str:
    """One after the other."""
    return await take_effect("note", ctx.idempotency_key)


@tool(timeout=TIMEOUT, cache=timedelta(hours=1))
async def fetch(what: str, ctx: ToolContext) -> str:
    """Its result is kept: it tells nothing of the call."""
    await take_effect("fetch", ctx.idempotency_key)
    return receipt("fetch", what)


TOOLS: list[Tool] = [pay, look, book, transfer, sign, wire, note, fetch]
AT_MOST_ONCE = frozenset(one.name for one in TOOLS if one.policy == "at_most_once")
