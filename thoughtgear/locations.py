"""Where a store is, whatever it was called: so that two names of one store are recognised."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

_HERE = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Location:
    """A kind of store, the servers that have it (any of them), and its name there."""

    kind: str
    servers: frozenset[str]
    name: tuple[object, ...]

    def is_that_of(self, other: Location) -> bool:
        """Whether it is the same store, as far as names tell. Two addresses of one server are two."""
        return (self.kind, self.name) == (other.kind, other.name) and bool(self.servers & other.servers)


@runtime_checkable
class Located(Protocol):
    """What a store has beside its eight methods when `db copy` is to know it by any of its names."""

    @property
    def location(self) -> Location: ...


def on_this_host(kind: str, path: Path, *name: object) -> Location:
    """Where a file or folder is, also by way of links; `name` is what is meant of it."""
    real = Path(os.path.realpath(path))
    try:
        found = real.stat()
    except OSError:
        return Location(kind, frozenset({"localhost"}), (str(real), *name))
    return Location(kind, frozenset({"localhost"}), (found.st_dev, found.st_ino, *name))


def on_servers(kind: str, servers: Iterable[tuple[str, object]], *name: object) -> Location:
    """Where a database is: the hosts and ports of its servers. A folder of sockets is this host."""
    hosts = ((host.lower().rstrip("."), port) for host, port in servers)
    local = (("localhost" if host in _HERE or host.startswith("/") else host, port) for host, port in hosts)
    return Location(kind, frozenset(f"{host}:{port}" for host, port in local), name)
