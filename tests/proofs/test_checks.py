"""The checks themselves: each finds what it is there for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proofs.agent import CANARY, Agent, ledger_of, prompt
from proofs.ledger import Ledger
from proofs.violations import Ended, secrets, violations
from thoughtgear.adapters.memory import MemoryAdapter
from thoughtgear.executors.local import LocalExecutor

STEPS = 3


async def right(ledger: Ledger) -> Ended:
    """A run to which nothing happened."""
    async with Agent(ledger).handler(MemoryAdapter(), LocalExecutor()) as handler:
        state = await handler.handle_prompt(prompt("right", STEPS))
        return Ended(prompt("right", STEPS), STEPS, state, await handler.history(state.run_id))


async def test_nothing_is_wrong_with_what_is_right(tmp_path: Path) -> None:
    """A run to which nothing happened violates nothing."""
    ledger = ledger_of(tmp_path)
    assert await violations(await right(ledger), ledger) == []


def without(ended: Ended, seq: int) -> Ended:
    return replace(ended, history=[message for message in ended.history if message.seq != seq])


def doubled(ended: Ended, seq: int) -> Ended:
    return replace(ended, history=[*ended.history, ended.history[seq]])


def changed(ended: Ended, seq: int, **fields: Any) -> Ended:
    message = ended.history[seq]
    result = message.tool_result.model_copy(update=fields) if message.tool_result else None
    history = list(ended.history)
    history[seq] = message.model_copy(update={"tool_result": result})
    return replace(ended, history=history)


BREAKS: dict[str, tuple[Callable[[Ended], Ended], str]] = {
    # what is broken in what the store shows, and what is said of it
    "a result is lost": (lambda ended: without(ended, 3), "calls without a result|no result before"),
    "a reply is lost": (lambda ended: without(ended, 4), "its seqs are"),
    "a result is doubled": (lambda ended: doubled(ended, 3), "a second result"),
    "a result is another": (lambda ended: changed(ended, 3, content="else"), "instead of"),
    "a payment is unknown without a fault": (lambda ended: changed(ended, 2, status="unknown"), "instead of"),
    "a look is unknown": (
        lambda ended: replace(changed(ended, 3, status="unknown"), unknown=None),
        "instead of",
    ),
    "the prompt is doubled": (lambda ended: doubled(ended, 0), "doubled or unknown"),
    "a message is lost": (lambda ended: replace(ended, sent=[["never read"]]), "messages lost"),
    "the run goes on": (lambda ended: replace(ended, status="cancelled"), "it is done"),
}


@pytest.mark.parametrize("what", BREAKS)
async def test_what_the_store_shows(tmp_path: Path, what: str) -> None:
    """A transcript that lost, doubled or changed something is found."""
    ledger = ledger_of(tmp_path)
    act, said = BREAKS[what]
    found = await violations(act(await right(ledger)), ledger)
    assert any(part in each for each in found for part in said.split("|")), found


NOTES: dict[str, tuple[dict[str, Any], str]] = {
    "a reply is bought twice": (
        {"kind": "reply", "prompt": prompt("right", STEPS), "number": 1},
        "were bought",
    ),
    "a payment is made twice": ({"kind": "effect", "tool": "pay", "key": "RUN:1.0"}, "took effect 2 times"),
    "a version is written twice": (
        {"kind": "commit", "run": "RUN", "version": 2, "epoch": 1},
        "was written twice",
    ),
    "an older claim writes": ({"kind": "commit", "run": "RUN", "version": 99, "epoch": 0}, "epochs are"),
}


@pytest.mark.parametrize("what", NOTES)
async def test_what_the_ledger_says(tmp_path: Path, what: str) -> None:
    """Something that happened twice, or under an older claim, is found though the store hides it."""
    ledger = ledger_of(tmp_path)
    ended = await right(ledger)
    note, said = NOTES[what]
    run_id = ended.state.run_id
    named = {k: v.replace("RUN", run_id) if isinstance(v, str) else v for k, v in note.items()}
    ledger.note(named.pop("kind"), **named)
    assert any(said in each for each in await violations(ended, ledger))


async def test_an_ok_without_an_effect(tmp_path: Path) -> None:
    """A payment that is ok and was never made is found."""
    ended = await right(ledger_of(tmp_path))
    found = await violations(ended, ledger_of(tmp_path / "empty"))
    assert any("is ok and took effect 0 times" in each for each in found)


def test_a_secret_is_found() -> None:
    """A prompt's word in a history or a log is found, and so is a password."""
    assert len(secrets([f"… {CANARY} …", "p4ss"], "p4ss")) == 2
    assert secrets(["nothing"], "p4ss") == []
