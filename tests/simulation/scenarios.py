"""What the experiments are about: a script for the model, who drives, and what clients do meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from simulation.actors import (
    Actor,
    cancels,
    prompts,
    retries,
    sends,
    settles,
    signals,
    starts_by_value,
    takes_over,
)
from simulation.ledger import MARK
from simulation.local import Local
from simulation.queue import Queue
from simulation.shop import TOOLS
from simulation.temporal import Temporal
from simulation.transcripts import MODEL_SECONDS
from thoughtgear import Limits, Tool
from thoughtgear.models import Message
from thoughtgear.protocols import RequestedCall

Script = Callable[[Sequence[Message]], tuple[str, Sequence[RequestedCall]]]
"""Text and calls of the next reply, from the messages of the run so far."""

LATE = "late"
"""With it begins a message that may become a run of its own, which asks for no tool."""


@dataclass(frozen=True)
class Scenario:
    """One experiment without its faults.

    `ends` are the statuses that runs may end with. `steady`: nobody interferes, so that every transcript is
    the fault-free one. `handed`: two drivers may work on a run at once, which may cost a reply. `by_value`:
    the prompt, and what is signalled, is in Temporal's history. `long`: Temporal finds its history long soon.
    """

    name: str
    driver: Callable[[Any], Any]
    actors: Sequence[Actor]
    script: Script
    ends: frozenset[str] = frozenset(("done",))
    steady: bool = False
    handed: bool = False
    by_value: bool = False
    long: bool = False
    limits: Limits = field(default_factory=lambda: Limits(model_seconds=MODEL_SECONDS))
    tools: Sequence[Tool] = field(default_factory=lambda: TOOLS)

    def __str__(self) -> str:
        return self.name


def rounds(*calls: Sequence[str]) -> Script:
    """A script: so many rounds of these tools, then an answer that tells all that the model was told."""

    def say(messages: Sequence[Message]) -> tuple[str, Sequence[RequestedCall]]:
        said = sum(message.role == "assistant" for message in messages)
        if said < len(calls) and not messages[0].text.startswith(MARK + LATE):
            return f"{MARK}round {said}", [_call(name, said, place) for place, name in enumerate(calls[said])]
        return MARK + told(messages), []

    return say


def told(messages: Sequence[Message]) -> str:
    """What the model was told: the texts in their order, and how the calls ended, in that of the calls."""
    texts = [message.text for message in messages if message.role == "user"]
    results = sorted(
        (message.tool_result.call_id, message.tool_result.status)
        for message in messages
        if message.tool_result
    )
    return json.dumps([texts, results], ensure_ascii=False)


@cache
def _call(name: str, said: int, place: int) -> RequestedCall:
    what = "the same" if name == "fetch" else f"{said}.{place}"
    return RequestedCall(name, json.dumps({"what": MARK + what}))


SMALL = rounds(("pay", "look"))
LONGER = rounds(("look",), ("pay", "note", "note"), ("look", "look"))


def _for(driver: Callable[[Any], Any]) -> list[Scenario]:
    """The scenarios that every driver goes through."""
    name = driver.name  # type: ignore[attr-defined]
    talk = [sends("b", "a", at=0.8), sends("c", "a", at=2.0), sends(f"{LATE} d", "a", at=4.0)]
    pair = [prompts("a", session_id="s", stream=True), prompts("b", session_id="s", at=0.1)]
    cut = rounds(("pay", "look"), ("note", "note"))
    return [
        Scenario(f"small-{name}", driver, [prompts("a")], SMALL, steady=True),
        Scenario(f"mail-{name}", driver, [prompts("a"), *talk], LONGER, long=True),
        Scenario(
            f"cancel-{name}",
            driver,
            [prompts("a"), cancels("a", at=0.7)],
            cut,
            ends=frozenset(("done", "cancelled")),
        ),
        Scenario(
            f"retry-{name}", driver, [prompts("a"), cancels("a", at=0.7), retries("a")], cut, handed=True
        ),
        Scenario(
            f"person-{name}", driver, [prompts("a"), settles("a")], rounds(("sign", "look")), steady=True
        ),
        Scenario(
            f"fail-{name}",
            driver,
            [prompts("a"), sends("b", "a", at=0.8)],
            rounds(("wire", "look"), ("wire",)),
            ends=frozenset(("done", "failed")),
        ),
        Scenario(
            f"bank-{name}", driver, [prompts("a")], rounds(("book", "transfer"), ("transfer",)), steady=True
        ),
        Scenario(f"session-{name}", driver, pair, rounds(("fetch",), ("fetch",)), steady=True),
        Scenario(
            f"limit-{name}",
            driver,
            [prompts("a"), sends("b", "a", at=0.8)],
            rounds(("look",), ("pay",), ("look",)),
            ends=frozenset(("failed",)),
            limits=Limits(model_seconds=MODEL_SECONDS, iterations=2),
        ),
    ]


VALUE = [starts_by_value("a"), signals("b", "a", at=0.3), signals("c", "a", at=1.0)]

SCENARIOS = {
    scenario.name: scenario
    for scenario in [
        *_for(Temporal),
        *_for(Local),
        *_for(Queue),
        Scenario("handover", Temporal, [prompts("a"), takes_over("a", at=0.5)], LONGER, handed=True),
        Scenario("value", Temporal, VALUE, LONGER, by_value=True, long=True),
    ]
}

ENUMERATED = ("small-temporal", "small-local", "small-queue")
"""Those of which every schedule of two faults is tried."""

RARE = tuple(
    f"{name}:{when}" for name in ("get_document", "put_document", "reconcile") for when in ("before", "after")
)
"""The points that none of these passes."""

PASS_RARE = ("session-local", "bank-queue")
"""Scenarios that pass those."""
