"""Time, chance, unique names and Temporal of the simulated world, in place of the real ones."""

from __future__ import annotations

import random
import secrets
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from simulation import workflow
from simulation.eventloop import VirtualLoop
from simulation.process import PROCESS
from thoughtgear import models

YEAR_2030 = 1_893_456_000.0


def new_loop() -> VirtualLoop:
    """Return a loop without files, sockets and processes: there are none in this world."""
    return VirtualLoop()  # type: ignore[abstract]


class Clock:
    """Stands in for the module `time`. The wall clock of a process may be off by its `skew`."""

    def __init__(self) -> None:
        self.loop = new_loop()

    def monotonic(self) -> float:
        return self.loop.now

    def time(self) -> float:
        process = PROCESS.get(None)
        return YEAR_2030 + self.loop.now + (process.skew if process else 0.0)

    def time_ns(self) -> int:
        return int(self.time() * 1e9)


class Today:
    """Stands in for the class `datetime` where only the current time is asked of it."""

    def now(self, zone: Any) -> datetime:
        return datetime.fromtimestamp(CLOCK.time(), zone)


class Name:
    """Stands in for a UUID."""

    __slots__ = ("hex",)

    def __init__(self, number: int) -> None:
        self.hex = f"{number:012x}" + "0" * 20


class Names:
    """Stands in for `uuid4` and `secrets`: names that are as unique, and the same in every repetition."""

    def __init__(self) -> None:
        self.given = 0

    def uuid4(self) -> Name:
        self.given += 1
        return Name(self.given)

    def token_hex(self, size: int) -> str:
        self.given += 1
        return f"{self.given:0{2 * size}x}"


CLOCK, NAMES, CHANCE = Clock(), Names(), random.Random()

_STAND_INS: list[tuple[Any, Any]] = [
    (time, CLOCK),
    (random, CHANCE),
    (secrets, NAMES),
    (uuid.uuid4, NAMES.uuid4),
    (workflow.MODULE, workflow.API),
]


def begin(seed: int) -> VirtualLoop:
    """Begin an experiment: the same seed gives the same chance, names and times."""
    CHANCE.seed(seed)
    NAMES.given = 0
    CLOCK.loop = new_loop()
    return CLOCK.loop


@contextmanager
def virtual() -> Iterator[None]:
    """While entered, every loaded module of the library takes these from the world."""
    replaced = [(vars(models), "datetime", vars(models)["datetime"])]
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "thoughtgear":
            replaced += [
                (vars(module), key, value) for key, value in vars(module).items() if _stand_in(value)
            ]
    for table, key, value in replaced:
        table[key] = _stand_in(value) or Today()
    try:
        yield
    finally:
        for table, key, value in replaced:
            table[key] = value


def _stand_in(value: Any) -> Any:
    return next((there for real, there in _STAND_INS if value is real), None)


assert datetime.fromtimestamp(YEAR_2030, UTC).year == 2030
