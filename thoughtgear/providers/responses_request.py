"""What goes to OpenAI's Responses API: a `ModelRequest` as its JSON body."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from thoughtgear.models import Attachment, Message
from thoughtgear.protocols import ModelRequest, ToolSpec
from thoughtgear.providers.turns import (
    IMAGES,
    PDF,
    Turn,
    encoded,
    forced,
    merged,
    read_file,
    turns,
    wire_arguments,
)

PROVIDER = "openai"
RESERVED = ("background", "conversation", "input", "instructions", "previous_response_id", "stream", "tools")
"""Fields that `options` may not set: the loop depends on them."""

REASONS = re.compile(r"(o\d|gpt-([5-9]|\d\d)(?!.*chat)|codex)")
"""Models that reason. Others refuse to be asked for what they reasoned."""

_SUPPORTED = "this provider takes UTF-8 text files, PDF, and png, jpeg, gif and webp images"

Item = dict[str, Any]


def encode_request(model: str, request: ModelRequest) -> bytes:
    """Return the body. Raises `ModelRejectedError` for what can't be sent."""
    # Nothing is kept there: the transcript is the user's own, and the reasoning comes back encrypted.
    body: dict[str, Any] = {
        "model": model,
        "input": wire_input(model, request),
        "stream": True,
        "store": False,
    }
    if REASONS.match(model):
        body["include"] = ["reasoning.encrypted_content"]
    if request.output is not None:
        named = {"name": request.output.name, "schema": request.output.schema}
        body["text"] = {"format": {"type": "json_schema", **named, "strict": request.output.closed}}
    if request.context:
        body["instructions"] = request.context
    if request.tools:
        body["tools"] = [_tool(spec) for spec in request.tools]
    return encoded(merged(body, _options(request), RESERVED))


def _tool(spec: ToolSpec) -> Item:
    function = {"name": spec.name, "description": spec.description, "parameters": spec.parameters}
    return {"type": "function", **function, "strict": False}


def _options(request: ModelRequest) -> dict[str, Any]:
    options = dict(request.options)
    if isinstance(options.get("tool_choice"), str):
        choice = forced(request, options["tool_choice"])
        named = choice not in (None, "auto", "none", "required")
        options["tool_choice"] = {"type": "function", "name": choice} if named else choice
    return options


def wire_input(model: str, request: ModelRequest) -> list[Item]:
    """Return the transcript as items."""
    items: list[Item] = []
    for turn in turns(request.messages):
        if turn.by_user:
            items.append({"role": "user", "content": _content(turn.message, request.files)})
            continue
        items += _said(model, turn)
        items += [_output(call.id, call.content) for call in turn.calls]
    return items


def _said(model: str, turn: Turn) -> Iterator[Item]:
    reasoned: list[Item] = []
    for text, call, own in turn.pieces(PROVIDER, model):
        if call is None and not text:
            reasoned += [own] if own.get("type") == "reasoning" else []
            continue
        # The API refuses reasoning behind which nothing stands that came of it: such is left out.
        yield from reasoned
        reasoned.clear()
        if call is not None:
            function = {"name": call.name, "arguments": wire_arguments(call.call.arguments)}
            yield {"type": "function_call", "call_id": call.id, **function}
        else:
            yield {"role": "assistant", "content": text, **own}


def _output(call_id: str, content: str) -> Item:
    return {"type": "function_call_output", "call_id": call_id, "output": content}


def _content(message: Message, files: Mapping[str, bytes]) -> str | list[Item]:
    if not message.attachments:
        return message.text
    parts = [{"type": "input_text", "text": message.text}] if message.text else []
    return [*parts, *(_file(attachment, files) for attachment in message.attachments)]


def _file(attachment: Attachment, files: Mapping[str, bytes]) -> Item:
    file = read_file(attachment, files, IMAGES | {PDF}, _SUPPORTED)
    if file.text is not None:
        return {"type": "input_text", "text": file.text}
    url = f"data:{file.kind};base64,{file.base64}"
    if file.kind == PDF:
        return {"type": "input_file", "filename": file.name or "document.pdf", "file_data": url}
    return {"type": "input_image", "image_url": url, "detail": "auto"}
