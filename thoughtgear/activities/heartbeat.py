"""Heartbeats beside the work, so that a cancel is seen whatever the model or a tool does."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from temporalio import activity

INTERVAL = 1.0
"""Seconds between two beats. The first comes after one interval: a short iteration sends none."""


class Heartbeat:
    """Beats while it is entered. The details are the last acknowledged version of the run."""

    def __init__(self, version: int) -> None:
        details = activity.info().heartbeat_details
        known = details[0] if details and isinstance(details[0], int) else 0
        self.version = max(version, known)
        self._next: asyncio.TimerHandle | None = None

    def acknowledged(self, version: int) -> None:
        """Note that the store acknowledged this version."""
        self.version = max(self.version, version)

    def __enter__(self) -> Self:
        self._await_next()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._next is not None:
            self._next.cancel()

    def _await_next(self) -> None:
        self._next = asyncio.get_running_loop().call_later(INTERVAL, self._beat)

    def _beat(self) -> None:
        activity.heartbeat(self.version)
        self._await_next()
