"""What a pace allows, over a clock of the test."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thoughtgear import ScheduledExecutor, pace
from thoughtgear.errors import ConfigurationError
from thoughtgear.models import RunState
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


def ask(line: Pace, name: str, since: float = 0.0) -> float:
    """Ask for a run of that name, which waits since then."""
    moment = datetime.fromtimestamp(since, UTC)
    return line.admit(RunState(run_id=name, created_at=moment, due_at=moment))


def test_a_rate_gives_places_in_order(clock: Clock) -> None:
    """Two per ten seconds: the third run waits until the first one's period is over, the fourth too; a run
    that comes back too early keeps its place, and what begins is counted, whoever has waited for it."""
    two = Pace(rate=(2, 10))
    assert [ask(two, name) for name in "abcde"] == [0, 0, 10, 10, 20]
    clock.seconds = 4
    assert ask(two, "c") == 6
    clock.seconds = 10
    assert [ask(two, name) for name in "cdfe"] == [0, 0, 10, 10]


def test_who_waits_for_longest_goes_first(clock: Clock) -> None:
    """A run that has waited elsewhere, or that a message woke, goes before those that came after it; and in
    each process it is let in only where that one's rate allows for it."""
    here = Pace(rate=(1, 10))
    assert [ask(here, "a", 1), ask(here, "young", 9), ask(here, "old", 2)] == [0, 10, 10]
    clock.seconds = 10
    assert [ask(here, "young", 9), ask(here, "old", 2)] == [10, 0]
    clock.seconds = 10.5
    assert ask(here, "young", 9) == 9.5


def test_what_fails_again_and_again_keeps_nobody_out(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose attempt failed comes after all that wait since before that attempt, however old it is; and
    a process knows of so many runs at the most that it has let in, and of none that is over."""
    monkeypatch.setattr(pace, "MOST_KNOWN", 3)
    one = Pace(rate=(1, 10))
    assert [ask(one, name, 1) for name in "abc"] == [0, 10, 20]
    let_in = ["a"]
    for seconds in range(1, 101):
        clock.seconds = seconds
        for name in (name for name in "abc" if seconds % 10 == 0 or name == let_in[-1]):
            if not ask(one, name, 1):
                let_in.append(name)
                break
    assert "".join(let_in) == "abcabcabcab"
    one.forget("c")
    assert ask(one, "c", 1) == 10
    for number in range(5):
        clock.seconds += 20
        assert ask(one, f"r{number}") == 0
    assert one._line is not None
    assert len(one._line._let_in) == 3


def test_a_place_that_is_never_taken_is_free(clock: Clock) -> None:
    """A run that does not come for its place keeps nobody from it for longer than a second, one that is over
    not at all, and one that comes late has the next place."""
    one = Pace(rate=(1, 10))
    assert [ask(one, name) for name in "abc"] == [0, 10, 20]
    clock.seconds = 10.9
    assert ask(one, "x", 5) > 0
    clock.seconds = 11.125
    assert ask(one, "x", 5) == 0
    assert ask(one, "b") == 10
    one.forget("b")
    clock.seconds = 21.125
    assert ask(one, "y", 5) == 0
    assert ask(one, "c") == 10
    clock.seconds = 31.125
    assert ask(one, "c") == 0


def test_a_long_wait_is_looked_at_again(clock: Clock) -> None:
    """A run behind very many others asks again when half of its wait is over, and is let in where they have
    gone."""
    one = Pace(rate=(1, 10))
    for number in range(101):
        ask(one, f"r{number:03}")
    assert ask(one, "x", 5) == 505
    clock.seconds = 1005
    assert ask(one, "x", 5) == 0


@given(st.lists(st.floats(0, 3), min_size=1, max_size=40), st.integers(1, 4), st.randoms())
def test_no_period_has_more_than_the_rate(pauses: list[float], most: int, chance: Any) -> None:
    """Whoever asks whenever, comes back early or late, or never: in no period do more iterations begin than
    the rate says, and every run that comes back begins."""
    clock, limited = Clock(), Pace(rate=(most, 5.0))
    begun: list[float] = []
    asks = [(sum(pauses[:number]), f"run {number}") for number in range(len(pauses))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "time", clock)
        for _ in range(5000):
            if not asks:
                break
            clock.seconds, name = heappop(asks)
            wait = ask(limited, name, float(name.split()[1]))
            if not wait:
                begun.append(clock.seconds)
            elif chance.random() > 0.05:
                heappush(asks, (clock.seconds + wait * chance.choice((0.5, 1, 1, 1, 1.3)) + 1e-6, name))
    assert not asks
    assert all(b - a >= 5.0 - 1e-9 for a, b in zip(begun, begun[most:], strict=False))


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
    between = {**facts, "started_at": moment, "due_at": slow.due_at()}
    assert slow.rest(SimpleNamespace(**between)) == pytest.approx(3600, abs=5)
    others = ({"iteration": 0}, {"started_at": None}, {"ledger": [1]}, {"mail": [1]}, {"status": "done"})
    for other in others:
        assert slow.rest(SimpleNamespace(**{**between, **other})) == 0
