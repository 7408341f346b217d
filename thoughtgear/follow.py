"""Following a run through its store: what is new in the transcript, and the reply as it grows.

It reads and never writes, so that it works the same whether the run goes on in this process or in a worker
elsewhere, and stopping it does nothing to the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from thoughtgear import live
from thoughtgear.errors import StoreUnavailableError
from thoughtgear.models import Message, RunState
from thoughtgear.protocols import OrmAdapter

TICK_SECONDS = 0.1
"""Seconds between two looks at the store."""

IDLE_SECONDS = 2.0
"""After so many seconds without news somebody may want to say why."""


class View(Protocol):
    """Where the news go."""

    def text(self, piece: str) -> None:
        """A piece of the reply that is being written."""
        ...

    def message(self, message: Message, said: str = "") -> None:
        """A message that is saved; `said` is what of its text was shown as pieces."""
        ...

    def note(self, text: str) -> None:
        """Something about the run."""
        ...

    def end_line(self) -> None:
        """What was shown as pieces is not the beginning of what comes."""
        ...


OnIdle = Callable[[RunState], Awaitable[None]]


class Follower:
    """Tells a view what happens in one run, from the message after `after` on."""

    def __init__(self, store: OrmAdapter, run_id: str, view: View, after: int = -1) -> None:
        self._store, self._run_id, self._view = store, run_id, view
        self._seq = after
        self._version = -1
        self._said, self._attempt = "", (0, 0)

    @property
    def seq(self) -> int:
        """The last message that the view was told."""
        return self._seq

    async def until_over(self, on_idle: OnIdle | None = None) -> RunState:
        """Return the state once the run is over. A store that is away for a while is waited for; `on_idle`
        is called once, when nothing was new for 2 s. Raises `RunNotFoundError`, `StoreError`."""
        quiet = 0.0
        away = False
        while True:
            try:
                state = await self._store.load_run(self._run_id)
                news = await self._tell(state)
                away = False
            except StoreUnavailableError as exc:
                if not away:
                    self._view.note(f"{exc} Trying again.")
                away, news = True, False
            else:
                if state.over:
                    return state
            quiet = 0.0 if news else quiet + TICK_SECONDS
            if quiet >= IDLE_SECONDS and on_idle is not None and not away:
                await on_idle(state)
                on_idle = None
            await asyncio.sleep(TICK_SECONDS)

    async def _tell(self, state: RunState) -> bool:
        """Show what is new; return whether anything was."""
        if state.version != self._version:
            self._version = state.version
            for message in await self._store.get_history(self._run_id, self._seq):
                self._seq = message.seq
                self._saved(message)
            return True
        return state.stream and not state.ledger and await self._grow(state)

    def _saved(self, message: Message) -> None:
        said, self._said = self._said, ""
        if said and not (message.role == "assistant" and message.text.startswith(said)):
            self._view.end_line()
            said = ""
        self._view.message(message, said)

    async def _grow(self, state: RunState) -> bool:
        growing = await live.read(self._store, self._run_id)
        if growing is None or growing.iteration != state.iteration + 1:
            return False
        attempt = (growing.iteration, growing.epoch)
        if attempt != self._attempt or not growing.text.startswith(self._said):
            self._view.end_line()
            self._said, self._attempt = "", attempt
        piece = growing.text[len(self._said) :]
        self._said = growing.text
        if piece:
            self._view.text(piece)
        return bool(piece)
