"""What a URL or a dict says about a MongoDB store."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from thoughtgear.adapters.options import first, switch
from thoughtgear.errors import ConfigurationError
from thoughtgear.locations import Location, on_servers

RIGHT_URL = (
    "Use mongodb://user:password@host:port/database or mongodb+srv://…, and in a user or password %40 for @, "
    "%3A for :, %2F for /, %3F for ?, %23 for #, %25 for %."
)
_LOGIN = ("username", "password")
_KNOWN = ("url", "database", *_LOGIN, "create")
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
    """Where the database is. `address` is the hosts, for messages; `login` is what is not in the URL;
    `create` makes the store where there is none."""

    url: str = field(repr=False)
    login: Mapping[str, Any] = field(repr=False)
    address: str
    database: str
    create: bool

    @property
    def location(self) -> Location:
        """Where the database is."""
        servers = [_host_and_port(host) for host in self.address.split(",")]
        return on_servers("mongodb", servers, self.database)

    @classmethod
    def from_url(cls, url: str) -> MongoSettings:
        """Read `mongodb://user:password@host:port/database?option=value`, with the options of MongoDB's
        own connection strings and `create`. Raises `ConfigurationError`, which repeats nothing."""
        return cls.from_dict({"url": url})

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> MongoSettings:
        """Read `url`, and beside it `database` (default: the URL's, else thoughtgear), `username` and
        `password`, not escaped, and `create`."""
        unknown = set(settings) - set(_KNOWN)
        if unknown:
            raise ConfigurationError(
                f"A MongoDB store has no setting {first(unknown)}; it has {', '.join(_KNOWN)}."
            )
        url, login = settings.get("url"), {name: settings[name] for name in _LOGIN if settings.get(name)}
        if not isinstance(url, str) or not url.startswith(("mongodb://", "mongodb+srv://")):
            raise ConfigurationError(f"This store URL is not one of MongoDB. {RIGHT_URL}")
        if "password" in login and "username" not in login and "@" not in url:
            raise ConfigurationError(f"A password needs a username. {RIGHT_URL}")
        url, own = _without_own(url)
        database = _database_in(url, login, settings.get("database") or "thoughtgear")
        create = switch({**own, **settings}, "create", True)
        return cls(url, login, _hosts(url), settings.get("database") or database, create)


def _without_own(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL as the driver knows it, and the option that it doesn't know."""
    address, _, query = url.partition("?")
    options = [option.partition("=") for option in query.split("&") if option]
    driver_s = "&".join("".join(option) for option in options if option[0] != "create")
    own = {name: unquote(value) for name, _, value in options if name == "create"}
    return (f"{address}?{driver_s}" if driver_s else address), own


def _database_in(url: str, login: Mapping[str, Any], default: str) -> str:
    """Return the database of a URL that the driver accepts, and nothing is connected for that."""
    path = unquote(url.partition("://")[2].partition("?")[0].partition("/")[2])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # the driver's way to refuse an option
            found = connect(url, login).get_default_database(default).name
    except (PyMongoError, UserWarning, ValueError, TypeError):  # their messages quote the URL
        found = None
    if not found or path not in ("", found):  # the driver takes what follows a dot for a collection
        raise ConfigurationError(f"This store URL, or an option in it, can't be used. {RIGHT_URL}")
    return found


def connect(url: str, login: Mapping[str, Any], **options: Any) -> Client:
    """Return a client that connects when it is first used, in the event loop of that moment."""
    query = url.partition("?")[2]
    given = {name.lower() for name, _ in parse_qsl(query, keep_blank_values=True)}
    defaults = {name: value for name, value in _DEFAULTS.items() if name.lower() not in given}
    return AsyncMongoClient(url, **{**defaults, **login, **options})


def _host_and_port(text: str) -> tuple[str, str]:
    host, _, port = text.rpartition(":") if re.search(r":\d+$", text) else (text, "", "27017")
    return unquote(host).strip("[]"), port


def _hosts(url: str) -> str:
    """Return the hosts of a URL that the driver has accepted: what else has an @ or a / there is escaped."""
    login = url.partition("://")[2].partition("?")[0].partition("/")[0]
    return login.rpartition("@")[2]
