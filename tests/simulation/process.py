"""A process of the simulated world: it may freeze, thaw, and die at any moment, as a real one may."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulation.eventloop import Handle
    from simulation.world import World

PROCESS: ContextVar[Process] = ContextVar("process")
"""The process that the running code is in. Outside of any: the world itself, which never fails."""

RUNNING, FROZEN, DEAD = "running", "frozen", "dead"


class Process:
    """What runs in it is told apart by its context, which tasks and callbacks inherit.

    The loop runs nothing of a dead process, not even a `finally`, and keeps for later what comes due in a
    frozen one. `skew` is how far its wall clock is off, in seconds.
    """

    def __init__(self, world: World, role: str, skew: float = 0.0) -> None:
        self.world, self.role, self.skew = world, role, skew
        self.state = RUNNING
        self.killed = False
        self.kept: list[Handle] = []
        self.on_death: list[Callable[[], object]] = []
        self.on_stop: list[Callable[[], object]] = []
        self._context = Context()
        self._context.run(PROCESS.set, self)

    def context(self) -> Context:
        """Return a context of this process, for a new task."""
        return self._context.copy()

    def die(self) -> None:
        """Be gone at once: as after SIGKILL."""
        if self.state != DEAD:
            self.state, self.kept, self.killed = DEAD, [], True
            for tell in self.on_death:
                tell()

    def vanish(self) -> None:
        """Be gone at the end of an experiment: nobody is told."""
        self.state = DEAD

    def stop(self) -> None:
        """Ask the work in it to end: as on SIGTERM, or a caller that gives up."""
        for tell in list(self.on_stop):
            tell()

    def freeze(self) -> None:
        """Stand still: as after SIGSTOP, or in a machine that sleeps. Its timers run on."""
        if self.state == RUNNING:
            self.state = FROZEN

    def thaw(self, *_: Any) -> None:
        """Go on with everything that came due meanwhile."""
        if self.state == FROZEN:
            self.state = RUNNING
            kept, self.kept = self.kept, []
            self.world.loop.ready.extend(kept)
