"""What comes from OpenAI's Responses API: events or one whole response, put together to a `ModelReply`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from thoughtgear.models import Usage
from thoughtgear.providers.answers import MOST_CALLS
from thoughtgear.providers.partial_reply import Part, PartialReply
from thoughtgear.providers.pieces import count, mapping, mappings, text_of

KEPT = ("type", "id", "summary", "encrypted_content")
"""What is sent of reasoning; the rest of an item is for reading."""

PHASES = ("commentary", "final_answer")


@dataclass
class ResponseBuilder(PartialReply):
    """Collects events. The reply is whole, and over, once the response is completed or incomplete."""

    kind: ClassVar[str] = "response of the Responses API"
    limit: ClassVar[str] = "max_output_tokens"
    provider: ClassVar[str] = "openai"

    _items: dict[int, Part] = field(default_factory=dict)

    def add(self, event: Mapping[str, Any]) -> str:
        """Take an event; return the text that it adds. Events of unknown types say nothing here."""
        kind = text_of(event.get("type"))
        self.started = self.started or kind.startswith("response.")
        match kind:
            case "response.created" | "response.in_progress":
                self._about(mapping(event.get("response")))
            case "response.output_item.added":
                self._open(event.get("output_index"), mapping(event.get("item")))
            case "response.output_item.done":
                return self._close(event.get("output_index"), mapping(event.get("item")))
            case "response.output_text.delta" | "response.refusal.delta":
                # A refusal takes the place of the text; to the reader it is the answer.
                return self._spoken(event.get("output_index"), text_of(event.get("delta")))
            case "response.function_call_arguments.delta":
                part = self._items.get(_index(event.get("output_index")))
                if part is not None and part.name is not None:
                    part.arguments.add(text_of(event.get("delta")))
            case "response.completed" | "response.incomplete":
                self._end(mapping(event.get("response")))
            case "response.failed":
                self._count(mapping(event.get("response")))
        return ""

    def add_whole(self, answer: Any) -> str:
        """Take the response of a server that doesn't stream; return its text."""
        response = mapping(answer)
        if response.get("object") != "response":
            return ""
        self.started = True
        self._about(response)
        pieces = [self._close(index, item) for index, item in enumerate(mappings(response.get("output")))]
        self._end(response)
        return "".join(pieces)

    def _about(self, response: Mapping[str, Any]) -> None:
        self.model = text_of(response.get("model")) or self.model
        self.answer_id = text_of(response.get("id")) or self.answer_id

    def _count(self, response: Mapping[str, Any]) -> None:
        self._about(response)
        self.usage = read_usage(mapping(response.get("usage")))

    def _open(self, index: Any, item: Mapping[str, Any]) -> Part:
        place = _index(index)
        if place not in self._items:
            name = text_of(item.get("name")) if item.get("type") == "function_call" else None
            self._items[place] = Part(name=name)
            if len(self.content) <= MOST_CALLS:
                self.content.append(self._items[place])
        return self._items[place]

    def _close(self, index: Any, item: Mapping[str, Any]) -> str:
        """An item that is done has all that came before in pieces, for servers that send none."""
        part = self._open(index, item)
        if item.get("type") == "reasoning" and text_of(item.get("encrypted_content")):
            part.own = {name: item[name] for name in KEPT if name in item}
        elif part.name is not None and not part.arguments:
            part.arguments.add(text_of(item.get("arguments")))
        elif item.get("type") == "message":
            # Whether it was said on the way or is the answer, where the model tells them apart.
            part.own = {"phase": item["phase"]} if item.get("phase") in PHASES else {}
            if part.texts:
                return ""
            contents = [*mappings(item.get("content"))]
            said = [text_of(each.get("text")) + text_of(each.get("refusal")) for each in contents]
            return self._spoken(index, "".join(said))
        return ""

    def _spoken(self, index: Any, text: str) -> str:
        part = self._open(index, {})
        if part.name is not None or not text:
            return ""
        part.texts.append(text)
        return text

    def _end(self, response: Mapping[str, Any]) -> None:
        self._count(response)
        called = any(part.name is not None for part in self.content)
        reasons = {"max_output_tokens": "length", "content_filter": "content_filter"}
        reason = text_of(mapping(response.get("incomplete_details")).get("reason"))
        if response.get("status") == "incomplete":
            self.stop_reason = reasons.get(reason, reason or "incomplete")
        elif response.get("status") == "completed":
            self.stop_reason = "tool_calls" if called else "stop"
        self.over = self.finished


def _index(value: Any) -> int:
    return value if isinstance(value, int) else -1


def read_usage(usage: Mapping[str, Any]) -> Usage:
    """Return the token counts; what the server leaves out is 0."""
    return Usage(
        input_tokens=count(usage, "input_tokens"),
        output_tokens=count(usage, "output_tokens"),
        cached_tokens=count(usage.get("input_tokens_details"), "cached_tokens"),
        reasoning_tokens=count(usage.get("output_tokens_details"), "reasoning_tokens"),
    )
