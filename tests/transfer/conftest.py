"""Pairs of real stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hooked_store import HookedStore

from thoughtgear.registry import open_store


@pytest.fixture
def url_of(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Returns the URL of a new store of that kind."""

    def url(kind: str, name: str) -> str:
        place = tmp_path / name
        place.mkdir(exist_ok=True)
        if kind in ("memory", "sqlite", "files"):
            return {
                "memory": "memory://",
                "sqlite": f"sqlite:///{place}/runs.db",
                "files": f"files://{place}/x",
            }[kind]
        server = {"postgresql": "postgres", "s3": "s3", "mongodb": "mongodb"}[kind]
        return str(request.getfixturevalue(server).url(place))

    return url


@pytest.fixture
async def pair(request: pytest.FixtureRequest, url_of: Any) -> AsyncIterator[tuple[HookedStore, HookedStore]]:
    """A source and a target, both empty; what a test hooks is seen."""
    kinds = getattr(request, "param", ("sqlite", "files"))
    names = ("source", "target")
    stores = [HookedStore(open_store(url_of(kind, name))) for kind, name in zip(kinds, names, strict=True)]
    yield stores[0], stores[1]
    for store in stores:
        await store.aclose()
