"""What a pace allows, over a clock of the test."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thoughtgear import ScheduledExecutor, pace
from thoughtgear.errors import ConfigurationError
from thoughtgear.pace import Pace

WRONG: list[Any] = [0, -1, True, "5", float("nan"), float("inf"), timedelta(0)]


class Clock:
    """The monotonic clock of `pace`, which the test sets."""

    seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    return made


def test_a_rate_gives_places_in_order(clock: Clock) -> None:
    """Two per ten seconds: the third run waits until the first one's period is over, the fourth too; a run
    that comes back too early keeps its place, and one that has waited takes no second one."""
    two = Pace(rate=(2, 10))
    assert [two.admit(name, waited=False) for name in "abcde"] == [0, 0, 10, 10, 20]
    clock.seconds = 4
    assert two.admit("c", waited=False) == 6
    clock.seconds = 10
    assert two.admit("c", waited=False) == 0
    assert two.admit("d", waited=True) == 0
    assert two.admit("f", waited=False) == 10


def test_a_place_that_is_never_taken_is_forgotten(clock: Clock) -> None:
    """A run that never comes is not remembered for longer than a period after its place."""
    one = Pace(rate=(1, 10))
    for name in "abc":
        one.admit(name, waited=False)
    clock.seconds = 31
    one.admit("d", waited=False)
    assert not one._places


@given(st.lists(st.floats(0, 3), max_size=60), st.integers(1, 4))
def test_no_period_has_more_than_the_rate(pauses: list[float], most: int) -> None:
    """Whoever asks whenever: in no period are there more places than the rate says, and no place is given
    before those that were asked for earlier."""
    clock, limited = Clock(), Pace(rate=(most, 5.0))
    places: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "time", clock)
        for number, passed in enumerate(pauses):
            clock.seconds += passed
            places.append(clock.seconds + limited.admit(f"run {number}", waited=False))
    assert all(b >= a - 1e-9 for a, b in pairwise(places))
    assert all(b - a >= 5.0 - 1e-9 for a, b in zip(places, places[most:], strict=False))


def _options() -> Iterator[dict[str, Any]]:
    yield {}
    yield {"delay": 1, "rate": (1, 1)}
    for wrong in WRONG:
        yield {"delay": wrong}
        yield {"rate": (1, wrong)}
    for wrong in (5, (1,), (0, 1), (-1, 1), (1.5, 1), (True, 1), ("1", 1), [1, 1]):
        yield {"rate": wrong}


@pytest.mark.parametrize("options", list(_options()), ids=str)
def test_what_is_no_pace_is_refused(options: dict[str, Any]) -> None:
    """A pace is one delay or one rate, of sensible numbers."""
    with pytest.raises(ConfigurationError):
        ScheduledExecutor("local", **options)


def test_one_pace_is_enough() -> None:
    """An executor at a pace is not given another one."""
    inner = ScheduledExecutor(delay=1)
    with pytest.raises(ConfigurationError, match="pace already"):
        ScheduledExecutor(inner, delay=1)


def test_only_what_is_between_two_iterations_rests() -> None:
    """A run has no delay before its first iteration, within one, with a message that waits, or once over."""
    slow = Pace(delay=timedelta(hours=1))
    moment = pace.now()
    facts: dict[str, Any] = {"status": "running", "iteration": 1, "ledger": [], "mail": []}
    between = {**facts, "started_at": moment, "updated_at": moment}
    assert slow.rest(SimpleNamespace(**between)) == pytest.approx(3600, abs=5)
    others = ({"iteration": 0}, {"started_at": None}, {"ledger": [1]}, {"mail": [1]}, {"status": "done"})
    for other in others:
        assert slow.rest(SimpleNamespace(**{**between, **other})) == 0
