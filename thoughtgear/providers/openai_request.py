"""What goes to a Chat Completions endpoint: a `ModelRequest` as its JSON body."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from thoughtgear.errors import ModelRejectedError
from thoughtgear.models import Attachment, Message, ToolCall
from thoughtgear.protocols import ModelRequest, ToolSpec

RESERVED = ("messages", "stream", "tools", "n")
"""Fields that `options` may not set: the loop depends on them."""

MALFORMED = "malformed_arguments"
IMAGES = frozenset(("image/png", "image/jpeg", "image/gif", "image/webp"))
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
_SUPPORTED = "this provider takes UTF-8 text files and png, jpeg, gif and webp images"


def encode_request(model: str, request: ModelRequest) -> bytes:
    """Return the body. Raises `ModelRejectedError` for what can't be sent."""
    body: dict[str, Any] = {
        "model": model,
        "messages": wire_messages(request),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.tools:
        body["tools"] = [_tool(spec) for spec in request.tools]
    _merge(body, request.options)
    try:
        text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError):
        raise ModelRejectedError("A model option is not JSON; use numbers, texts, lists and dicts.") from None
    # A lone surrogate, which a model can write as an escape, has no UTF-8 form: it becomes a "?".
    return text.encode("utf-8", "replace")


def _merge(body: dict[str, Any], options: Mapping[str, Any]) -> None:
    taken = [name for name in RESERVED if name in options]
    if taken:
        raise ModelRejectedError(f"Model options may not set {', '.join(taken)}; remove it.")
    body.update(options)
    for name in [name for name, value in options.items() if value is None]:
        del body[name]


def _tool(spec: ToolSpec) -> dict[str, Any]:
    function = {"name": spec.name, "description": spec.description, "parameters": spec.parameters}
    return {"type": "function", "function": function}


def wire_messages(request: ModelRequest) -> list[dict[str, Any]]:
    """Return the system message and the transcript.

    Calls are numbered by their position in the conversation, for two reasons: our ids repeat across the
    runs of a conversation, and a longer conversation must begin with the same bytes as the shorter one, so
    that the provider's prompt cache holds. The ids have nine letters and digits because one provider takes
    no others.
    """
    wire: list[dict[str, Any]] = []
    if request.context:
        wire.append({"role": "system", "content": request.context})
    calls = 0
    for message, results in _turns(request.messages):
        if message.role == "user":
            wire.append({"role": "user", "content": _content(message, request.files)})
            continue
        ids = [f"call{number:05d}" for number in range(calls, calls + len(message.tool_calls))]
        calls += len(ids)
        wire.append(_assistant(message, ids))
        wire.extend(_results(message, ids, results))
    return wire


def _turns(messages: Sequence[Message]) -> Iterator[tuple[Message, dict[str, str]]]:
    """Yield the user's and the assistant's messages, the latter with what each of its calls gave."""
    for position, message in enumerate(messages):
        if message.role == "user":
            yield message, {}
        elif message.role == "assistant":
            yield message, dict(_answers(messages[position + 1 :])) if message.tool_calls else {}


def _answers(following: Sequence[Message]) -> Iterator[tuple[str, str]]:
    for message in following:
        if message.role == "assistant":
            return
        if message.tool_result is not None:
            result = message.tool_result
            yield result.call_id, result.content or ("" if result.status == "ok" else result.status)


def _assistant(message: Message, ids: Sequence[str]) -> dict[str, Any]:
    if not ids:
        return {"role": "assistant", "content": message.text}
    calls = [_call(wire_id, call) for wire_id, call in zip(ids, message.tool_calls, strict=True)]
    return {"role": "assistant", "content": message.text or None, "tool_calls": calls}


def _call(wire_id: str, call: ToolCall) -> dict[str, Any]:
    function = {"name": wire_name(call.name), "arguments": wire_arguments(call.arguments)}
    return {"id": wire_id, "type": "function", "function": function}


def wire_name(name: str) -> str:
    """Return the name of a call in the letters that providers accept: models invent others."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64] or "unnamed"


def wire_arguments(arguments: dict[str, Any] | str) -> str:
    """Return the arguments as the text of a JSON object.

    What the model wrote may be no JSON. Many servers parse these texts and refuse the whole conversation
    then, so it is wrapped into an object. An empty object would hide from the model what it did wrong.
    """
    if isinstance(arguments, dict):
        try:
            return json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        except ValueError:
            arguments = json.dumps(arguments, ensure_ascii=False)
    return json.dumps({MALFORMED: arguments}, ensure_ascii=False)


def _results(message: Message, ids: Sequence[str], results: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for wire_id, call in zip(ids, message.tool_calls, strict=True):
        if call.id not in results:
            raise ModelRejectedError(f"The transcript has no result for call {call.id}.")
        yield {"role": "tool", "tool_call_id": wire_id, "content": results[call.id]}


def _content(message: Message, files: Mapping[str, bytes]) -> str | list[dict[str, Any]]:
    if not message.attachments:
        return message.text
    parts = [{"type": "text", "text": message.text}] if message.text else []
    return [*parts, *(_part(attachment, files) for attachment in message.attachments)]


def _part(attachment: Attachment, files: Mapping[str, bytes]) -> dict[str, Any]:
    kind = attachment.media_type.partition(";")[0].strip().lower()
    data = files.get(attachment.sha256)
    if data is None:
        raise ModelRejectedError("The bytes of an attached file are not in the store.")
    if kind in IMAGES:
        return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{_base64(data)}"}}
    if kind.startswith("text/") or kind in TEXTS or kind.endswith(("+json", "+xml")):
        return {"type": "text", "text": _named_text(attachment.name, data)}
    known = kind if re.fullmatch(r"[a-z0-9.+-]{1,60}/[a-z0-9.+-]{1,60}", kind) else "of an unknown type"
    raise ModelRejectedError(f"An attached file is {known}; {_SUPPORTED}.")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _named_text(name: str, data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ModelRejectedError(f"An attached text file is not UTF-8; {_SUPPORTED}.") from None
    return f"<file name={json.dumps(name, ensure_ascii=False)}>\n{text}\n</file>"
