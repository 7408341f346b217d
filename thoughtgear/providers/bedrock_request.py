"""What goes to Converse: a `ModelRequest` as the arguments of boto3's `converse_stream`."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from thoughtgear.errors import ModelRejectedError
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
    forced,
    has_budget,
    read_file,
    turns,
)

PROVIDER = "bedrock"
RESERVED = ("messages", "modelId", "system", "toolConfig")
"""Arguments that `options` may not set: the loop depends on them."""

INFERENCE = frozenset(("maxTokens", "temperature", "topP", "stopSequences"))
ARGUMENTS = frozenset(
    (
        "additionalModelResponseFieldPaths",
        "guardrailConfig",
        "outputConfig",
        "performanceConfig",
        "promptVariables",
        "requestMetadata",
        "serviceTier",
    )
)
"""Options that are arguments of Converse; others are fields of the model's own, such as `thinking`."""

CACHES = re.compile(r"anthropic\.claude-(3-7|3-5-haiku|[a-z]+-[4-9])")
"""Models that are known to take cache points: others refuse them."""

_OFFICE = "application/vnd.openxmlformats-officedocument."
DOCUMENTS = {
    PDF: "pdf",
    "application/msword": "doc",
    f"{_OFFICE}wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    f"{_OFFICE}spreadsheetml.sheet": "xlsx",
}
_SUPPORTED = "this provider takes UTF-8 text files, PDF, Word, Excel, and png, jpeg, gif and webp images"
_NOTHING = "(nothing)"
"""Converse refuses blank texts."""


def converse_arguments(
    model: str, request: ModelRequest, *, cache: bool | None = None, json_schema: bool | None = None
) -> dict[str, Any]:
    """Return the arguments. Raises `ModelRejectedError` for what can't be sent."""
    schema = held_schema(model, request, json_schema)
    context = request.instructed_context if schema is None else request.context
    spoken = list(turns(request.messages))
    arguments: dict[str, Any] = {"modelId": model, "messages": wire_messages(model, spoken, request.files)}
    if context.strip():
        arguments["system"] = [{"text": context}]
    tools = [_tool(spec) for spec in request.tools] or _called_tools(spoken)
    if tools:
        arguments["toolConfig"] = {"tools": tools, **_choice(request)}
    if cache or (cache is None and CACHES.search(model)):
        _mark(arguments)
    options = _options(model, request, spoken)
    if schema is not None and request.output is not None:
        definition = {"schema": json.dumps(schema), "name": request.output.name}
        text = {"type": "json_schema", "structure": {"jsonSchema": definition}}
        options["outputConfig"] = {"textFormat": text, **options.get("outputConfig", {})}
    return {**arguments, **options}


def _tool(spec: ToolSpec) -> Block:
    text = spec.description or spec.name
    return {"toolSpec": {"name": spec.name, "description": text, "inputSchema": {"json": spec.parameters}}}


def _called_tools(spoken: Sequence[Turn]) -> list[Block]:
    """Converse wants tools to be declared where calls stand in the conversation, also of a model that has
    none any more."""
    names = sorted({call.name for turn in spoken for call in turn.calls})
    return [_tool(ToolSpec(name, "Not available any more.", {"type": "object"})) for name in names]


def _choice(request: ModelRequest) -> Block:
    given = request.options.get("tool_choice")
    if isinstance(given, Mapping):
        return {"toolChoice": given}
    choice = forced(request, given)
    if choice is None:
        return {}
    if choice == "none":
        raise ModelRejectedError('Converse has no tool_choice "none"; leave the tools out instead.')
    names: Block = {"auto": {"auto": {}}, "required": {"any": {}}}
    return {"toolChoice": names.get(choice, {"tool": {"name": choice}})}


