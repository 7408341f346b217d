"""Reads the argument of `RunWorkflow`: it may come from any client in any language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from thoughtgear.errors import InvalidInputError
from thoughtgear.models import Carried, RunInput, restored
from thoughtgear.workflows.details import render

_TYPES: dict[str, type] = {
    "prompt": str,
    "handler": str,
    "run_id": str,
    "session_id": str,
    "user_id": str,
    "metadata": dict,
    "carried": dict,
}


def read_input(args: Sequence[Any]) -> RunInput:
    """Return the input. Raises `InvalidInputError`, which quotes no value."""
    if len(args) != 1 or not isinstance(args[0], dict):
        raise InvalidInputError('RunWorkflow takes one JSON object, such as {"prompt": "…"}.')
    given = {key: value for key, value in args[0].items() if value is not None}
    unknown = sorted(given.keys() - _TYPES)
    if unknown:
        raise InvalidInputError(f"Unknown fields: {str(unknown)[:200]}; known: {', '.join(_TYPES)}.")
    wrong = [key for key, value in given.items() if not isinstance(value, _TYPES[key])]
    if wrong:
        needed = ", ".join(f"{key} has to be {_NAMES[_TYPES[key]]}" for key in wrong)
        raise InvalidInputError(f"Wrong types: {needed}.")
    if bool(given.get("prompt")) == bool(given.get("run_id")):
        raise InvalidInputError("Give either prompt (the text of a new run) or run_id (a run in the store).")
    carried = given.pop("carried", None)
    return RunInput(**given, carried=_read_carried(carried) if carried is not None else None)


_NAMES: dict[type, str] = {str: "a string", dict: "an object"}


def _read_carried(value: dict[str, Any]) -> Carried:
    """An older worker may read what a newer one carried: what it does not know is left out."""
    blank = Carried()
    known = {item.name: type(getattr(blank, item.name)) for item in fields(Carried)}
    carried = restored(Carried, value)
    try:
        typed = all(
            isinstance(getattr(carried, key), _NUMBERS.get(kind, kind)) for key, kind in known.items()
        )
        render(carried, run_id=None, status="")
    except (TypeError, ValueError):
        typed = False
    if not typed:
        raise InvalidInputError("carried is what a workflow hands to its successor; leave it out.")
    return carried


_NUMBERS: dict[type, Any] = {float: int | float}
