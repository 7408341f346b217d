"""What every command is given: where the runs are, and how to answer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from thoughtgear import registry
from thoughtgear.errors import ConfigurationError
from thoughtgear.protocols import OrmAdapter


@dataclass(frozen=True)
class Place:
    """Where the runs are: a target, or a store alone; and the Temporal server where one drives them."""

    target: str | None = None
    handler: str | None = None
    db: str | None = field(default=None, repr=False)
    executor: str | None = None
    address: str | None = None
    namespace: str | None = None
    task_queue: str | None = None


@dataclass(frozen=True)
class Output:
    """How to answer: for people, as JSON, or with the model's answer alone."""

    out: Console
    err: Console
    as_json: bool = False
    quiet: bool = False

    @property
    def bare(self) -> bool:
        return self.as_json or self.quiet


@dataclass(frozen=True)
class NewPrompt:
    """What `run` sends."""

    text: str
    files: Sequence[Path] = ()
    session_id: str | None = None
    user_id: str | None = None
    request_id: str | None = None


def open_named_store(place: Place) -> OrmAdapter:
    """The store that the command line or the environment names, else the one in this folder, which must be
    there. Raises `ConfigurationError`."""
    default = Path(registry.DEFAULT_DB.removeprefix("sqlite:///"))
    if not (place.db or os.environ.get("THOUGHTGEAR_DB") or default.exists()):
        raise ConfigurationError(
            f"There is no {default} in this folder; name a store with --db URL, THOUGHTGEAR_DB or -t TARGET."
        )
    return registry.open_store(place.db)
