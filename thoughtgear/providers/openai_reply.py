"""What comes from a Chat Completions endpoint: chunks or one whole answer, put together to a `ModelReply`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from thoughtgear.models import Native, ReplyPart, Usage
from thoughtgear.protocols import ModelReply, RequestedCall
from thoughtgear.providers.answers import MOST_CALLS
from thoughtgear.providers.chat_reasoning import PROVIDER, Reasoning, extra_of
from thoughtgear.providers.partial_reply import CUT_REASONS, Progress
from thoughtgear.providers.pieces import JsonObject, count, mapping, mappings, text_of

_NAME_LETTERS = 256


@dataclass
class PartialCall:
    """A tool call as far as it has come."""

    index: int | None
    id: str = ""
    name: str = ""
    arguments: JsonObject = field(default_factory=JsonObject)
    extra: dict[str, Any] = field(default_factory=dict)

    def extend(self, id_: str, name: str, arguments: str) -> None:
        """Take a delta. A name comes whole, comes again with every delta, or comes in pieces."""
        self.id = self.id or id_
        if name != self.name and not self.arguments and len(self.name) < _NAME_LETTERS:
            self.name += name
        self.arguments.add(arguments)

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
        return self.arguments.whole and (another_id or bool(arguments.strip()))


@dataclass
class ReplyBuilder(Progress):
    """Collects chunks. `started` once one was a completion's, `chosen` once it held a choice; `finished` once
    the server said why it stopped: then the reply is whole."""

    limit: ClassVar[str] = "max_completion_tokens"

    text: list[str] = field(default_factory=list)
    calls: list[PartialCall] = field(default_factory=list)
    chosen: bool = False
    reasoning: Reasoning = field(default_factory=Reasoning)

    @property
    def parts(self) -> int:
        return len(self.calls)

    @property
    def broken(self) -> bool:
        """Also where a gateway says that the model behind it failed, or wrote a call that is none."""
        reason = (self.stop_reason or "").lower()
        return super().broken or reason == "error" or (self.empty and "malformed" in reason)

    @property
    def empty(self) -> bool:
        """Whether the reply says nothing at all."""
        return not self.calls and not any(self.text)

    def add(self, chunk: Mapping[str, Any]) -> str:
        """Take a chunk; return the text that it adds."""
        self.model = text_of(chunk.get("model")) or self.model
        self.answer_id = text_of(chunk.get("id")) or self.answer_id
        if isinstance(chunk.get("usage"), Mapping):
            self.usage = read_usage(chunk["usage"])
        self.started = self.started or "choices" in chunk
        pieces = [self._choice(choice) for choice in mappings(chunk.get("choices"))]
        piece = "".join(pieces)
        if piece:
            self.text.append(piece)
        return piece

    def add_whole(self, answer: Any) -> str:
        """Take the answer of a server that doesn't stream; return its text."""
        piece = self.add(mapping(answer))
        if self.chosen:
            self.stop_reason = self.stop_reason or "stop"
        return piece

    def _choice(self, choice: Mapping[str, Any]) -> str:
        if choice.get("index") not in (0, None):
            return ""
        self.stop_reason = text_of(choice.get("finish_reason")) or self.stop_reason
        delta = choice.get("delta") or choice.get("message")
        if not isinstance(delta, Mapping):
            return ""
        self.chosen = True
        self.reasoning.add(delta)
        for call in mappings(delta.get("tool_calls")):
            self._call(call)
        # A refusal takes the place of the content; to the reader it is the answer.
        return _content(delta.get("content")) + _content(delta.get("refusal"))

    def _call(self, delta: Mapping[str, Any]) -> None:
        function = mapping(delta.get("function"))
        index = delta.get("index")
        index = index if isinstance(index, int) else None
        arguments = _arguments(function.get("arguments"))
        given = (text_of(delta.get("id")), text_of(function.get("name")), arguments)
        call = self._place(index, given[0])
        if call is None or call.followed_by_another(*given):
            if len(self.calls) > MOST_CALLS:
                return
            call = PartialCall(index)
            self.calls.append(call)
        call.extend(*given)
        call.extra |= extra_of(delta)

    def _place(self, index: int | None, id_: str) -> PartialCall | None:
        """Find the call that a delta goes on with: the newest of its index, of its id, or of all."""
        if index is not None:
            return next((call for call in reversed(self.calls) if call.index == index), None)
        by_id = next((call for call in reversed(self.calls) if id_ and call.id == id_), None)
        return by_id or next(reversed(self.calls), None)

    def build(self, model: str, request_id: str | None) -> ModelReply:
        """Return the reply; see `Builder`."""
        return ModelReply(
            text="".join(self.text),
            calls=[self._requested(call) for call in self.calls],
            usage=self.usage,
            model=self.model,
            stop_reason=self.stop_reason,
            request_id=request_id or self.answer_id,
            native=self._native(model),
        )

    def _native(self, model: str) -> Native | None:
        """What the server wants back, where it sent any of it."""
        own = self.reasoning.own()
        if not own and not any(call.extra for call in self.calls):
            return None
        parts = [ReplyPart(own=own), ReplyPart(letters=sum(map(len, self.text)))]
        parts += [ReplyPart(call=number, own=call.extra) for number, call in enumerate(self.calls)]
        return Native(provider=PROVIDER, model=model, parts=parts)

    def _requested(self, call: PartialCall) -> RequestedCall:
        whole = call.arguments.whole or self.stop_reason not in CUT_REASONS
        return RequestedCall(call.name, call.arguments.text() or "{}", whole)


def read_usage(usage: Mapping[str, Any]) -> Usage:
    """Return the token counts; what the server leaves out is 0."""
    return Usage(
        input_tokens=count(usage, "prompt_tokens"),
        output_tokens=count(usage, "completion_tokens"),
        cached_tokens=count(usage.get("prompt_tokens_details"), "cached_tokens"),
        reasoning_tokens=count(usage.get("completion_tokens_details"), "reasoning_tokens"),
    )


def _content(value: Any) -> str:
    """The text of a content: a text, or a list of parts where those of type text count."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "".join(text_of(part.get("text")) for part in mappings(value))
    return text_of(value)


def _arguments(value: Any) -> str:
    """Arguments are JSON text; some servers send the object itself. What is neither stays, for the model to
    read that it was wrong."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)
