"""What strikes at a point of a run: a worker that dies there, freezes, or finds its disk full."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from proofs.agent import BEFORE_MODEL, DURING_LOOK, DURING_TOOL, At, nothing
from proofs.ledger import Ledger

EXIT_CODE = 77
FULL_SECONDS = 1.5


@dataclass(frozen=True)
class Fault:
    """What happens to the first worker that gets to this point of this iteration: `die` ends it at once,
    `freeze` stops it until someone continues it, `fill` has its disk refuse every byte for a while, `hold`
    has the step take until `release` is called."""

    kind: Literal["die", "freeze", "fill", "hold"]
    point: str
    iteration: int

    def at(self, ledger: Ledger) -> At:
        """What an agent calls at each of its points. It strikes once."""
        struck = False

        async def strike(point: str, iteration: int) -> None:
            nonlocal struck
            if struck or (point, iteration) != (self.point, self.iteration):
                return None
            struck = True
            ledger.note("fault", fault=self.kind, point=point, iteration=iteration)
            if self.kind == "hold":
                return await _hold(ledger)
            return {"die": _die, "freeze": lambda: _freeze(ledger), "fill": _fill_disk}[self.kind]()

        return strike


def at_of(fault: Fault | None, ledger: Ledger) -> At:
    """The points of a worker that a fault may strike."""
    return nothing if fault is None else fault.at(ledger)


def paced(seconds: float) -> At:
    """The points of a worker whose model and tools take a while, up to so many seconds."""

    async def pause(point: str, iteration: int) -> None:
        if seconds and point in (BEFORE_MODEL, DURING_TOOL, DURING_LOOK):
            await asyncio.sleep(random.uniform(0, seconds))

    return pause


def _die() -> None:
    os._exit(EXIT_CODE)


def _freeze(ledger: Ledger) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    ledger.note("thawed")


def _fill_disk() -> None:
    """Have every write that makes a file longer fail in this process, with an error of the system."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    threading.Timer(FULL_SECONDS, resource.setrlimit, (resource.RLIMIT_FSIZE, before)).start()


async def _hold(ledger: Ledger) -> None:
    while not _released(ledger).exists():
        await asyncio.sleep(0.02)


def release(ledger: Ledger) -> None:
    """Let go on who is held."""
    _released(ledger).touch()


def _released(ledger: Ledger) -> Path:
    return ledger.path.with_name("released")


class Gate:
    """A point at which a run of this process waits, until it is opened."""

    def __init__(self, point: str, iteration: int) -> None:
        self.point, self.iteration = point, iteration
        self.reached, self._open = asyncio.Event(), asyncio.Event()

    async def at(self, point: str, iteration: int) -> None:
        """What an agent calls at each of its points."""
        if (point, iteration) == (self.point, self.iteration):
            self.reached.set()
            await self._open.wait()

    def open(self) -> None:
        """Let the run go on, and whoever comes later."""
        self._open.set()
