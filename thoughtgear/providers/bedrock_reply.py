"""What comes from ConverseStream: events, put together to a `ModelReply`."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from thoughtgear.models import Usage
from thoughtgear.protocols import ModelReply
from thoughtgear.providers.answers import MOST_CALLS
from thoughtgear.providers.partial_reply import Part, PartialReply
from thoughtgear.providers.pieces import count, mapping, text_of

STOP_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
}
BROKEN = frozenset(("malformed_model_output", "malformed_tool_use"))


@dataclass
class ConverseBuilder(PartialReply):
    """Collects events. The reply is whole once its stop reason came; the counts follow it."""

    kind: ClassVar[str] = "stream of Converse"
    limit: ClassVar[str] = "maxTokens"
    provider: ClassVar[str] = "bedrock"

    _blocks: dict[int, Part] = field(default_factory=dict)

    @property
    def broken(self) -> bool:
        return super().broken or self.stop_reason in BROKEN

    def add(self, event: Mapping[str, Any]) -> str:
        """Take an event; return the text that it adds."""
        self.started = True
        if "contentBlockStart" in event:
            self._open(mapping(event["contentBlockStart"]))
        elif "contentBlockDelta" in event:
            return self._extend(mapping(event["contentBlockDelta"]))
        elif "messageStop" in event:
            reason = text_of(mapping(event["messageStop"]).get("stopReason"))
            self.stop_reason = STOP_REASONS.get(reason, reason) or self.stop_reason
        elif "metadata" in event:
            self.usage = read_usage(mapping(mapping(event["metadata"]).get("usage")))
        return ""

    def build(self, model: str, request_id: str | None) -> ModelReply:
        """Return the reply; see `Builder`."""
        for part in self.content:
            if part.thoughts:
                part.own = {
                    "reasoningText": {**part.own.get("reasoningText", {}), "text": "".join(part.thoughts)}
                }
                part.thoughts.clear()
        return super().build(model, request_id)

    def _open(self, given: Mapping[str, Any]) -> None:
        call = given.get("start", {}).get("toolUse")
        if isinstance(call, Mapping):
            self._part(given).name = text_of(call.get("name"))

    def _part(self, given: Mapping[str, Any]) -> Part:
        index = given.get("contentBlockIndex")
        index = index if isinstance(index, int) else -1
        if index not in self._blocks:
            self._blocks[index] = Part()
            if len(self.content) <= MOST_CALLS:
                self.content.append(self._blocks[index])
        return self._blocks[index]

    def _extend(self, given: Mapping[str, Any]) -> str:
        delta, part = mapping(given.get("delta")), self._part(given)
        if "toolUse" in delta:
            part.arguments.add(text_of(mapping(delta["toolUse"]).get("input")))
        elif "reasoningContent" in delta:
            _reason(part, mapping(delta["reasoningContent"]))
        elif part.name is None and (text := text_of(delta.get("text"))):
            part.texts.append(text)
            return text
        return ""


def _reason(part: Part, delta: Mapping[str, Any]) -> None:
    if isinstance(delta.get("redactedContent"), bytes):
        part.own = {"redactedContent": base64.b64encode(delta["redactedContent"]).decode("ascii")}
    if text_of(delta.get("text")):
        part.thoughts.append(delta["text"])
    if text_of(delta.get("signature")):
        known = part.own.get("reasoningText", {})
        signature = known.get("signature", "") + delta["signature"]
        part.own = {"reasoningText": {"text": "", **known, "signature": signature}}


def read_usage(usage: Mapping[str, Any]) -> Usage:
    """Return the token counts. Converse counts what the cache gave and took apart from the input."""
    cached, written = count(usage, "cacheReadInputTokens"), count(usage, "cacheWriteInputTokens")
    return Usage(
        input_tokens=count(usage, "inputTokens") + cached + written,
        output_tokens=count(usage, "outputTokens"),
        cached_tokens=cached,
        cache_write_tokens=written,
    )
