"""What the executors of a chain of events (Lambda, SQS) share: an event for each turn, from anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thoughtgear.errors import ConfigurationError
from thoughtgear.executors.reach import check_reach
from thoughtgear.executors.turns import CLAIM_SECONDS, Turn, turn_of
from thoughtgear.protocols import Reach, check_hold

if TYPE_CHECKING:
    from thoughtgear.handler import PromptHandler
    from thoughtgear.models import RunState


class ChainExecutor:
    """Has others drive the runs, one event per iteration: `follow` sends it. One executor serves one handler.

    `claim_seconds` is how long the run of a process that died stays untouched by others. Raises
    `ConfigurationError`.
    """

    needs: Reach = "network"
    self_driving = True
    waits = False

    def __init__(self, claim_seconds: float = CLAIM_SECONDS) -> None:
        self.claim_seconds = check_hold(claim_seconds)
        self._handler: PromptHandler | None = None

    def bind(self, handler: PromptHandler) -> None:
        """Called by the handler that this executor is given to. Raises `ConfigurationError`."""
        name = type(self).__name__
        if self._handler is not None and self._handler is not handler:
            raise ConfigurationError(f"One {name} serves one handler; give each its own.")
        check_reach(handler, name, self.needs)
        self._handler = handler

    async def schedule_next_iteration(self, run_id: str) -> None:
        """Send an event for the turn that the run is at. Raises `ExecutorUnavailableError`."""
        if self._handler is None:
            raise ConfigurationError("Give this executor to a PromptHandler first.")
        await self.drive(await self._handler.get_run(run_id))

    async def drive(self, state: RunState) -> None:
        """`schedule_next_iteration` where the state is known: there is nothing to do but to send."""
        if not state.over:
            await self.follow(turn_of(state))

    async def follow(self, turn: Turn) -> None:
        """Send the event of a turn. Raises `ExecutorUnavailableError`."""
        raise NotImplementedError
