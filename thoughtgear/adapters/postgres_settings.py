"""What a URL or a dict says about a PostgreSQL store."""

from __future__ import annotations

import getpass
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from thoughtgear.adapters.options import count, seconds, switch, table_prefix
from thoughtgear.errors import ConfigurationError
from thoughtgear.locations import Location, on_servers

RIGHT_URL = (
    "Use postgresql://user:password@host:port/database, and in a user or password %40 for @, %3A for :, "
    "%2F for /, %3F for ?, %23 for #, %25 for %."
)
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?")
_SCHEMA = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}")
_LOGIN = ("host", "port", "user", "password", "database")
_SECONDS = {"pool_timeout": 30.0, "pool_recycle": 300.0, "connect_timeout": 10.0, "command_timeout": 30.0}
_PRIMARY = ("primary", "read-write")
_OWN = ("schema", "table_prefix", "create", "pool_size", "lock_timeout", "target_session_attrs", *_SECONDS)
_GRACE = 5.0
"""Seconds that the server has, beyond the time that a command may take, to say that it gave up."""

_IDLE = "idle_in_transaction_session_timeout"
_UPGRADE_IDLE = "60s"
"""How long an upgrade may compute between two statements."""


@dataclass(frozen=True)
class PostgresSettings:
    """Where the database is and how it is used. `login` is what `asyncpg.connect` takes, `create` makes
    tables where there are none, `pool_timeout` is the seconds to wait for a free one of `pool_size`
    connections, and `pool_recycle` those after which one is replaced."""

    login: Mapping[str, Any] = field(repr=False)
    address: str
    schema: str
    table_prefix: str
    create: bool
    pool_size: int
    pool_timeout: float
    pool_recycle: float

    @classmethod
    def from_url(cls, url: str) -> PostgresSettings:
        """Read `postgresql://user:password@host:port/database?option=value`.

        Own options: `schema`, `table_prefix`, `create`, `pool_size`, `target_session_attrs` and the times in
        seconds `pool_timeout`, `pool_recycle`, `connect_timeout`, `command_timeout` and `lock_timeout`.
        Those of libpq (`sslmode`, `sslrootcert`, `passfile`, …) mean what they mean there; all others are
        settings of the server's session. Raises `ConfigurationError`, which repeats nothing.
        """
        return cls._from(_read_url(url))

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> PostgresSettings:
        """Read `host`, `port`, `user`, `password`, `database`, or a `url`, or a `url` and what differs from
        it; the options of a URL stand beside them."""
        given = {key: value for key, value in settings.items() if value is not None}
        url = given.pop("url", None)
        return cls._from({**(_read_url(str(url)) if url else {}), **given})

    @property
    def location(self) -> Location:
        """Where the tables are. What is left out of the login is what the driver takes for it."""
        hosts = self.login.get("host") or os.environ.get("PGHOST") or "localhost"
        hosts = hosts if isinstance(hosts, list) else hosts.split(",")
        ports = self.login["port"] or os.environ.get("PGPORT") or "5432"
        ports = ports if isinstance(ports, list) else str(ports).split(",")
        ports = ports * len(hosts) if len(ports) == 1 else ports
        user = self.login.get("user") or os.environ.get("PGUSER") or getpass.getuser()
        database = self.login.get("database") or os.environ.get("PGDATABASE") or user
        return on_servers(
            "postgresql", zip(hosts, map(str, ports), strict=False), database, self.schema, self.table_prefix
        )

    def without_limits(self) -> PostgresSettings:
        """Return the settings for statements that may take hours."""
        limits = {"statement_timeout": "0", "lock_timeout": "0", _IDLE: _UPGRADE_IDLE}
        session = {**self.login["server_settings"], **limits}
        login = {**self.login, "command_timeout": None, "server_settings": session}
        return replace(self, login=login)

    @classmethod
    def _from(cls, options: Mapping[str, Any]) -> PostgresSettings:
        _check_types(options)
        schema = str(options.get("schema", "thoughtgear"))
        if not _SCHEMA.fullmatch(schema) or "search_path" in options:
            raise ConfigurationError(
                "The tables' schema is set by schema: a-z, 0-9 and _. There is no search_path."
            )
        limits = {name: seconds(options, name, default) for name, default in _SECONDS.items()}
        login = {name: options[name] for name in _LOGIN if name in options}
        login["port"] = _ports(login.get("port"))
        return cls(
            login={**login, **_session(options, schema, limits)},
            address=_address(login),
            schema=schema,
            table_prefix=table_prefix(options),
            create=switch(options, "create", True),
            pool_size=count(options, "pool_size", 10),
            pool_timeout=limits["pool_timeout"],
            pool_recycle=limits["pool_recycle"],
        )


