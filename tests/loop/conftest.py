"""Real stores, small agents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from faulty_store import FaultyStore

from thoughtgear.registry import open_store

STORES = ("memory", "sqlite", "files")


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FaultyStore]:
    """Each store in turn, behind a wrapper that can lose acknowledgements."""
    urls = {
        "memory": "memory://",
        "sqlite": f"sqlite:///{tmp_path}/runs.db",
        "files": f"files://{tmp_path}/runs",
    }
    opened = FaultyStore(open_store(urls[request.param]))
    yield opened
    await opened.aclose()
