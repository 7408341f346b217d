"""The schema of an answer as Claude can be held to it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from thoughtgear.protocols import ModelRequest

HOLDS = re.compile(r"claude-[a-z]+-(4-([5-9]|[1-9]\d)|[5-9]|[1-9]\d)(?!\d)")
"""Models that are known to be held to a schema: others refuse the field."""

MOST_OPTIONAL = 24
"""Fields that may be left out, of a whole schema."""
FORMATS = frozenset(
    ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid")
)
_KEPT = ("title", "description", "enum", "const", "required", "$ref")
_DROPPED = frozenset(("additionalProperties", "anyOf", "oneOf", "default", "discriminator", "examples"))


class _CannotHoldError(Exception):
    """Something in the schema that the API takes no schema with."""


def held_schema(model: str, request: ModelRequest, wanted: bool | None) -> dict[str, Any] | None:
    """Return the schema that the answer is held to; None where it is told in words. `wanted` None: of the
    models that are known to be held to one."""
    hold = bool(HOLDS.search(model)) if wanted is None else wanted
    return held(request.output.schema) if hold and request.output is not None else None


def held(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what is sent in place of a schema; None where no model can be held to it.

    Bounds of numbers and texts are not among what the API takes: they are said in the description, and the
    answer is checked in any case.
    """
    try:
        made = _held(schema)
        names = schema.get("$defs", {})
        made |= {"$defs": {name: _held(each) for name, each in names.items()}} if names else {}
    except _CannotHoldError:
        return None
    return None if _recursive(names) or sum(_optional(made)) > MOST_OPTIONAL else made


def _held(node: Any) -> dict[str, Any]:
    if not isinstance(node, Mapping):
        raise _CannotHoldError
    made = {name: node[name] for name in _KEPT if name in node}
    left = {name: node[name] for name in node if name not in (*_KEPT, *_DROPPED, "type", "$defs")}
    variants = node.get("anyOf") or node.get("oneOf")
    if "$ref" in node:
        if not left and "description" not in made:
            return {"$ref": node["$ref"]}
        made["anyOf"] = [{"$ref": made.pop("$ref")}]  # beside the reference itself nothing may stand
    elif variants:
        made["anyOf"] = [_held(each) for each in variants]
    elif not {"enum", "const"} & made.keys():
        made |= _typed(node, left)
    if left:
        said = ", ".join(f"{name}: {value}" for name, value in left.items())
        made["description"] = f"{made.get('description', '')} ({said})".strip()
    return made


def _typed(node: Mapping[str, Any], left: dict[str, Any]) -> dict[str, Any]:
    """The keywords of a type; they are taken out of what is `left`."""
    kind = node.get("type")
    if kind == "object" and node.get("additionalProperties", False) is False:
        fields = {name: _held(each) for name, each in left.pop("properties", {}).items()}
        return {"type": kind, "properties": fields, "additionalProperties": False}
    if kind == "array" and "prefixItems" not in node:
        return {"type": kind, "items": _held(left.pop("items", None))}
    if kind == "string":
        known = left.get("format") in FORMATS
        return {"type": kind, **({"format": left.pop("format")} if known else {})}
    if kind in ("boolean", "integer", "null", "number"):
        return {"type": kind}
    raise _CannotHoldError


def _optional(node: Any) -> Iterator[int]:
    if isinstance(node, Mapping):
        if node.get("type") == "object":
            yield len(node["properties"]) - len(node.get("required", ()))
        for each in node.values():
            yield from _optional(each)
    elif isinstance(node, list):
        for each in node:
            yield from _optional(each)


def _recursive(names: Mapping[str, Any]) -> bool:
    """Whether a definition speaks of itself, which the API does not take."""
    below = {
        name: set(re.findall(r"'\$ref': '#/\$defs/([^']+)'", repr(each))) for name, each in names.items()
    }
    for _ in below:
        below = {name: found.union(*(below.get(each, ()) for each in found)) for name, found in below.items()}
    return any(name in found for name, found in below.items())
