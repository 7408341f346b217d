"""The pace of an executor: how long its runs wait between two iterations.

The wait is part of what an iteration reports (`IterationResult.wait`), as that of a run behind another one
is, so that every driver sits it out in its own way.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta

from thoughtgear.errors import ConfigurationError
from thoughtgear.models import RunState, now

Rate = tuple[int, timedelta | float]
"""So many iterations in a period, which is a span of time or seconds."""


PATIENCE_SECONDS = 1.0
"""How late a run may come for its place before others are let in."""

LONGEST_LOOK = 60.0
"""A run that has to wait for longer asks again after half of that: those before it may never come."""

MOST_KNOWN = 10_000
"""Runs of which a process knows when it last let them in: those that it has let in last."""


class Pace:
    """Either `delay`: each iteration but the first of a run begins so long after the one before. Or `rate`:
    in no period are more iterations let in by this object, which one process has.

    Raises `ConfigurationError`.
    """

    def __init__(self, *, delay: timedelta | float | None = None, rate: Rate | None = None) -> None:
        if (delay is None) == (rate is None):
            raise ConfigurationError("A pace is a delay or a rate: give one of them.")
        self.delay = 0.0 if delay is None else _seconds(delay, "A delay")
        self._line = None if rate is None else _Line(*_rate(rate))

    def rest(self, state: RunState) -> float:
        """Return the seconds until the delay is over that follows the run's last iteration."""
        between = state.iteration and state.status == "running" and not state.ledger and not state.mail
        if not self.delay or not between or state.due_at is None:
            return 0.0
        if state.started_at is None:  # retried, and not begun again
            return 0.0
        return max(0.0, (state.due_at - now()).total_seconds())

    def sat_out(self, state: RunState) -> bool:
        """Whether what drives a run sits a delay out that a schedule would end. A local loop keeps to it."""
        return state.driver.executor != "local" and self.rest(state) > 0

    def cut_short(self, state: RunState) -> bool:
        """Whether a message came that ends the delay which the run is in. None ends the wait for a place."""
        return bool(self.delay and state.mail and state.iteration and state.status == "running")

    def due_at(self) -> datetime:
        """When the next iteration of a run may begin whose last one ends now."""
        return now() + timedelta(seconds=self.delay)

    def admit(self, state: RunState) -> float:
        """Return 0 where an attempt at the run's next reply may begin, which is counted; else the seconds
        until it is worth asking again. Whoever waits for longest goes first, in whichever process it asks; a
        run whose attempt failed waits since this process let that one in."""
        if self._line is None:
            return 0.0
        since = (state.due_at or state.created_at).timestamp()
        return self._line.admit(state.run_id, since)

    def forget(self, run_id: str) -> None:
        """Give up the place of a run that is over."""
        if self._line is not None:
            self._line.forget(run_id)


@dataclass(frozen=True)
class _Waiting:
    """A run of the line: since when it waits (Unix seconds), and, on the monotonic clock, when it has its
    place and when it asks again."""

    since: tuple[float, str]
    due: float
    asks: float


class _Line:
    """Who has begun within the last period, and who waits. It promises nothing: each time that a run asks, it
    is let in where that keeps the rate, and leaves enough for those before it that have to be here now."""

    def __init__(self, most: int, period: float) -> None:
        self._most, self._period = most, period
        self._begun: deque[float] = deque(maxlen=most)
        self._let_in: dict[str, float] = {}  # Unix seconds, by when they were let in
        self.waiting: dict[str, _Waiting] = {}

    def admit(self, run_id: str, since: float) -> float:
        moment = time.monotonic()
        since = max(since, self._let_in.get(run_id, since))  # what fails again and again keeps nobody out
        self.waiting.pop(run_id, None)
        self._drop_late(moment)
        places = self._places(moment)
        earlier = [each for each in self.waiting.values() if each.since < (since, run_id)]
        if sum(place <= moment for place in places) > sum(each.due <= moment for each in earlier):
            self._begun.append(moment)
            self._note(run_id)
            return 0.0
        rounds, place = divmod(len(earlier), self._most)
        due = places[place] + rounds * self._period
        seconds = due - moment
        if seconds > LONGEST_LOOK:
            seconds = max(LONGEST_LOOK, seconds / 2)
        self.waiting[run_id] = _Waiting((since, run_id), due, moment + seconds)
        return seconds

    def forget(self, run_id: str) -> None:
        self.waiting.pop(run_id, None)
        self._let_in.pop(run_id, None)

    def _note(self, run_id: str) -> None:
        self._let_in.pop(run_id, None)
        self._let_in[run_id] = now().timestamp()
        if len(self._let_in) > MOST_KNOWN:
            del self._let_in[next(iter(self._let_in))]

    def _places(self, moment: float) -> list[float]:
        """When the next iterations may begin, as many as the rate has, where those before them do."""
        kept = [begun + self._period for begun in self._begun if begun + self._period > moment]
        return [moment] * (self._most - len(kept)) + kept

    def _drop_late(self, moment: float) -> None:
        """Drop the runs that did not come: they were cancelled, or ask in another process."""
        late = [name for name, each in self.waiting.items() if each.asks + PATIENCE_SECONDS < moment]
        for name in late:
            del self.waiting[name]


def _seconds(span: timedelta | float, what: str) -> float:
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise ConfigurationError(f"{what} is a timedelta, or a number of seconds above 0.")
    return float(seconds)


def _rate(rate: Rate) -> tuple[int, float]:
    if not isinstance(rate, tuple) or len(rate) != 2:
        raise ConfigurationError("A rate is (iterations, period), such as (30, timedelta(minutes=1)).")
    most, period = rate
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise ConfigurationError("A rate is of whole iterations, 1 or more.")
    return most, _seconds(period, "The period of a rate")
