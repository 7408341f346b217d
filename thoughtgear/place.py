"""What every command is given: where the runs are, and how to answer."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

    def again(self, command: str, **options: str | int | list[str] | None) -> str:
        """The line to type for `command` at this place; `options` are more of its options, by name. One with
        several values is repeated."""
        given: dict[str, Any] = {f"--{name}": value for name, value in options.items()} | {
            "-t": self.target,
            "--db": self._shown_db(),
            "--address": self.address,
            "--namespace": self.namespace,
            "--task-queue": self.task_queue,
        }
        several = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
        pairs = [(name, str(value)) for name, values in several.items() for value in values if value]
        return f"thoughtgear {command} {shlex.join(word for pair in pairs for word in pair)}".strip()

    def upgraded(self, text: str) -> str:
        """The text of a store's error, with the line that upgrades or makes the store of this place."""
        plain = Place().again("db upgrade")
        return text.replace(f"`{plain}`", f"`{self.stored.again('db upgrade')}`")

    def _shown_db(self) -> str | None:
        """The store, without its password or key: they stay out of the terminal and its history. A local
        store has neither; another has them before an `@`, in any option of its URL, or in its JSON."""
        if self.db is None or self.db.startswith(("sqlite:", "files:")):
            return self.db
        if not ({"@", "?"} & set(self.db) or registry.is_dict(self.db)):
            return self.db
        return None if self.db == os.environ.get("THOUGHTGEAR_DB") else "URL"

    @property
    def stored(self) -> Place:
        """The place as far as the store goes: what `runs` and `show` take."""
        return Place(target=self.target, db=self.db)


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
    """The store that the command line or the environment names, else the one in this folder. It must be
    there: a typo makes no store. Raises `ConfigurationError`."""
    default = Path(registry.DEFAULT_DB.removeprefix("sqlite:///"))
    if not (place.db or os.environ.get("THOUGHTGEAR_DB") or default.exists()):
        raise ConfigurationError(
            f"There is no {default} in this folder; name a store with --db URL, THOUGHTGEAR_DB or -t TARGET."
        )
    return registry.open_store(place.db, create=False)
