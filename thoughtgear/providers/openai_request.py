"""What goes to a Chat Completions endpoint: a `ModelRequest` as its JSON body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thoughtgear.models import Attachment, Message
from thoughtgear.protocols import ModelRequest, OutputSpec, ToolSpec
from thoughtgear.providers.chat_reasoning import PROVIDER, of_call, of_message
from thoughtgear.providers.turns import (
    IMAGES,
    PDF,
    Call,
    Turn,
    encoded,
    forced,
    merged,
    read_file,
    turns,
    wire_arguments,
)

RESERVED = ("messages", "stream", "tools", "n")
"""Fields that `options` may not set: the loop depends on them."""

_SUPPORTED = (
    "this provider takes UTF-8 text files and png, jpeg, gif and webp images; PDF goes to OpenAI's own "
    'address, or by api="responses"'
)


def encode_request(model: str, request: ModelRequest, *, pdf: bool = False, reasoning: bool = True) -> bytes:
    """Return the body; `pdf`: the server takes PDF; `reasoning`: it gets back what it sent of it.
    Raises `ModelRejectedError` for what can't be sent."""
    body: dict[str, Any] = {
        "model": model,
        "messages": wire_messages(model if reasoning else None, request, pdf=pdf),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.output is not None and not request.tools:
        body["response_format"] = _format(request.output)
    if request.tools:
        body["tools"] = [_tool(spec) for spec in request.tools]
    return encoded(merged(body, _options(request), RESERVED))


def _options(request: ModelRequest) -> dict[str, Any]:
    options = dict(request.options)
    if isinstance(options.get("tool_choice"), str):
        choice = forced(request, options["tool_choice"])
        named = choice not in (None, "auto", "none", "required")
        options["tool_choice"] = {"type": "function", "function": {"name": choice}} if named else choice
    return options


def _format(output: OutputSpec) -> dict[str, Any]:
    schema = {"name": output.name, "schema": output.schema, "strict": output.closed}
    return {"type": "json_schema", "json_schema": schema}


def _tool(spec: ToolSpec) -> dict[str, Any]:
    function = {"name": spec.name, "description": spec.description, "parameters": spec.parameters}
    return {"type": "function", "function": function}


def wire_messages(model: str | None, request: ModelRequest, *, pdf: bool = False) -> list[dict[str, Any]]:
    """Return the system message and the transcript, with the reasoning of that model."""
    wire: list[dict[str, Any]] = []
    kinds = IMAGES | {PDF} if pdf else IMAGES
    # Small servers that hold a model to a schema let it call no tools.
    context = request.instructed_context if request.tools else request.context
    if context:
        wire.append({"role": "system", "content": context})
    for turn in turns(request.messages):
        if turn.by_user:
            wire.append({"role": "user", "content": _content(turn.message, request.files, kinds)})
            continue
        wire.append(_assistant(model, turn))
        wire.extend({"role": "tool", "tool_call_id": c.id, "content": c.content} for c in turn.calls)
    return wire


def _assistant(model: str | None, turn: Turn) -> dict[str, Any]:
    calls: list[dict[str, Any]] = []
    own: dict[str, Any] = {}
    for _, call, given in turn.pieces(PROVIDER, model or ""):
        own |= of_message(given)
        if call is not None:
            calls.append({**_call(call), **of_call(given)})
    if not calls:
        return {"role": "assistant", "content": turn.message.text, **own}
    return {"role": "assistant", "content": turn.message.text or None, "tool_calls": calls, **own}


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": wire_arguments(call.call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _content(
    message: Message, files: Mapping[str, bytes], kinds: frozenset[str]
) -> str | list[dict[str, Any]]:
    if not message.attachments:
        return message.text
    parts = [{"type": "text", "text": message.text}] if message.text else []
    return [*parts, *(_part(attachment, files, kinds) for attachment in message.attachments)]


def _part(attachment: Attachment, files: Mapping[str, bytes], kinds: frozenset[str]) -> dict[str, Any]:
    file = read_file(attachment, files, kinds, _SUPPORTED)
    if file.text is not None:
        return {"type": "text", "text": file.text}
    url = f"data:{file.kind};base64,{file.base64}"
    if file.kind == PDF:
        return {"type": "file", "file": {"filename": file.name or "document.pdf", "file_data": url}}
    return {"type": "image_url", "image_url": {"url": url}}
