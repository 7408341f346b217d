"""Reads the options of a store: numbers and switches, from a URL or from a dict."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from thoughtgear.errors import ConfigurationError

DAY = 86400
_NAME = re.compile(r"[A-Za-z][A-Za-z_]{0,30}")
_TABLE_PREFIX = re.compile(r"(?!pg_|sqlite_)[a-z][a-z0-9_]{0,30}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ON, _OFF = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def first(names: Collection[Any]) -> str:
    """Return the first of these names as a message may show it: what is no plain name may be a secret that
    went astray, and is not repeated."""
    name = min(map(str, names))
    return repr(name) if _NAME.fullmatch(name) else "of that name"


def folder(options: Mapping[str, Any], needed: str) -> Path:
    """Return the option `path`. Raises `ConfigurationError(needed)` where there is none that can be one."""
    given = options.get("path")
    text = str(given) if isinstance(given, str | Path) else ""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        text = ""
    if not text or _CONTROL.search(text):
        raise ConfigurationError(needed)
    return Path(text)


def table_prefix(options: Mapping[str, Any]) -> str:
    """Return what the names of tables begin with, if anything. It goes into statements: whatever is not plain
    is refused by `ConfigurationError`, which doesn't repeat it."""
    given = options.get("table_prefix", "")
    if not isinstance(given, str) or (given and not _TABLE_PREFIX.fullmatch(given)):
        raise ConfigurationError(
            "table_prefix begins with a letter and has up to 31 of a-z, 0-9 and _; pg_ and sqlite_ are taken."
        )
    return given


def seconds(options: Mapping[str, Any], name: str, default: float) -> float:
    """Return a time in seconds. Raises `ConfigurationError`, which doesn't repeat the value."""
    return _number(options, name, default)


def count(options: Mapping[str, Any], name: str, default: int) -> int:
    """Return a number, at least one. Raises `ConfigurationError`, which doesn't repeat the value."""
    number = _number(options, name, default)
    if not number.is_integer():
        raise ConfigurationError(f"{name} must be a whole number.")
    return int(number)


def switch(options: Mapping[str, Any], name: str, default: bool) -> bool:
    """Return whether it is on. Raises `ConfigurationError`, which doesn't repeat the value."""
    value = str(options.get(name, default)).lower()
    if value not in (*_ON, *_OFF):
        raise ConfigurationError(f"{name} must be true or false.")
    return value in _ON


def _number(options: Mapping[str, Any], name: str, default: float) -> float:
    try:
        number = float(options.get(name, default))
    except (TypeError, ValueError, OverflowError):
        number = 0.0
    if not 0 < number <= DAY:
        raise ConfigurationError(f"{name} must be a number above 0, up to {DAY}.")
    return number
