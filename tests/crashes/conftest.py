"""The Temporal server of the crash windows: it has a file, and can be killed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from thoughtgear.devserver import DevServer

pytest.register_assert_rewrite("case", "windows")

EVENTS = 40
"""Events after which the server suggests to continue as new: six iterations."""


class ShortHistories(DevServer):
    """It suggests to continue as new soon."""

    def _arguments(self) -> list[str]:
        suggest = f"limit.historyCount.suggestContinueAsNew={EVENTS}"
        return [*super()._arguments(), "--dynamic-config-value", suggest]


@pytest.fixture(scope="session")
def temporal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    """One Temporal server with a database file for all windows."""
    server = ShortHistories(db=tmp_path_factory.mktemp("temporal") / "temporal.db", ui=False)
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())
