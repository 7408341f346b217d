"""What a URL or a dict says about a SQLite store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from thoughtgear.adapters.options import first, folder, seconds, switch, table_prefix
from thoughtgear.errors import ConfigurationError

_RIGHT_URL = "Use sqlite:///folder/name.db (relative) or sqlite:////folder/name.db (absolute)."


@dataclass(frozen=True)
class SqliteSettings:
    """Where the database is and how it is used. `create` makes it where there is none; the names of its
    tables begin with `table_prefix`. In seconds: `lock_timeout` to wait for another process that writes,
    `command_timeout` that a transaction may take."""

    path: Path
    create: bool = True
    lock_timeout: float = 30.0
    command_timeout: float = 30.0
    table_prefix: str = ""

    @classmethod
    def from_url(cls, url: str) -> SqliteSettings:
        """Read `sqlite:///path?option=value`. Raises `ConfigurationError`, which repeats no value."""
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            raise ConfigurationError(f"This store URL can't be read. {_RIGHT_URL}") from None
        if parsed.drivername != "sqlite" or parsed.host:
            raise ConfigurationError(f"This store URL is not one of SQLite. {_RIGHT_URL}")
        if "path" in parsed.query:
            raise ConfigurationError(f"The path of a SQLite store is no option. {_RIGHT_URL}")
        return cls.from_dict({"path": parsed.database or "", **parsed.query})

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> SqliteSettings:
        """Read `{"path": …}`, and the options of a URL beside it."""
        known = [field.name for field in fields(cls)]
        unknown = set(settings) - set(known)
        if unknown:
            raise ConfigurationError(
                f"A SQLite store has no setting {first(unknown)}; it has {', '.join(known)}."
            )
        needed = f"A SQLite store needs a file. {_RIGHT_URL} In memory: memory://"
        path = folder(settings, needed)
        if path == Path(":memory:"):
            raise ConfigurationError(needed)
        return cls(
            path.absolute(),
            switch(settings, "create", cls.create),
            seconds(settings, "lock_timeout", cls.lock_timeout),
            seconds(settings, "command_timeout", cls.command_timeout),
            table_prefix(settings),
        )
