"""Reads the options of a store: numbers and switches, from a URL or from a dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thoughtgear.errors import ConfigurationError

DAY = 86400
_ON, _OFF = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


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
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number <= DAY:
        raise ConfigurationError(f"{name} must be a number above 0, up to {DAY}.")
    return number
