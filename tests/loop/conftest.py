"""Real stores, small agents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from thoughtgear.registry import open_store
from thoughtgear.testing import FaultyStore

# Every day the loop is tested over one store of each kind: in memory, a file, a server. The conformance suite
# makes the same promise of all of them, and tests/documents and tests/crashes go through the others.
LONG = tuple(pytest.param(name, marks=pytest.mark.long) for name in ("mongodb", "s3", "files"))
STORES = ("memory", "sqlite", "postgresql", *LONG)


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FaultyStore]:
    """Each store in turn, behind a wrapper that can lose acknowledgements."""
    urls = {
        "memory": lambda: "memory://",
        "sqlite": lambda: f"sqlite:///{tmp_path}/runs.db",
        "postgresql": lambda: request.getfixturevalue("postgres").url(tmp_path),
        "mongodb": lambda: request.getfixturevalue("mongodb").url(tmp_path),
        "s3": lambda: request.getfixturevalue("s3").url(tmp_path),
        "files": lambda: f"files://{tmp_path}/runs",
    }
    opened = FaultyStore(open_store(urls[request.param]()))
    yield opened
    await opened.aclose()
