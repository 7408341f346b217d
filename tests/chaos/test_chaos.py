"""Whatever dies, whenever it does, nothing is lost and nothing comes twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from chaos.experiment import endure
from chaos.plan import Plan
from chaos.storm import Strike
from chaos.verdict import lost_replies


@pytest.mark.long
@pytest.mark.parametrize("plan", [Plan().little(), Plan(seed=11)])
async def test_no_promise_is_broken(plan: Plan, tmp_path: Path) -> None:
    """While workers are killed and frozen, and Temporal and PostgreSQL are killed, all runs end as if nothing
    had happened, but for what is declared unknown."""
    outcome = await endure(plan, tmp_path)
    assert outcome.verdict.violations == {}
    assert Counter(strike.kind for strike in outcome.strikes) == plan.faults
    assert len(outcome.runs) == plan.runs
    assert outcome.exits == [0] * plan.workers


def test_a_lost_reply_needs_a_fault() -> None:
    """A reply that was bought twice is excused by a fault that struck its buyer meanwhile, by no other."""
    first = {"number": 1, "pid": 1, "asked": 10.0, "time": 11.0}
    again = {"number": 1, "pid": 2, "asked": 20.0, "time": 21.0}
    commit = [{"replies": 1, "time": 22.0}]
    struck = Strike("kill", 1, 12.0, 12.0)
    assert lost_replies([first, again], commit, [struck]) == 1
    assert lost_replies([first, again], commit, [Strike("kill", 3, 12.0, 12.0)]) == 0
    assert lost_replies([first, again], commit, [Strike("kill", 1, 5.0, 5.0)]) == 0
    assert lost_replies([first, again], commit, []) == 0
