"""What servers of Chat Completions add to a reply of what the model reasoned, and want back with it.

OpenAI's own protocol has nothing of it. Its relatives have one of these fields, and some refuse a call that
comes back without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from thoughtgear.providers.pieces import mapping, mappings, text_of

PROVIDER = "openai-chat"
"""Under which name a transcript keeps it: the Responses API can't read it."""

TEXTS = ("reasoning_content", "reasoning")
DETAILS = "reasoning_details"
OF_A_CALL = "extra_content"
_GROW = ("text", "summary", "data")


@dataclass
class Detail:
    """An entry of `reasoning_details` as far as it has come."""

    fields: dict[str, Any]
    grown: dict[str, list[str]] = field(default_factory=dict)

    def goes_on(self, given: Mapping[str, Any]) -> bool:
        """Whether a delta belongs to this entry."""
        return all(self.fields.get(name) == given.get(name) for name in ("type", "index"))

    def add(self, given: Mapping[str, Any]) -> None:
        for name, value in given.items():
            if name in _GROW and isinstance(value, str):
                self.grown.setdefault(name, []).append(value)
            elif value is not None:
                self.fields[name] = value

    def whole(self) -> dict[str, Any]:
        return {**self.fields, **{name: "".join(pieces) for name, pieces in self.grown.items()}}


@dataclass
class Reasoning:
    """What came of reasoning with a reply."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    details: list[Detail] = field(default_factory=list)

    def add(self, delta: Mapping[str, Any]) -> None:
        """Take what a delta, or a whole message, has of it."""
        for name in TEXTS:
            if text_of(delta.get(name)):
                self.texts.setdefault(name, []).append(delta[name])
        for given in mappings(delta.get(DETAILS)):
            if not self.details or not self.details[-1].goes_on(given):
                self.details.append(Detail({}))
            self.details[-1].add(given)

    def own(self) -> dict[str, Any]:
        """What goes back: the entries where there are some, for they hold the signatures."""
        if self.details:
            return {DETAILS: [detail.whole() for detail in self.details]}
        return {name: "".join(pieces) for name, pieces in self.texts.items()}


def extra_of(call: Mapping[str, Any]) -> dict[str, Any]:
    """What stands beside a call, such as Google's signature of it."""
    extra = mapping(call.get(OF_A_CALL))
    return {OF_A_CALL: dict(extra)} if extra else {}


def of_message(own: Mapping[str, Any]) -> dict[str, Any]:
    """What of a part goes into a message."""
    return {name: own[name] for name in (*TEXTS, DETAILS) if name in own}


def of_call(own: Mapping[str, Any]) -> dict[str, Any]:
    """What of a part goes beside a call."""
    return {OF_A_CALL: own[OF_A_CALL]} if OF_A_CALL in own else {}