def _options(model: str, request: ModelRequest, spoken: Sequence[Turn]) -> dict[str, Any]:
    options = {name: value for name, value in request.options.items() if value is not None}
    options.pop("tool_choice", None)
    taken = [name for name in RESERVED if name in options]
    if taken:
        raise ModelRejectedError(f"Model options may not set {', '.join(taken)}; remove it.")
    try:
        json.dumps(options, allow_nan=False)
    except (TypeError, ValueError):
        raise ModelRejectedError("A model option is not JSON; use numbers, texts, lists and dicts.") from None
    arguments = {name: options.pop(name) for name in [*options] if name in ARGUMENTS}
    inference = dict(options.pop("inferenceConfig", {}))
    inference |= {name: options.pop(name) for name in [*options] if name in INFERENCE}
    fields = {**options.pop("additionalModelRequestFields", {}), **options}
    if has_budget(fields.get("thinking")) and calls_without_reasoning(PROVIDER, model, spoken):
        del fields["thinking"]
    named = {"inferenceConfig": inference, "additionalModelRequestFields": fields}
    return {**arguments, **{name: value for name, value in named.items() if value}}


def wire_messages(model: str, spoken: Sequence[Turn], files: Mapping[str, bytes]) -> list[Block]:
    """Return the transcript. What the user says and what calls gave, one behind the other, is one message."""
    wire: list[Block] = []
    numbers = count(1)
    for turn in spoken:
        if turn.by_user:
            add_blocks(wire, "user", list(_content(turn.message, files, numbers)))
            continue
        said = list(_said(model, turn))
        # Reasoning that led to nothing is refused, as words that are put into the model's mouth.
        add_blocks(wire, "assistant", said if any("reasoningContent" not in block for block in said) else [])
        add_blocks(wire, "user", [_result(call) for call in turn.calls])
    return wire


def _said(model: str, turn: Turn) -> Iterator[Block]:
    for text, call, own in turn.pieces(PROVIDER, model):
        if call is not None:
            yield {"toolUse": {"toolUseId": call.id, "name": call.name, "input": call.input}}
        elif text.strip():
            yield {"text": text}
        elif "redactedContent" in own:
            yield {"reasoningContent": {"redactedContent": base64.b64decode(own["redactedContent"])}}
        elif own.get("reasoningText", {}).get("signature"):
            # Without one it is not to be sent: models that sign nothing refuse to get it back.
            yield {"reasoningContent": own}


def _result(call: Call) -> Block:
    content = call.content if call.content.strip() else _NOTHING
    block: Block = {"toolUseId": call.id, "content": [{"text": content}]}
    return {"toolResult": {**block, "status": "error"} if call.failed else block}


def _content(message: Message, files: Mapping[str, bytes], numbers: Iterator[int]) -> Iterator[Block]:
    if message.text.strip():
        yield {"text": message.text}
    for attachment in message.attachments:
        yield _file(attachment, files, numbers)


def _file(attachment: Attachment, files: Mapping[str, bytes], numbers: Iterator[int]) -> Block:
    file = read_file(attachment, files, IMAGES | DOCUMENTS.keys(), _SUPPORTED)
    if file.text is not None:
        return {"text": file.text}
    if file.kind in IMAGES:
        return {"image": {"format": file.kind.removeprefix("image/"), "source": {"bytes": file.data}}}
    # Names are unique, and of few kinds of letters.
    name = f"{next(numbers)} " + re.sub(r"[^A-Za-z0-9()\[\]-]+", " ", file.name)[:150].strip()
    document = {"format": DOCUMENTS[file.kind], "name": name.strip(), "source": {"bytes": file.data}}
    return {"document": document}


def _mark(arguments: dict[str, Any]) -> None:
    """Set cache points behind what comes first and stays, and behind the user's last two messages."""
    point: Block = {"cachePoint": {"type": "default"}}
    first = arguments.get("system") or arguments.get("toolConfig", {}).get("tools")
    ends = [message["content"] for message in arguments["messages"] if message["role"] == "user"][-2:]
    for blocks in [*([first] if first else []), *ends]:
        blocks.append(point)
