"""What comes from a Chat Completions endpoint: chunks or one whole answer, put together to a `ModelReply`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thoughtgear.models import Usage
from thoughtgear.protocols import ModelReply, RequestedCall


@dataclass
class PartialCall:
    """A tool call as far as it has come."""

    index: int | None
    id: str = ""
    name: str = ""
    arguments: str = ""

    def extend(self, id_: str, name: str, arguments: str) -> None:
        """Take a delta. A name comes whole, comes again with every delta, or comes in pieces."""
        self.id = self.id or id_
        if name != self.name and not self.arguments:
            self.name += name
        self.arguments += arguments

    def complete(self) -> bool:
        """Whether the arguments are whole JSON already."""
        if not self.arguments.rstrip().endswith("}"):
            return False
        try:
            json.loads(self.arguments)
        except (ValueError, RecursionError):
            return False
        return True

    def followed_by_another(self, id_: str, name: str, arguments: str) -> bool:
        """Whether a delta for the same place begins another call.

        Servers exist that give every call the index 0 or none at all, that repeat one id for all calls,
        and that give a fresh id with every delta of one call. What all of them do is to name a new call,
        and to end the arguments of the last one first.
        """
        if not name:
            return False
        another_id = bool(id_ and self.id and id_ != self.id)
        if not self.arguments:
            return another_id or (self.index is None and not id_ and name != self.name)
        return self.complete() and (another_id or bool(arguments.strip()))


@dataclass
class ReplyBuilder:
    """Collects chunks. `started` once one was a completion's; `finished` once the server said why it
    stopped: then the reply is whole."""

    text: list[str] = field(default_factory=list)
    calls: list[PartialCall] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    model: str | None = None
    answer_id: str | None = None
    stop_reason: str | None = None
    started: bool = False

    @property
    def finished(self) -> bool:
        return self.stop_reason is not None

    def add(self, chunk: Mapping[str, Any]) -> str:
        """Take a chunk, or a whole answer; return the text that it adds."""
        self.model = _text(chunk.get("model")) or self.model
        self.answer_id = _text(chunk.get("id")) or self.answer_id
        if isinstance(chunk.get("usage"), Mapping):
            self.usage = read_usage(chunk["usage"])
        self.started = self.started or "choices" in chunk
        pieces = [self._choice(choice) for choice in _mappings(chunk.get("choices"))]
        piece = "".join(pieces)
        if piece:
            self.text.append(piece)
        return piece

    def _choice(self, choice: Mapping[str, Any]) -> str:
        if choice.get("index") not in (0, None):
            return ""
        self.stop_reason = _text(choice.get("finish_reason")) or self.stop_reason
        delta = choice.get("delta") or choice.get("message")
        if not isinstance(delta, Mapping):
            return ""
        for call in _mappings(delta.get("tool_calls")):
            self._call(call)
        # A refusal takes the place of the content; to the reader it is the answer.
        return _content(delta.get("content")) + _content(delta.get("refusal"))

    def _call(self, delta: Mapping[str, Any]) -> None:
        function = delta.get("function")
        function = function if isinstance(function, Mapping) else {}
        index = delta.get("index")
        index = index if isinstance(index, int) else None
        given = (_text(delta.get("id")), _text(function.get("name")), _arguments(function.get("arguments")))
        call = self._place(index, given[0])
        if call is None or call.followed_by_another(*given):
            call = PartialCall(index)
            self.calls.append(call)
        call.extend(*given)

    def _place(self, index: int | None, id_: str) -> PartialCall | None:
        """Find the call that a delta goes on with: the newest of its index, of its id, or of all."""
        newest = list(reversed(self.calls))
        if index is not None:
            return next((call for call in newest if call.index == index), None)
        by_id = next((call for call in newest if id_ and call.id == id_), None)
        return by_id or next(iter(newest), None)

    def build(self, request_id: str | None) -> ModelReply:
        """Return the reply. `request_id` is the one of the headers, better than the one in the chunks."""
        return ModelReply(
            text="".join(self.text),
            calls=[RequestedCall(call.name, call.arguments or "{}") for call in self.calls],
            usage=self.usage,
            model=self.model,
            stop_reason=self.stop_reason,
            request_id=request_id or self.answer_id,
        )


def read_usage(usage: Mapping[str, Any]) -> Usage:
    """Return the token counts; what the server leaves out is 0."""
    return Usage(
        input_tokens=_count(usage, "prompt_tokens"),
        output_tokens=_count(usage, "completion_tokens"),
        cached_tokens=_count(usage.get("prompt_tokens_details"), "cached_tokens"),
        reasoning_tokens=_count(usage.get("completion_tokens_details"), "reasoning_tokens"),
    )


def _count(counts: Any, name: str) -> int:
    value = counts.get(name) if isinstance(counts, Mapping) else None
    return value if isinstance(value, int) and value > 0 else 0


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _content(value: Any) -> str:
    """The text of a content: a text, or a list of parts where those of type text count."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "".join(_text(part.get("text")) for part in _mappings(value))
    return _text(value)


def _arguments(value: Any) -> str:
    """Arguments are JSON text; some servers send the object itself."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else _text(value)


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    return (item for item in value if isinstance(item, Mapping)) if isinstance(value, list) else iter(())
