"""The Temporal server of the proofs."""

from __future__ import annotations

from thoughtgear.devserver import DevServer

EVENTS = 40
"""Events after which the server suggests to continue as new: six iterations."""


class ShortHistories(DevServer):
    """It suggests to continue as new soon."""

    def _arguments(self) -> list[str]:
        suggest = f"limit.historyCount.suggestContinueAsNew={EVENTS}"
        return [*super()._arguments(), "--dynamic-config-value", suggest]
