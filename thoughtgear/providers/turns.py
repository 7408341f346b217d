"""The conversation as every provider needs it: turns with their results, safe names, ids and arguments, and
what an attached file is."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thoughtgear.errors import ModelRejectedError
from thoughtgear.models import Attachment, Message, ReplyPart, ToolCall, ToolResult
from thoughtgear.protocols import ModelRequest

MALFORMED = "malformed_arguments"
IMAGES = frozenset(("image/png", "image/jpeg", "image/gif", "image/webp"))
PDF = "application/pdf"
TEXTS = frozenset(
    (
        "application/json",
        "application/x-ndjson",
        "application/javascript",
        "application/toml",
        "application/xml",
        "application/x-yaml",
        "application/yaml",
        "application/sql",
        "application/x-sh",
    )
)


Block = dict[str, Any]


def add_blocks(wire: list[Block], role: str, blocks: list[Block]) -> None:
    """Add a message of blocks. Two of one role in a row become one, as Anthropic and Bedrock want it; they
    refuse an empty one, which is left out."""
    if not blocks:
        return
    if wire and wire[-1]["role"] == role:
        wire[-1]["content"].extend(blocks)
    else:
        wire.append({"role": role, "content": blocks})


@dataclass(frozen=True)
class Call:
    """A call with its id on the wire and what it gave."""

    id: str
    call: ToolCall
    result: ToolResult

    @property
    def name(self) -> str:
        return wire_name(self.call.name)

    @property
    def input(self) -> dict[str, Any]:
        """The arguments as an object that JSON can hold."""
        return wire_object(self.call.arguments)

    @property
    def content(self) -> str:
        """The text of the result; one without text says how it ended."""
        return self.result.content or ("" if self.result.status == "ok" else self.result.status)

    @property
    def failed(self) -> bool:
        return self.result.status != "ok"


@dataclass(frozen=True)
class Turn:
    """A message of the user or of the model, the latter with its calls."""

    message: Message
    calls: Sequence[Call] = field(default_factory=list)

    @property
    def by_user(self) -> bool:
        return self.message.role == "user"

    def pieces(self, provider: str, model: str) -> Iterator[tuple[str, Call | None, dict[str, Any]]]:
        """Yield the reply in its order: a text, or a call, or neither, each with the fields that the provider
        wants back. Those of another provider or model are left out: nobody else can read them."""
        text, calls, own = self.message.text, list(self.calls), self.message.native
        if own is not None and (own.provider, own.model) == (provider, model):
            for part in own.parts:
                call = _taken(calls, self.calls, part)
                piece, text = text[: part.letters], text[part.letters :]
                yield piece, call, part.own
        if text:
            yield text, None, {}
        for call in calls:
            yield "", call, {}


def _taken(left: list[Call], calls: Sequence[Call], part: ReplyPart) -> Call | None:
    if part.call is None or not 0 <= part.call < len(calls) or calls[part.call] not in left:
        return None
    left.remove(calls[part.call])
    return calls[part.call]


def turns(messages: Sequence[Message]) -> Iterator[Turn]:
    """Yield the user's and the model's messages. Raises `ModelRejectedError` for a call without a result.

    Calls are numbered by their position in the conversation, for two reasons: our ids repeat across the
    runs of a conversation, and a longer conversation must begin with the same bytes as the shorter one, so
    that the provider's prompt cache holds. The ids have nine letters and digits because one provider takes
    no others.
    """
    number = 0
    for position, message in enumerate(messages):
        if message.role == "user":
            yield Turn(message)
        elif message.role == "assistant":
            results = dict(_results(messages[position + 1 :])) if message.tool_calls else {}
            calls = [_call(f"call{number + n:05d}", c, results) for n, c in enumerate(message.tool_calls)]
            number += len(calls)
            yield Turn(message, calls)


def _results(following: Sequence[Message]) -> Iterator[tuple[str, ToolResult]]:
    for message in following:
        if message.role == "assistant":
            return
        if message.tool_result is not None:
            yield message.tool_result.call_id, message.tool_result


def _call(id_: str, call: ToolCall, results: Mapping[str, ToolResult]) -> Call:
    if call.id not in results:
        raise ModelRejectedError(f"The transcript has no result for call {call.id}.")
    return Call(id_, call, results[call.id])


def wire_name(name: str) -> str:
    """Return the name of a call in the letters that providers accept: models invent others."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64] or "unnamed"


