"""Reads the argument of `RunWorkflow`: it may come from any client in any language."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from thoughtgear.errors import InvalidInputError
from thoughtgear.payloads import Carried, RunInput, restored
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
        # A name that is none may be a prompt that went astray.
        shown = ", ".join(name if name.isidentifier() else "one that is no name" for name in unknown[:5])
        raise InvalidInputError(f"Unknown fields: {shown[:200]}; known: {', '.join(_TYPES)}.")
    wrong = [key for key, value in given.items() if not isinstance(value, _TYPES[key])]
    if wrong:
        needed = ", ".join(f"{key} has to be {_NAMES[_TYPES[key]]}" for key in wrong)
        raise InvalidInputError(f"Wrong types: {needed}.")
    if bool(given.get("prompt")) == bool(given.get("run_id")):
        raise InvalidInputError("Give either prompt (the text of a new run) or run_id (a run in the store).")
    carried = given.pop("carried", None)
    return RunInput(**given, carried=_read_carried(carried) if carried is not None else None)


MESSAGE = 2_000_000
"""Bytes that the argument of an activity may have: Temporal's limit is 2 MiB, and a workflow over it ends."""


def read_message(message: Any) -> tuple[str, str | None] | None:
    """Return the text and the request id of a `send` signal; None for what is no message, or is too large
    to be handed on."""
    if not isinstance(message, dict):
        return None
    text, given = message.get("text"), message.get("request_id")
    request_id = given if isinstance(given, str) and given else None
    if not isinstance(text, str) or not text:
        return None
    size = len(json.dumps([text, request_id]))  # as the data converter writes it: 6 bytes for an ä
    return (text, request_id) if size < MESSAGE else None


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
        whole = typed and _is_whole(carried)
        if whole:
            render(carried, run_id=None, status="")
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise InvalidInputError("carried is what a workflow hands to its successor; leave it out.")
    return carried


_NUMBERS: dict[type, Any] = {float: int | float}

_MOST = 2**53


def _is_whole(carried: Carried) -> bool:
    """Whether nothing in there can stop the workflow later, where an error would be tried again for ever."""
    numbers = [carried.iteration, carried.version, carried.waited, *carried.totals]
    facts = [carried.facts.get(name, "") for name in ("model", "session", "shown")]
    return (
        all(isinstance(number, int | float) and abs(number) < _MOST for number in numbers)
        and carried.iteration >= 1
        and carried.version >= 0
        and len(carried.totals) in (0, 5)
        and all(isinstance(fact, str) and len(fact) <= FACT for fact in facts)
        and isinstance(carried.facts.get("search", []), list)
    )


FACT = 255
"""How many characters of a name the search attributes take."""
