"""Which experiments are made: every schedule of one fault, every one of two, and random ones by seed."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from simulation import clock
from simulation.experiment import Experiment, Outcome, random_experiment
from simulation.faults import LISTED, POINTS, Fault
from simulation.scenarios import PASS_RARE, RARE, SCENARIOS
from simulation.temporal import Temporal

COLLECT = 20
"""Experiments between two collections of garbage: worlds are full of cycles."""

KEPT = 20
"""So many failures are enough."""

SEEDS = 250
"""Random experiments of one piece of work."""


@dataclass
class Tally:
    """What a search has done so far. `kinds` are its schedules by the kind of piece that they are from;
    `seconds` are of CPU, over all processes."""

    schedules: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    fired: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[tuple[Experiment, list[str]]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def per_minute(self) -> float:
        """Schedules per minute of one core."""
        return 60 * self.schedules / self.seconds if self.seconds else 0.0

    @property
    def silent(self) -> list[tuple[str, str]]:
        """The listed faults that have never fired."""
        return sorted(LISTED - set(self.fired))

    def add(self, outcome: Outcome) -> None:
        """Count an experiment; one of an enumeration only if all of its faults fired."""
        experiment = outcome.experiment
        if experiment.seed is not None or len(outcome.world.struck) == len(experiment.faults):
            self.schedules += 1
        self.fired.update(outcome.world.fired)
        if outcome.violations and len(self.failures) < KEPT:
            self.failures.append((outcome.exact, outcome.violations))

    def merge(self, other: Tally) -> None:
        """Add what another piece of work has done."""
        self.schedules += other.schedules
        self.kinds.update(other.kinds)
        self.seconds += other.seconds
        self.fired.update(other.fired)
        self.failures = [*self.failures, *other.failures][:KEPT]


def singles(name: str) -> Iterator[Experiment]:
    """Every schedule of one fault in a scenario."""
    return following(Experiment(name))


def thaws(name: str) -> Iterator[Experiment]:
    """Every freeze in a scenario, with a thaw at each later point that the small scenarios don't pass: one
    fault is no thaw, and all of two are tried in the small ones alone."""
    thaw = dict.fromkeys(RARE, ("thaw",))
    for one in singles(name):
        if one.faults[0].kind == "freeze":
            yield from following(one, thaw)


def following(first: Experiment, points: Mapping[str, Sequence[str]] = POINTS) -> Iterator[Experiment]:
    """Every schedule that goes on from this one by one more fault, of those that `points` allow. It makes an
    experiment to find out."""
    trace = first.run().world.trace
    frozen = any(fault.kind == "freeze" for fault in first.faults)
    stale = SCENARIOS[first.scenario].driver is Temporal
    for at in range(first.faults[-1].at + 1 if first.faults else 0, len(trace)):
        for kind in points.get(trace[at][0], ()):
            if (kind != "thaw" or frozen) and (kind != "stale" or stale):
                yield replace(first, faults=(*first.faults, Fault(at, kind)))


def seeds(first: int, count: int) -> Iterator[Experiment]:
    """Random experiments, by their seeds."""
    return (random_experiment(seed) for seed in range(first, first + count))


class Piece(NamedTuple):
    """A piece of work: the singles or the thaws of a scenario, its pairs whose first fault is at a point, or
    seeds."""

    kind: str
    scenario: str = ""
    first: int = 0
    number: int = 0

    def experiments(self) -> Iterator[Experiment]:
        if self.kind == "seeds":
            yield from seeds(self.first, self.number)
        elif self.kind == "singles":
            yield from singles(self.scenario)
        elif self.kind == "thaws":
            yield from thaws(self.scenario)
        else:
            for one in [one for one in singles(self.scenario) if one.faults[0].at == self.first]:
                yield from following(one)


def pieces(single: Sequence[str], double: Sequence[str], first: int, count: int) -> Iterator[Piece]:
    """Divide a search: the scenarios of which every one, and every two faults are tried, and the seeds."""
    yield from (Piece("singles", name) for name in single)
    for name in double:
        with clock.virtual():
            points = len(Experiment(name).run().world.trace)
        yield from (Piece("pairs", name, at) for at in range(points))
    if double:
        yield from (Piece("thaws", name) for name in PASS_RARE)
    for begin in range(first, first + count, SEEDS):
        yield Piece("seeds", first=begin, number=min(SEEDS, first + count - begin))


def carry_out(piece: Piece) -> Tally:
    """Do a piece of work in this process."""
    with clock.virtual():
        tally = try_all(piece.experiments())
    tally.kinds[piece.kind] = tally.schedules
    return tally


def try_all(experiments: Iterable[Experiment]) -> Tally:
    """Make experiments, inside of `clock.virtual()`."""
    tally, begin = Tally(), time.process_time()
    with _collected_rarely():
        for number, experiment in enumerate(experiments, 1):
            tally.add(experiment.run())
            if number % COLLECT == 0:
                gc.collect()
    tally.seconds = time.process_time() - begin
    return tally


@contextmanager
def _collected_rarely() -> Iterator[None]:
    was = gc.isenabled()
    gc.collect()
    gc.freeze()  # a collection looks at the worlds alone, and not at every module
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.collect()
        if was:
            gc.enable()


def smallest(experiment: Experiment) -> Experiment:
    """Leave out every fault that a failure does without. The experiment has to fail."""
    with clock.virtual():
        for fault in experiment.faults:
            fewer = replace(experiment, faults=tuple(one for one in experiment.faults if one != fault))
            if fewer.run().violations:
                experiment = fewer
    return experiment