def wire_object(arguments: dict[str, Any] | str) -> dict[str, Any]:
    """Return the arguments as an object that JSON can hold.

    What the model wrote may be no JSON. Many servers refuse the whole conversation then, so it is wrapped
    into an object. An empty object would hide from the model what it did wrong.
    """
    if isinstance(arguments, dict):
        try:
            json.dumps(arguments, allow_nan=False)
        except ValueError:
            return {MALFORMED: json.dumps(arguments, ensure_ascii=False)}
        return arguments
    return {MALFORMED: arguments}


def wire_arguments(arguments: dict[str, Any] | str) -> str:
    """Return the arguments as the text of a JSON object; see `wire_object`."""
    return json.dumps(wire_object(arguments), ensure_ascii=False)


def has_budget(thinking: Any) -> bool:
    """Whether Claude's option `thinking` is the kind with a budget of tokens."""
    return isinstance(thinking, Mapping) and isinstance(thinking.get("budget_tokens"), int)


def calls_without_reasoning(provider: str, model: str, spoken: Sequence[Turn]) -> bool:
    """Whether the turn that goes on has a call by which no reasoning of this model stands: Claude can't begin
    to reason there."""
    last = next((turn for turn in reversed(spoken) if not turn.by_user), None)
    if last is None or not last.calls or spoken[-1].by_user:
        return False
    first = next(iter(last.pieces(provider, model)))
    return not first[2]


def forced(request: ModelRequest, choice: Any) -> str | None:
    """Read the option `tool_choice` where it is a word: "auto", "none", "required" or a tool's name. One that
    forces a call counts until the model has called something since the last prompt: for ever, no run would
    end. None: nothing is to be said. Raises `ModelRejectedError` for a name that no tool has."""
    if not request.tools or not isinstance(choice, str):
        return None
    if choice in ("auto", "none"):
        return choice
    if choice != "required" and choice not in {tool.name for tool in request.tools}:
        raise ModelRejectedError('The option tool_choice is "auto", "none", "required" or a tool\'s name.')
    return "auto" if _called_since_prompt(request.messages) else choice


def _called_since_prompt(messages: Sequence[Message]) -> bool:
    for message in reversed(messages):
        if message.role == "user" and not _sent_back(message):
            return False
        if message.tool_calls:
            return True
    return False


def _sent_back(message: Message) -> bool:
    """Whether the message is what a final answer was sent back with: it is nobody's prompt. What people say
    to a run that goes on has a request id."""
    return message.iteration > 0 and message.request_id is None


def merged(body: dict[str, Any], options: Mapping[str, Any], reserved: Collection[str]) -> dict[str, Any]:
    """Set the options in the body; None takes a field out. Raises `ModelRejectedError` for reserved ones."""
    taken = [name for name in reserved if name in options]
    if taken:
        raise ModelRejectedError(f"Model options may not set {', '.join(taken)}; remove it.")
    together = {**body, **options}
    return {name: value for name, value in together.items() if options.get(name, value) is not None}


def encoded(body: Mapping[str, Any]) -> bytes:
    """Return the body as JSON. Raises `ModelRejectedError` for an option that is none."""
    try:
        text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError):
        raise ModelRejectedError("A model option is not JSON; use numbers, texts, lists and dicts.") from None
    # A lone surrogate, which a model can write as an escape, has no UTF-8 form: it becomes a "?".
    return text.encode("utf-8", "replace")


@dataclass(frozen=True)
class AttachedFile:
    """An attachment with its bytes: a text, or of one of the kinds that the provider takes."""

    kind: str
    name: str
    data: bytes
    text: str | None = None

    @property
    def base64(self) -> str:
        return base64.b64encode(self.data).decode("ascii")


def read_file(
    attachment: Attachment, files: Mapping[str, bytes], kinds: Collection[str], supported: str
) -> AttachedFile:
    """Return the file. `kinds` are the media types beside texts that the provider takes, `supported` says so
    in words. Raises `ModelRejectedError`, which names no file."""
    kind = attachment.media_type.partition(";")[0].strip().lower()
    data = files.get(attachment.sha256)
    if data is None:
        raise ModelRejectedError("The bytes of an attached file are not in the store.")
    if kind in kinds:
        return AttachedFile(kind, attachment.name, data)
    if kind.startswith("text/") or kind in TEXTS or kind.endswith(("+json", "+xml")):
        return AttachedFile(kind, attachment.name, data, _named_text(attachment.name, data, supported))
    known = kind if re.fullmatch(r"[a-z0-9.+-]{1,60}/[a-z0-9.+-]{1,60}", kind) else "of an unknown type"
    raise ModelRejectedError(f"An attached file is {known}; {supported}.")


def _named_text(name: str, data: bytes, supported: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ModelRejectedError(f"An attached text file is not UTF-8; {supported}.") from None
    return f"<file name={json.dumps(name, ensure_ascii=False)}>\n{text}\n</file>"
