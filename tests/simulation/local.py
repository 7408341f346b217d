"""The local driver: clients whose processes drive the runs by the shipped executor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.process import Process
from thoughtgear.executors.local import LocalExecutor

if TYPE_CHECKING:
    from simulation.world import World

CLAIM = 10.0
"""Seconds that a claim holds others off: short, since after a death all wait for it."""


class Local:
    """Each process has a loop of its own."""

    name = "local"

    def __init__(self, world: World) -> None:
        self.world = world

    def begin(self) -> None:
        """Nothing to start: whoever has a prompt drives it."""

    def executor(self, process: Process) -> LocalExecutor:
        return LocalExecutor(claim_seconds=CLAIM)

    def again(self, run_id: str) -> None:
        """A second process drives the same run."""
        self.world.later(0.0, self.world.once(lambda handler: handler.continue_run(run_id)))

    def unfinished(self) -> list[str]:
        """The processes are looked at by the world."""
        return []

    def can_be_stale(self) -> bool:
        return False

    def start_stale(self) -> None:
        """There are no deliveries."""