def _check_types(options: Mapping[str, Any]) -> None:
    """Refuse what could not be an option of a URL, and a URL in the place of a host."""
    for name, given in options.items():
        several = given if isinstance(given, list) and name in ("host", "port") else [given]
        if not all(_is_plain(each) for each in (name, *several)):
            raise ConfigurationError("The settings of a PostgreSQL store are texts and numbers.")
        if name == "host" and any("@" in str(each) or "://" in str(each) for each in several):
            raise ConfigurationError(f"The host of a PostgreSQL store is a name or an address. {RIGHT_URL}")


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return value == value.encode(errors="replace").decode()
    return isinstance(value, int | float) and abs(value) < 2**63


def _read_url(url: str) -> dict[str, Any]:
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, True, strict_parsing=True)) if parts.query else {}
    except ValueError:
        raise ConfigurationError(f"This store URL can't be read. {RIGHT_URL}") from None
    # A password that is not escaped ends the address too early: its rest would be taken for a name.
    escaped = not parts.fragment and "@" not in parts.path + parts.query and "/" not in parts.path[1:]
    if parts.scheme not in ("postgresql", "postgres", "postgresql+asyncpg") or not escaped:
        raise ConfigurationError(f"This store URL is not one of PostgreSQL. {RIGHT_URL}")
    return {**_read_address(parts), **query}


def _read_address(parts: SplitResult) -> dict[str, Any]:
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    found = [_HOST.fullmatch(host) for host in hosts.split(",")] if hosts else []
    if not all(found):
        raise ConfigurationError(f"The host in this store URL can't be read. {RIGHT_URL}")
    named = {
        "user": unquote(user),
        "password": unquote(password),
        "database": unquote(parts.path[1:]),
        "host": [match[1].strip("[]") for match in found if match],
        "port": [match[2] or "5432" for match in found if match],
    }
    return {name: value for name, value in named.items() if value}


def _session(options: Mapping[str, Any], schema: str, limits: Mapping[str, float]) -> dict[str, Any]:
    """Return what `asyncpg.connect` takes beside the login."""
    others = {key: value for key, value in options.items() if key not in (*_OWN, *_LOGIN)}
    limit = _milliseconds(limits["command_timeout"])
    settings = {
        "application_name": "thoughtgear",
        "statement_timeout": limit,
        "lock_timeout": _milliseconds(seconds(options, "lock_timeout", limits["command_timeout"])),
        # A process that is frozen within a transaction must not keep its rows locked.
        _IDLE: limit,
    }
    defaults = {name: value for name, value in settings.items() if name not in others}
    return {
        "dsn": f"postgresql://?{urlencode(others)}",
        "timeout": limits["connect_timeout"],
        "command_timeout": limits["command_timeout"] + _GRACE,
        "target_session_attrs": _primary(options),
        "server_settings": {"search_path": schema, **defaults},
    }


def _primary(options: Mapping[str, Any]) -> str:
    """Return which servers will do: only one that takes writes has the newest state."""
    wanted = str(options.get("target_session_attrs", _PRIMARY[0]))
    if wanted not in _PRIMARY:
        raise ConfigurationError(
            f"target_session_attrs must be {' or '.join(_PRIMARY)}: no other server is up to date."
        )
    return wanted


def _milliseconds(time: float) -> str:
    return f"{math.ceil(time * 1000)}ms"


def _ports(given: Any) -> list[int] | int | None:
    try:
        return [int(port) for port in given] if isinstance(given, list) else int(given or 0) or None
    except (TypeError, ValueError, OverflowError):
        raise ConfigurationError("The port of a PostgreSQL store must be a number.") from None


def _address(login: Mapping[str, Any]) -> str:
    hosts, ports = login.get("host", "the default host"), login["port"]
    if isinstance(hosts, list) and isinstance(ports, list) and len(hosts) == len(ports):
        return ", ".join(f"{host}:{port}" for host, port in zip(hosts, ports, strict=True))
    return f"{hosts}:{ports}" if ports else f"{hosts}"
