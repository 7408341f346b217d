"""Values of environment variables, checked: an error names the variable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thoughtgear.errors import ConfigurationError

_TRUTH = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def switch(variable: str, value: str) -> bool:
    """Return whether the variable switches something on. Raises `ConfigurationError`."""
    found: bool = one_of(_TRUTH, variable, value.lower(), "1 or 0")
    return found


def one_of(choices: Mapping[str, Any], variable: str, value: str, shown: str) -> Any:
    """Return what the value stands for. Raises `ConfigurationError` that lists what is `shown`."""
    if value not in choices:
        raise ConfigurationError(f"{variable} is {value!r}; set it to one of: {shown}.")
    return choices[value]
