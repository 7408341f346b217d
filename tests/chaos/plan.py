"""What a storm does: how many runs, how many faults of each kind, in which order. A seed repeats it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

KILL = "SIGKILL of a worker"
FREEZE = "SIGSTOP and SIGCONT of a worker"
TEMPORAL = "kill of the Temporal server"
POSTGRES = "kill of PostgreSQL"

WHOLE = {KILL: 100, FREEZE: 25, TEMPORAL: 3, POSTGRES: 5}
LITTLE = {KILL: 4, FREEZE: 2, TEMPORAL: 1, POSTGRES: 1}


@dataclass(frozen=True)
class Plan:
    """`runs` of two to six steps on `workers` processes, whose model and tools take up to `pace` seconds;
    a fault comes every `interval` seconds, up to."""

    seed: int = 0
    runs: int = 300
    workers: int = 4
    most_at_once: int = 40
    pace: float = 0.8
    interval: tuple[float, float] = (0.3, 2.5)
    frozen: tuple[float, float] = (0.5, 16.0)
    away: tuple[float, float] = (0.2, 3.0)
    faults: dict[str, int] = field(default_factory=lambda: dict(WHOLE))

    @property
    def total(self) -> int:
        """How many faults there are."""
        return sum(self.faults.values())

    def order(self) -> list[str]:
        """The kinds of the faults, one after the other."""
        kinds = [kind for kind, times in self.faults.items() for _ in range(times)]
        random.Random(self.seed).shuffle(kinds)
        return kinds

    def little(self) -> Plan:
        """The same for every day."""
        return replace(
            self, runs=16, workers=2, pace=0.3, interval=(0.2, 0.8), frozen=(0.5, 2.0), faults=LITTLE
        )
