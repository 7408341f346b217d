"""What goes to generateContent: a `ModelRequest` as its JSON body."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from thoughtgear.models import Attachment, Message
from thoughtgear.protocols import ModelRequest, ToolSpec
from thoughtgear.providers.turns import PDF, Call, Turn, encoded, forced, merged, read_file, turns

PROVIDER = "gemini"
RESERVED = ("contents", "systemInstruction", "tools")
"""Fields that `options` may not set: the loop depends on them."""

BODY_OPTIONS = frozenset(("cachedContent", "labels", "safetySettings", "serviceTier", "store", "toolConfig"))
"""Options that are fields of the body. Others, such as `temperature`, are fields of its generationConfig."""

SIGNATURE = "thoughtSignature"
UNSIGNED = "skip_thought_signature_validator"
"""What Google's documentation has in the place of a signature for calls that another model made: models from
Gemini 3 on refuse calls without one."""

_IMAGES = tuple(f"image/{kind}" for kind in ("png", "jpeg", "webp", "heic", "heif"))
_SOUNDS = tuple(f"audio/{kind}" for kind in ("wav", "mp3", "mpeg", "aiff", "aac", "ogg", "flac"))
_FILMS = tuple(f"video/{kind}" for kind in ("mp4", "mpeg", "quicktime", "webm", "x-flv", "wmv", "3gpp"))
KINDS = frozenset((*_IMAGES, *_SOUNDS, *_FILMS, PDF))
_SUPPORTED = "this provider takes UTF-8 text files, PDF, png, jpeg, webp and heic images, audio and video"
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}

Json = dict[str, Any]


def encode_request(model: str, request: ModelRequest) -> bytes:
    """Return the body. Raises `ModelRejectedError` for what can't be sent."""
    body: Json = {"contents": wire_contents(model, request)}
    # With tools, models before Gemini 3 can't be held to a schema.
    context = request.instructed_context if request.tools else request.context
    if context.strip():
        body["systemInstruction"] = {"parts": [{"text": context}]}
    if request.tools:
        body["tools"] = [{"functionDeclarations": [_tool(spec) for spec in request.tools]}]
    return encoded(merged(body, _options(request), RESERVED))


def _tool(spec: ToolSpec) -> Json:
    description = spec.description or spec.name
    return {"name": spec.name, "description": description, "parametersJsonSchema": spec.parameters}


def _options(request: ModelRequest) -> Json:
    options = {name: value for name, value in request.options.items() if name != "tool_choice"}
    own = {name: options.pop(name) for name in [*options] if name in (*BODY_OPTIONS, *RESERVED)}
    config = {**_format(request), **(options.pop("generationConfig", None) or {}), **options}
    config = {name: value for name, value in config.items() if value is not None}
    choice = _choice(request)
    return {**({"generationConfig": config} if config else {}), **choice, **own}


def _format(request: ModelRequest) -> Json:
    if request.output is None or request.tools:
        return {}
    return {"responseMimeType": "application/json", "responseJsonSchema": request.output.schema}


def _choice(request: ModelRequest) -> Json:
    given = request.options.get("tool_choice")
    if isinstance(given, Mapping):
        return {"toolConfig": {"functionCallingConfig": given}}
    choice = forced(request, given)
    if choice is None:
        return {}
    config: Json = {"mode": _MODES.get(choice, "ANY")}
    if choice not in _MODES:
        config["allowedFunctionNames"] = [choice]
    return {"toolConfig": {"functionCallingConfig": config}}


def wire_contents(model: str, request: ModelRequest) -> list[Json]:
    """Return the transcript. What the calls of a reply gave is one content, right behind it."""
    wire: list[Json] = []
    for turn in turns(request.messages):
        if turn.by_user:
            spoken = [("user", list(_content(turn.message, request.files)))]
        else:
            said, ids = _said(model, turn)
            results = [_result(call, ids.get(call.id)) for call in turn.calls]
            spoken = [("model", said), ("user", results)]
        wire += [{"role": role, "parts": parts} for role, parts in spoken if parts]
    return wire


def _said(model: str, turn: Turn) -> tuple[list[Json], dict[str, str]]:
    """The parts of a reply, and the ids that the model itself gave to calls."""
    parts: list[Json] = []
    ids: dict[str, str] = {}
    for text, call, own in turn.pieces(PROVIDER, model):
        extra = {name: value for name, value in own.items() if name != "id"}
        if call is not None:
            if own.get("id"):
                ids[call.id] = own["id"]
            given = {"id": own["id"]} if own.get("id") else {}
            function = {**given, "name": _name(call), "args": call.input}
            parts.append({"functionCall": function, **extra})
        elif text.strip() or extra:
            parts.append({"text": text, **extra})
    _sign(model, parts)
    return parts, ids


def _sign(model: str, parts: list[Json]) -> None:
    """The first of the calls needs a signature where the model looks for it."""
    number = re.search(r"gemini-(\d+)", model)
    calls = [part for part in parts if "functionCall" in part]
    if number and int(number[1]) >= 3 and calls and not any(SIGNATURE in part for part in calls):
        calls[0][SIGNATURE] = UNSIGNED


def _name(call: Call) -> str:
    return call.name if re.match("[A-Za-z_]", call.name) else f"_{call.name[:63]}"


def _result(call: Call, given: str | None) -> Json:
    response = {"error" if call.failed else "output": call.content}
    return {
        "functionResponse": {**({"id": given} if given else {}), "name": _name(call), "response": response}
    }


def _content(message: Message, files: Mapping[str, bytes]) -> Iterator[Json]:
    if message.text.strip():
        yield {"text": message.text}
    for attachment in message.attachments:
        yield _file(attachment, files)


def _file(attachment: Attachment, files: Mapping[str, bytes]) -> Json:
    file = read_file(attachment, files, KINDS, _SUPPORTED)
    if file.text is not None:
        return {"text": file.text}
    return {"inlineData": {"mimeType": file.kind, "data": file.base64}}
