"""What a URL or a dict says about a MongoDB store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from thoughtgear.errors import ConfigurationError

RIGHT_URL = (
    "Use mongodb://user:password@host:port/database or mongodb+srv://…, and in a user or password %40 for @, "
    "%3A for :, %2F for /, %3F for ?, %23 for #, %25 for %."
)
_DEFAULTS = {
    "appName": "thoughtgear",
    "serverSelectionTimeoutMS": 10_000,
    "connectTimeoutMS": 10_000,
    "socketTimeoutMS": 30_000,
    "waitQueueTimeoutMS": 30_000,
}
"""Options that a URL may give itself. The driver has no limit of its own for a reply and for a connection.
Not `timeoutMS`: with it the driver goes on for all of that time where no server can be reached."""

Client = AsyncMongoClient[dict[str, Any]]


@dataclass(frozen=True)
class MongoSettings:
    """Where the database is. `address` is the hosts alone, for messages."""

    url: str = field(repr=False)
    address: str
    database: str

    @classmethod
    def from_url(cls, url: str) -> MongoSettings:
        """Read `mongodb://user:password@host:port/database?option=value`, with the options of MongoDB's
        own connection strings. Raises `ConfigurationError`, which repeats nothing."""
        return cls.from_dict({"url": url})

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> MongoSettings:
        """Read `url` and, where that names no database, `database` (default: thoughtgear)."""
        unknown = sorted(set(settings) - {"url", "database"})
        if unknown:
            raise ConfigurationError(f"A MongoDB store has no setting {unknown[0]!r}; it has url, database.")
        url = settings.get("url")
        if not isinstance(url, str) or not url.startswith(("mongodb://", "mongodb+srv://")):
            raise ConfigurationError(f"This store URL is not one of MongoDB. {RIGHT_URL}")
        try:
            # Connects to nothing yet: a wrong URL is an error here, not at the first use.
            default = settings.get("database") or "thoughtgear"
            database = connect(url).get_default_database(default).name
        except (PyMongoError, ValueError, TypeError):  # their messages quote the URL
            raise ConfigurationError(f"This store URL can't be used. {RIGHT_URL}") from None
        return cls(url, _hosts(url), settings.get("database") or database)


def connect(url: str) -> Client:
    """Return a client that connects when it is first used, to the event loop of that moment."""
    query = url.partition("?")[2]
    given = {name.lower() for name, _ in parse_qsl(query, keep_blank_values=True)}
    options: dict[str, Any] = {name: value for name, value in _DEFAULTS.items() if name.lower() not in given}
    return AsyncMongoClient(url, **options)


def _hosts(url: str) -> str:
    """Return the hosts of a URL that the driver has accepted: what else has an @ or a / there is escaped."""
    login = url.partition("://")[2].partition("?")[0].partition("/")[0]
    return login.rpartition("@")[2]
