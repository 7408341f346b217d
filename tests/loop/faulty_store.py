"""A store whose acknowledgements can be lost, to see that the commit protocol survives it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from thoughtgear.errors import StoreUnavailableError
from thoughtgear.models import Message, RunState

Hook = Callable[[RunState], Awaitable[None]]


class FaultyStore:
    """Passes everything on to a real store; `before_save` and `after_save` may raise or do something.

    `fired` counts what the hooks did, so that a test can show that its fault happened.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.before_save: Hook | None = None
        self.after_save: Hook | None = None
        self.fired = 0
        self.loads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def load_run(self, run_id: str) -> RunState:
        self.loads += 1
        return await self._inner.load_run(run_id)

    async def save_run(self, state: RunState, messages: Sequence[Message]) -> None:
        if self.before_save is not None:
            await self.before_save(state)
        await self._inner.save_run(state, messages)
        if self.after_save is not None:
            await self.after_save(state)

    def lose(self, *, landed: bool, times: int = 1) -> None:
        """The next `times` commits answer with an error; `landed` says whether they were written."""

        async def fail(state: RunState) -> None:
            if self.fired < times:
                self.fired += 1
                raise StoreUnavailableError("The connection was lost.")

        self.fired = 0
        self.before_save, self.after_save = (None, fail) if landed else (fail, None)
