"""The pace of an executor: how long its runs wait between two iterations.

The wait is part of what an iteration reports (`IterationResult.wait`), as that of a run behind another one
is, so that every driver sits it out in its own way.
"""

from __future__ import annotations

import time
from collections import deque
from datetime import timedelta

from thoughtgear.errors import ConfigurationError
from thoughtgear.models import RunState, now

Rate = tuple[int, timedelta | float]
"""So many iterations in a period, which is a span of time or seconds."""


class Pace:
    """Either `delay`: each iteration but the first of a run begins so long after the one before. Or `rate`:
    in no period do more iterations begin, over all runs that this object, which one process has, admits.

    Raises `ConfigurationError`.
    """

    def __init__(self, *, delay: timedelta | float | None = None, rate: Rate | None = None) -> None:
        if (delay is None) == (rate is None):
            raise ConfigurationError("A pace is a delay or a rate: give one of them.")
        self._delay = 0.0 if delay is None else _seconds(delay, "A delay")
        self._begun: deque[float] | None = None
        self._period = 0.0
        if rate is not None:
            most, self._period = _rate(rate)
            self._begun = deque(maxlen=most)
        self._places: dict[str, float] = {}

    def rest(self, state: RunState) -> float:
        """Return the seconds until the delay is over that follows the run's last iteration."""
        between = state.iteration and state.status == "running" and not state.ledger and not state.mail
        if not self._delay or not between or state.started_at is None:  # None: retried, and not begun again
            return 0.0
        return max(0.0, self._delay - (now() - state.updated_at).total_seconds())

    def cut_short(self, state: RunState) -> bool:
        """Whether a message came that ends the delay which the run is in. None ends the wait for a place."""
        return bool(self._delay and state.mail and state.iteration and state.status == "running")

    def admit(self, run_id: str, *, waited: bool) -> float:
        """Return 0 where an iteration of this run may begin, else the seconds until its place comes. Whoever
        has `waited` for a place has one, also of another process."""
        if self._begun is None:
            return 0.0
        moment = time.monotonic()
        self._forget(moment)
        if waited:
            self._places.pop(run_id, None)
            return 0.0
        place = self._places.pop(run_id, None)
        if place is None:
            full = len(self._begun) == self._begun.maxlen
            place = max(moment, self._begun[0] + self._period) if full else moment
            self._begun.append(place)
        if place > moment:
            self._places[run_id] = place
        return max(0.0, place - moment)

    def _forget(self, moment: float) -> None:
        """Drop the places of runs that never came: they were cancelled, or go on in another process."""
        late = [run_id for run_id, place in self._places.items() if place + self._period < moment]
        for run_id in late:
            del self._places[run_id]


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
