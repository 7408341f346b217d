"""Following a run through its store: a view is told its events, and the reply as it grows.

Whether the run goes on in this process or in a worker elsewhere is the same, and stopping it does nothing to
the run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from thoughtgear.cursor import Cursor
from thoughtgear.errors import StoreUnavailableError
from thoughtgear.events import StreamEvent
from thoughtgear.models import RunState
from thoughtgear.protocols import OrmAdapter
from thoughtgear.streaming import FIRST_PAUSE, Reader

IDLE_SECONDS = 2.0
"""After so many seconds without news somebody may want to say why."""


class View(Protocol):
    """Where the news go."""

    def event(self, event: StreamEvent) -> None:
        """What has happened."""
        ...

    def note(self, text: str) -> None:
        """Something about the run."""
        ...


OnIdle = Callable[[RunState], Awaitable[None]]


class Follower:
    """Tells a view what happens in one run, from the message after `after` on; with `text` also the pieces of
    a reply that is being made."""

    def __init__(
        self, store: OrmAdapter, run_id: str, view: View, after: int = -1, *, text: bool = True
    ) -> None:
        self._reader = Reader(store, run_id, Cursor.past(run_id, after), text=text)
        self._view = view
        self._away = False

    @property
    def seq(self) -> int:
        """The last message that the view was told."""
        return self._reader.seq

    async def until_over(self, on_idle: OnIdle | None = None) -> RunState:
        """Return the state once the run is over. A store that is away for a while is waited for; `on_idle`
        is called once, when nothing was new for 2 s. Raises `RunNotFoundError`, `StoreError`."""
        reader, news_at = self._reader, time.monotonic()
        while True:
            if await self._look():
                news_at = time.monotonic()
            if reader.over and reader.state is not None:
                return reader.state
            if on_idle and reader.state and not self._away and time.monotonic() - news_at >= IDLE_SECONDS:
                await on_idle(reader.state)
                on_idle = None
            await asyncio.sleep(FIRST_PAUSE if self._away else reader.pause)

    async def _look(self) -> bool:
        """Tell what is new; return whether anything was, or the store is away."""
        try:
            events = await self._reader.look()
        except StoreUnavailableError as exc:
            if not self._away:
                self._view.note(f"{exc} Trying again.")
            self._away = True
            return True
        self._away = False
        for event in events:
            self._view.event(event)
        return bool(events)
