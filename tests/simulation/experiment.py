"""One experiment: a scenario under a schedule of faults, the same every time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from simulation.checks import transcript_of, verify
from simulation.faults import Fault, read_fault
from simulation.scenarios import SCENARIOS
from simulation.transcripts import Shape, shape_of
from simulation.world import World


@dataclass(frozen=True)
class Experiment:
    """A schedule. With a seed, chance decides on whatever the faults leave open; without, nothing is left."""

    scenario: str
    faults: Sequence[Fault] = ()
    seed: int | None = None

    def __str__(self) -> str:
        seed = "" if self.seed is None else f"#{self.seed}"
        return f"{self.scenario}{seed}@" + ",".join(map(str, self.faults))

    def run(self) -> Outcome:
        """Run it, inside of `clock.virtual()`."""
        shapes = fault_free(self.scenario)
        world = World(
            SCENARIOS[self.scenario],
            {fault.at: fault for fault in self.faults},
            self.seed or 0,
            varied=self.seed is not None,
        )
        world.run()
        return Outcome(self, world, verify(world, shapes))


@dataclass(frozen=True)
class Outcome:
    """What came of an experiment: the world at its end, and what does not hold in it."""

    experiment: Experiment
    world: World = field(repr=False)
    violations: list[str]

    @property
    def exact(self) -> Experiment:
        """The same experiment, every fault that fired by its name."""
        return replace(self.experiment, faults=tuple(self.world.struck))


@cache
def fault_free(scenario: str) -> dict[str, Shape] | None:
    """The shapes of a scenario's transcripts without faults, by prompt; None where they are not always the
    same. Call it between experiments: it is one."""
    if not SCENARIOS[scenario].steady:
        return None
    world = World(SCENARIOS[scenario], {}, 0, varied=False)
    world.run()
    transcripts = [transcript_of(world, run_id) for run_id in world.ledger.writes]
    return {messages[0].text: shape_of(messages) for messages in transcripts}


def read_experiment(text: str) -> Experiment:
    """Read what `str` of an experiment has made."""
    head, _, faults = text.partition("@")
    scenario, _, seed = head.partition("#")
    return Experiment(
        scenario, tuple(read_fault(one) for one in faults.split(",") if one), int(seed) if seed else None
    )


def random_experiment(seed: int, most_faults: int = 6, points: int = 130) -> Experiment:
    """Make the experiment of a seed: a scenario, and up to six faults."""
    chance = random.Random(seed)
    scenario = chance.choice(sorted(SCENARIOS))
    places = sorted(chance.sample(range(points), chance.randint(1, most_faults)))
    return Experiment(scenario, tuple(Fault(at) for at in places), seed)
