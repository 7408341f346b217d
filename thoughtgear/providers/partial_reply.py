"""A reply as far as it has come, in the provider's own order, and the `ModelReply` that it becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from thoughtgear.errors import ModelRejectedError, ModelUnavailableError
from thoughtgear.models import Native, ReplyPart, Usage
from thoughtgear.protocols import ModelReply, RequestedCall
from thoughtgear.providers.failures import identifier
from thoughtgear.providers.pieces import JsonObject

CUT_REASONS = frozenset(("length", "content_filter"))
"""Reasons for which a reply may end in the middle of a call."""


@dataclass
class Progress:
    """What is known of a reply beside its content. `stop_reason` in the words of `ModelReply`."""

    kind: ClassVar[str] = "chat completion"
    limit: ClassVar[str] = "max_tokens"

    usage: Usage = field(default_factory=Usage)
    model: str | None = None
    answer_id: str | None = None
    stop_reason: str | None = None
    started: bool = False
    over: bool = False

    @property
    def finished(self) -> bool:
        return self.stop_reason is not None

    @property
    def empty(self) -> bool:
        """Whether the reply says nothing at all."""
        raise NotImplementedError

    @property
    def broken(self) -> bool:
        """Whether it ended for a call that it doesn't hold."""
        return self.empty and self.stop_reason in ("tool_calls", "function_call")

    def check_end(self, where: str, request_id: str | None) -> None:
        """Raise a `ModelError` for a reply that has come to its end and is no answer."""
        if self.stop_reason == "content_filter":
            text = f"{where}: the provider's content filter stopped the reply"
            raise ModelRejectedError(text, request_id=request_id)
        if self.stop_reason == "length" and self.empty:
            text = f"{where}: the reply reached its limit of tokens before it said anything; allow more"
            raise ModelRejectedError(text, request_id=request_id)
        if self.broken:
            word = identifier(self.stop_reason)
            text = f"{where}: the model's reply is broken" + (f" ({word})" if word else "")
            raise ModelUnavailableError(text, request_id=request_id, begun=True)


@dataclass
class Part:
    """A part of a reply as far as it has come: a text, a call where it has a name, or the provider's own,
    such as `thoughts`."""

    name: str | None = None
    texts: list[str] = field(default_factory=list)
    arguments: JsonObject = field(default_factory=JsonObject)
    thoughts: list[str] = field(default_factory=list)
    own: dict[str, Any] = field(default_factory=dict)


@dataclass
class PartialReply(Progress):
    """Parts in the order in which the provider began them."""

    provider: ClassVar[str]

    content: list[Part] = field(default_factory=list)

    @property
    def parts(self) -> int:
        return len(self.content)

    @property
    def empty(self) -> bool:
        """Whether the reply says nothing at all."""
        return not any(part.name is not None or any(part.texts) for part in self.content)

    def build(self, model: str, request_id: str | None) -> ModelReply:
        """Return the reply; see `Builder`."""
        called = [part for part in self.content if part.name is not None]
        return ModelReply(
            text="".join(piece for part in self.content for piece in part.texts),
            calls=[self._requested(part) for part in called],
            usage=self.usage,
            model=self.model or model,
            stop_reason=self.stop_reason,
            request_id=request_id or self.answer_id,
            native=self._native(model),
        )

    def _requested(self, part: Part) -> RequestedCall:
        whole = part.arguments.whole or self.stop_reason not in CUT_REASONS
        return RequestedCall(part.name or "", part.arguments.text() or "{}", whole)

    def _native(self, model: str) -> Native | None:
        """The parts in their order, where there is more to them than text and calls."""
        if not any(part.own for part in self.content):
            return None
        return Native(provider=self.provider, model=model, parts=_numbered(self.content))


def _numbered(content: Sequence[Part]) -> list[ReplyPart]:
    made: list[ReplyPart] = []
    calls = 0
    for part in content:
        letters = sum(map(len, part.texts))
        made.append(ReplyPart(letters=letters, call=calls if part.name is not None else None, own=part.own))
        calls += part.name is not None
    return made
