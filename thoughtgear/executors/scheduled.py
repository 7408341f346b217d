"""The executor that lets runs go on at a pace, driven by any other one."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from thoughtgear import registry
from thoughtgear.errors import ConfigurationError
from thoughtgear.pace import Pace, Rate
from thoughtgear.protocols import Executor

if TYPE_CHECKING:
    from thoughtgear.handler import PromptHandler


class ScheduledExecutor:
    """Has another executor drive the runs, at a pace.

    `inner` is that executor, or its name. Either `delay`, a `timedelta` or seconds: each iteration but the
    first of a run begins so long after the end of the one before. Or `rate`, `(iterations, period)`: in no
    such period are more attempts at a reply let in by one process, over all runs of this executor. The
    handler of whoever runs the iterations (a worker, a function) has this executor.

    The wait is the inner executor's own: a durable timer of the workflow, a message that is kept back, a
    sleep in this process. It takes up no worker. A message to a run, and `continue_run`, end a delay; they
    give no place in a rate. A cancel ends either. Raises `ConfigurationError`.
    """

    def __init__(
        self,
        inner: str | Executor | None = None,
        *,
        delay: timedelta | float | None = None,
        rate: Rate | None = None,
    ) -> None:
        self.pace = Pace(delay=delay, rate=rate)
        self._inner = registry.open_executor(inner)
        if getattr(self._inner, "pace", None) is not None:
            raise ConfigurationError("This executor has a pace already; give a run one.")
        self.members = (self._inner,)
        self.name = self._inner.name
        self.names = getattr(self._inner, "names", (self.name,))
        self.self_driving: bool = getattr(self._inner, "self_driving", False)
        self.waits: bool = getattr(self._inner, "waits", False)

    def bind(self, handler: PromptHandler) -> None:
        """Called by the handler that this executor is given to. Raises `ConfigurationError`."""
        bind = getattr(self._inner, "bind", None)
        if bind is not None:
            bind(handler)

    async def schedule_next_iteration(self, run_id: str) -> None:
        """Have the inner executor drive the run. Raises `ExecutorUnavailableError`."""
        await self._inner.schedule_next_iteration(run_id)

    async def wait(self, run_id: str) -> None:
        """Return when the run may be over, as far as the inner executor knows."""
        wait = getattr(self._inner, "wait", None)
        if wait is not None:
            await wait(run_id)

    async def cancel(self, run_id: str) -> bool:
        """Cancel what drives the run; False where nothing here does."""
        cancel = getattr(self._inner, "cancel", None)
        return cancel is not None and bool(await cancel(run_id))

    async def aclose(self) -> None:
        """Close the inner executor."""
        close = getattr(self._inner, "aclose", None)
        if close is not None:
            await close()
