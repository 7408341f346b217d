"""Docstrings: what they say of a function and of its parameters."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Docstring:
    """A docstring's first part, and what it says of each parameter."""

    description: str
    parameters: dict[str, str]


_SECTION = re.compile(r"(Args|Arguments|Parameters|Returns?|Raises|Yields|Attributes):\s*$")
_FIELD = re.compile(r":(param|type|returns?|rtype|raises?)\b([^:]*):\s*(.*)")
_ITEM = re.compile(r"(\w+)\s*(?:\(.*?\))?\s*:\s*(.*)")


def parse_docstring(text: str) -> Docstring:
    """Read a Google style (`Args:`) or Sphinx style (`:param x:`) docstring."""
    lines = inspect.cleandoc(text).splitlines()
    end = next((n for n, line in enumerate(lines) if _SECTION.match(line) or _FIELD.match(line)), len(lines))
    found = {**_google_items(lines[end:]), **_sphinx_fields(lines[end:])}
    return Docstring("\n".join(lines[:end]).strip(), {name: " ".join(parts) for name, parts in found.items()})


def _google_items(lines: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    parts: list[str] = []
    inside, margin = False, 0
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line and not indent:
            inside, margin = line.startswith(("Args", "Arguments", "Parameters")), 0
        elif inside and line.strip():
            margin = margin or indent
            item = _ITEM.match(line.strip()) if indent == margin else None
            if item:
                parts = found.setdefault(item[1], [])
            parts.append(item[2] if item else line.strip())
    return found


def _sphinx_fields(lines: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    parts: list[str] = []
    for line in lines:
        field = _FIELD.match(line)
        if field:
            names = field[2].split()
            parts = found.setdefault(names[-1], []) if field[1] == "param" and names else []
            parts.append(field[3])
        elif line.strip():
            parts.append(line.strip())
    return found
