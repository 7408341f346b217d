"""The stores that outlive a process."""

from __future__ import annotations

from pathlib import Path

import pytest
from server_process import Server

STORES = ("sqlite", "files", "postgresql", "s3", "mongodb")
_SERVERS = {"postgresql": "postgres", "s3": "s3", "mongodb": "mongodb"}


def url_of(store: str, place: Path, request: pytest.FixtureRequest) -> str:
    """A store of this kind of its own."""
    if store in _SERVERS:
        return str(request.getfixturevalue(_SERVERS[store]).url(place))
    return {"sqlite": f"sqlite:///{place}/runs.db", "files": f"files://{place}/runs"}[store]


def server_of(store: str, request: pytest.FixtureRequest) -> Server | None:
    """The server of a kind of store, where it has one."""
    found: Server | None = request.getfixturevalue(_SERVERS[store]) if store in _SERVERS else None
    return found
