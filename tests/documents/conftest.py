"""Every kind of store, on the real thing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from thoughtgear.registry import open_store

SERVERS = ("postgresql", "s3", "mongodb")
STORES = ("memory", "files", "sqlite", *SERVERS)


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of each store in turn, which is empty."""
    if request.param in SERVERS:
        server = request.getfixturevalue("postgres" if request.param == "postgresql" else request.param)
        return str(server.url(tmp_path))
    return {
        "memory": "memory://",
        "files": f"files://{tmp_path}/runs",
        "sqlite": f"sqlite:///{tmp_path}/runs.db",
    }[request.param]


@pytest.fixture
async def store(url: str) -> AsyncIterator[Any]:
    """Each store in turn, empty."""
    opened = open_store(url)
    yield opened
    await opened.aclose()
