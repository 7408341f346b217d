"""A store that can lose acknowledgements, and lets others in at the worst moment."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from thoughtgear.errors import StoreUnavailableError
from thoughtgear.models import Message, RunState
from thoughtgear.protocols import OrmAdapter

Hook = Callable[[RunState], Awaitable[None]]


class FaultyStore:
    """Passes everything on to a real store; `before_save` and `after_save` may raise or do something.

    `fired` counts what the hooks did, so that a test can show that its fault happened.
    """

    def __init__(self, inner: OrmAdapter) -> None:
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

    async def save_run(self, state: RunState, messages: Sequence[Message], **options: Any) -> None:
        if self.before_save is not None:
            await self.before_save(state)
        await self._inner.save_run(state, messages, **options)
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

    def lose_some(self, share: float) -> None:
        """From now on this share of the commits is written and answers with an error: always the same."""
        chance = random.Random(30)  # noqa: S311  repeats itself

        async def fail(state: RunState) -> None:
            if chance.random() < share:
                self.fired += 1
                raise StoreUnavailableError("The connection was lost.")

        self.fired = 0
        self.before_save, self.after_save = None, fail

    def interrupt(self, act: Callable[[], Awaitable[object]], *, landed: bool = False) -> None:
        """Do something once, right before the next commit is written; or, with `landed`, right after, and
        then lose its acknowledgement."""

        async def once(state: RunState) -> None:
            if self.fired:
                return
            self.fired += 1
            await act()
            if landed:
                raise StoreUnavailableError("The connection was lost.")

        self.fired = 0
        self.before_save, self.after_save = (None, once) if landed else (once, None)
