"""What goes to the Messages API: a `ModelRequest` as its JSON body."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from thoughtgear.models import Attachment, Message
from thoughtgear.protocols import ModelRequest, ToolSpec
from thoughtgear.providers.held_schema import held_schema
from thoughtgear.providers.turns import (
    IMAGES,
    PDF,
    Block,
    Call,
    Turn,
    add_blocks,
    calls_without_reasoning,
    encoded,
    forced,
    has_budget,
    merged,
    read_file,
    turns,
)

PROVIDER = "anthropic"
RESERVED = ("messages", "stream", "system", "tools")
"""Fields that `options` may not set: the loop depends on them."""

MAX_TOKENS = 16_384
"""Of a reply, where no option says so: the API wants a number. A budget of reasoning comes on top."""

_SUPPORTED = "this provider takes UTF-8 text files, PDF, and png, jpeg, gif and webp images"
SAID = ("text", "tool_use")
_CHOICES = {"auto": "auto", "none": "none", "required": "any"}


def encode_request(
    model: str, request: ModelRequest, *, cache: str | None = "5m", json_schema: bool | None = None
) -> bytes:
    """Return the body. Raises `ModelRejectedError` for what can't be sent."""
    schema = held_schema(model, request, json_schema)
    context = request.instructed_context if schema is None else request.context
    spoken = list(turns(request.messages))
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": MAX_TOKENS,
        "messages": wire_messages(model, spoken, request.files),
        "stream": True,
    }
    if context.strip():
        body["system"] = [{"type": "text", "text": context}]
    if request.tools:
        body["tools"] = [_tool(spec) for spec in request.tools]
    _mark(body, cache)
    options = _options(model, request, spoken)
    if schema is not None:
        given = options.get("output_config")
        own = given if isinstance(given, Mapping) else {}
        options["output_config"] = {"format": {"type": "json_schema", "schema": schema}, **own}
    return encoded(merged(body, options, RESERVED))


def _tool(spec: ToolSpec) -> Block:
    return {"name": spec.name, "description": spec.description, "input_schema": spec.parameters}


def _options(model: str, request: ModelRequest, spoken: Sequence[Turn]) -> dict[str, Any]:
    options = dict(request.options)
    if isinstance(options.get("tool_choice"), str):
        options["tool_choice"] = _choice(forced(request, options["tool_choice"]))
    thinking = options.get("thinking")
    if isinstance(thinking, Mapping) and has_budget(thinking):
        options.setdefault("max_tokens", MAX_TOKENS + thinking["budget_tokens"])
        if calls_without_reasoning(PROVIDER, model, spoken):
            # The API refuses to reason in the middle of a turn that began without: with another model.
            del options["thinking"]
    return options


def _choice(choice: str | None) -> Block | None:
    if choice is None:
        return None
    return {"type": _CHOICES[choice]} if choice in _CHOICES else {"type": "tool", "name": choice}


def wire_messages(model: str, spoken: Sequence[Turn], files: Mapping[str, bytes]) -> list[Block]:
    """Return the transcript. What the user says and what calls gave, one behind the other, is one message."""
    wire: list[Block] = []
    for turn in spoken:
        if turn.by_user:
            add_blocks(wire, "user", list(_content(turn.message, files)))
            continue
        said = list(_said(model, turn))
        # Reasoning that led to nothing is refused, as words that are put into the model's mouth.
        add_blocks(wire, "assistant", said if any(block["type"] in SAID for block in said) else [])
        add_blocks(wire, "user", [_result(call) for call in turn.calls])
    return wire


def _said(model: str, turn: Turn) -> Iterator[Block]:
    for text, call, own in turn.pieces(PROVIDER, model):
        if call is not None:
            yield {
                "type": "tool_use",
                "id": call.id,
                "name": call.name,
                "input": call.input,
            }
        elif text.strip():  # the API refuses blank texts
            yield {"type": "text", "text": text}
        elif own:
            yield own


def _result(call: Call) -> Block:
    block: Block = {"type": "tool_result", "tool_use_id": call.id, "content": call.content}
    return {**block, "is_error": True} if call.failed else block


def _content(message: Message, files: Mapping[str, bytes]) -> Iterator[Block]:
    if message.text.strip():
        yield {"type": "text", "text": message.text}
    for attachment in message.attachments:
        yield _file(attachment, files)


def _file(attachment: Attachment, files: Mapping[str, bytes]) -> Block:
    file = read_file(attachment, files, IMAGES | {PDF}, _SUPPORTED)
    if file.text is not None:
        return {"type": "text", "text": file.text}
    source = {"type": "base64", "media_type": file.kind, "data": file.base64}
    if file.kind == PDF:
        return {"type": "document", "source": source, "title": file.name[:200] or "document.pdf"}
    return {"type": "image", "source": source}


def _mark(body: dict[str, Any], cache: str | None) -> None:
    """Mark for the prompt cache what comes first and stays, and the ends of the user's last two messages: the
    next request finds this one's there. The API allows four marks."""
    if cache is None:
        return
    mark: Block = {"type": "ephemeral"} if cache == "5m" else {"type": "ephemeral", "ttl": cache}
    first = body.get("system") or body.get("tools")
    ends = [message["content"] for message in body["messages"] if message["role"] == "user"][-2:]
    for blocks in [*([first] if first else []), *ends]:
        blocks[-1]["cache_control"] = mark
