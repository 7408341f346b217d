"""A run is cancelled wherever it is."""

from __future__ import annotations

import asyncio

import pytest
from proofs.agent import AFTER_COMMIT, BEFORE_MODEL, BEFORE_TOOLS, DURING_LOOK, DURING_TOOL
from proofs.case import Case
from proofs.faults import Gate

SECONDS = 3.0
"""In which a cancel is done: two in which it is seen, and one to end the run."""


@pytest.mark.parametrize("point", [BEFORE_MODEL, BEFORE_TOOLS, DURING_TOOL, DURING_LOOK, AFTER_COMMIT])
async def test_a_cancel_at_any_point(case: Case, point: str) -> None:
    """A run is cancelled within two seconds wherever it is; from then on nothing takes effect."""
    gate = Gate(point, 1)
    await case.ask()
    async with case.worker(gate.at) as handler:
        await case.until(gate.reached.is_set)
        async with asyncio.timeout(SECONDS):
            await handler.cancel(case.run_id)
            if point in (BEFORE_TOOLS, AFTER_COMMIT):  # inside of a commit, which is never cut short
                gate.open()
            state = await case.over()
        gate.open()
    await case.check(status="cancelled")
    effects = [note["time"] for note in case.ledger.notes("effect")]
    assert max(effects, default=0.0) <= state.updated_at.timestamp()
