"""What comes from the Messages API: events or one whole message, put together to a `ModelReply`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from thoughtgear.models import Usage
from thoughtgear.protocols import ModelReply
from thoughtgear.providers.answers import MOST_CALLS
from thoughtgear.providers.partial_reply import CUT_REASONS, Part, PartialReply
from thoughtgear.providers.pieces import count, json_text, mapping, mappings, text_of

STOP_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
REASONING = ("thinking", "redacted_thinking")


@dataclass
class MessageBuilder(PartialReply):
    """Collects events. The reply is whole once its stop reason came, and over with `message_stop`."""

    kind: ClassVar[str] = "message of the Messages API"
    provider: ClassVar[str] = "anthropic"

    _blocks: dict[int, Part] = field(default_factory=dict)
    _counts: dict[str, Any] = field(default_factory=dict)

    def add(self, event: Mapping[str, Any]) -> str:
        """Take an event; return the text that it adds. Events of unknown types are to be ignored."""
        match event.get("type"):
            case "message_start":
                self._begin(mapping(event.get("message")))
            case "content_block_start":
                return self._open(event.get("index"), mapping(event.get("content_block")))
            case "content_block_delta":
                return self._extend(event.get("index"), mapping(event.get("delta")))
            case "message_delta":
                self._end(mapping(event.get("delta")), mapping(event.get("usage")))
            case "message_stop":
                self.over = self.finished
        return ""

    def add_whole(self, answer: Any) -> str:
        """Take the message of a server that doesn't stream; return its text."""
        message = mapping(answer)
        if message.get("type") != "message":
            return ""
        self._begin(message)
        pieces = [self._open(n, block) for n, block in enumerate(mappings(message.get("content")))]
        self._end(message, mapping(message.get("usage")))
        return "".join(pieces)

    def build(self, model: str, request_id: str | None) -> ModelReply:
        """Return the reply; see `Builder`."""
        for part in self.content:
            if part.thoughts:
                part.own["thinking"] = text_of(part.own.get("thinking")) + "".join(part.thoughts)
                part.thoughts.clear()
            if self.stop_reason in CUT_REASONS and part.own.get("type") == "thinking":
                # It was cut before its signature, without which the API would not take it back.
                part.own = part.own if part.own.get("signature") else {}
        return super().build(model, request_id)

    def _begin(self, message: Mapping[str, Any]) -> None:
        self.started = True
        self.model = text_of(message.get("model")) or None
        self.answer_id = text_of(message.get("id")) or None
        self._count(mapping(message.get("usage")))

    def _open(self, index: Any, block: Mapping[str, Any]) -> str:
        kind = block.get("type")
        if not isinstance(index, int) or len(self.content) > MOST_CALLS:
            return ""
        part = Part()
        if kind == "tool_use":
            part.name = text_of(block.get("name"))
            if block.get("input"):
                part.arguments.add(json_text(block["input"]))
        elif kind in REASONING:
            part.own = dict(block)
        elif kind != "text":
            return ""  # of a tool of the server's own, which nothing here asks for
        self._blocks[index] = part
        self.content.append(part)
        return _spoken(part, text_of(block.get("text"))) if kind == "text" else ""

    def _extend(self, index: Any, delta: Mapping[str, Any]) -> str:
        part = self._blocks.get(index) if isinstance(index, int) else None
        if part is None:
            return ""
        match delta.get("type"):
            case "text_delta" if part.name is None and not part.own:
                return _spoken(part, text_of(delta.get("text")))
            case "input_json_delta" if part.name is not None:
                part.arguments.add(text_of(delta.get("partial_json")))
            case "thinking_delta" if part.own:
                part.thoughts.append(text_of(delta.get("thinking")))
            case "signature_delta" if part.own:
                part.own["signature"] = text_of(delta.get("signature"))
        return ""

    def _end(self, delta: Mapping[str, Any], usage: Mapping[str, Any]) -> None:
        self._count(usage)
        reason = text_of(delta.get("stop_reason"))
        if reason:
            self.stop_reason = STOP_REASONS.get(reason, reason)

    def _count(self, usage: Mapping[str, Any]) -> None:
        """Counts grow with the events; what a later one leaves out stays."""
        self._counts |= {name: value for name, value in usage.items() if value is not None}
        cached, written = (count(self._counts, f"cache_{way}_input_tokens") for way in ("read", "creation"))
        thought = count(self._counts.get("output_tokens_details"), "thinking_tokens")
        self.usage = Usage(
            input_tokens=count(self._counts, "input_tokens") + cached + written,
            output_tokens=count(self._counts, "output_tokens"),
            cached_tokens=cached,
            cache_write_tokens=written,
            reasoning_tokens=thought,
        )


def _spoken(part: Part, text: str) -> str:
    if text:
        part.texts.append(text)
    return text
