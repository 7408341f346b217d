"""What comes from generateContent: chunks, put together to a `ModelReply`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from thoughtgear.models import Usage
from thoughtgear.providers.answers import MOST_CALLS
from thoughtgear.providers.partial_reply import Part, PartialReply
from thoughtgear.providers.pieces import count, json_text, mapping, mappings, text_of

SIGNATURE = "thoughtSignature"
FILTERED = frozenset(
    (
        "BLOCKLIST",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "IMAGE_SAFETY",
        "MODEL_ARMOR",
        "PROHIBITED_CONTENT",
        "RECITATION",
        "SAFETY",
        "SPII",
    )
)
BROKEN = frozenset(("MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL"))
"""Reasons for which a reply is none, through no fault of the request: another one may be better."""


@dataclass
class ContentBuilder(PartialReply):
    """Collects chunks. The reply is whole once a reason came; counts may follow it."""

    kind: ClassVar[str] = "generated content"
    limit: ClassVar[str] = "maxOutputTokens"
    provider: ClassVar[str] = "gemini"

    @property
    def broken(self) -> bool:
        return self.stop_reason is not None and self.stop_reason.upper() in BROKEN

    def add(self, chunk: Mapping[str, Any]) -> str:
        """Take a chunk; return the text that it adds."""
        self.model = text_of(chunk.get("modelVersion")) or self.model
        self.answer_id = text_of(chunk.get("responseId")) or self.answer_id
        if isinstance(chunk.get("usageMetadata"), Mapping):
            self.usage = read_usage(chunk["usageMetadata"])
        self.started = self.started or "candidates" in chunk
        if mapping(chunk.get("promptFeedback")).get("blockReason"):
            self.started, self.stop_reason = True, "content_filter"
        candidate = next(mappings(chunk.get("candidates")), {})
        parts = mappings(mapping(candidate.get("content")).get("parts"))
        text = "".join([self._part(part) for part in parts])
        self._end(text_of(candidate.get("finishReason")))
        return text

    def add_whole(self, answer: Any) -> str:
        """Take the answer of a server that doesn't stream: a chunk, or a list of them; return its text."""
        return "".join(
            [self.add(chunk) for chunk in mappings(answer if isinstance(answer, list) else [answer])]
        )

    def _part(self, given: Mapping[str, Any]) -> str:
        own = {SIGNATURE: given[SIGNATURE]} if text_of(given.get(SIGNATURE)) else {}
        if isinstance(given.get("functionCall"), Mapping):
            self._call(given["functionCall"], own)
            return ""
        text = text_of(given.get("text"))
        if given.get("thought"):
            # A summary of the reasoning is for people; what the model itself wants back is signed.
            if own:
                self._append(Part(own={**own, "thought": True, "text": text}))
            return ""
        last = self.content[-1] if self.content else None
        if last is not None and last.name is None and not last.own and not own:
            last.texts.append(text)
        elif text or own:
            self._append(Part(texts=[text], own=own))
        return text

    def _call(self, function: Mapping[str, Any], own: dict[str, Any]) -> None:
        id_ = text_of(function.get("id"))
        part = Part(name=text_of(function.get("name")), own={**own, **({"id": id_} if id_ else {})})
        arguments = function.get("args")
        if arguments is not None:
            part.arguments.add(json_text(arguments))
        self._append(part)

    def _append(self, part: Part) -> None:
        if len(self.content) <= MOST_CALLS:
            self.content.append(part)

    def _end(self, reason: str) -> None:
        called = any(part.name is not None for part in self.content)
        if reason in FILTERED:
            self.stop_reason = "content_filter"
        elif reason in ("STOP", "MAX_TOKENS"):
            self.stop_reason = "length" if reason == "MAX_TOKENS" else "tool_calls" if called else "stop"
        elif reason:
            self.stop_reason = reason.lower()


def read_usage(usage: Mapping[str, Any]) -> Usage:
    """Return the token counts; what the server leaves out is 0."""
    thought = count(usage, "thoughtsTokenCount")
    return Usage(
        input_tokens=count(usage, "promptTokenCount") + count(usage, "toolUsePromptTokenCount"),
        output_tokens=count(usage, "candidatesTokenCount") + thought,
        cached_tokens=count(usage, "cachedContentTokenCount"),
        reasoning_tokens=thought,
    )
