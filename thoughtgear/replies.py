"""What a model's reply becomes: a message and the ledger rows of its calls, under our own call ids.

A reply may hold anything. What comes out of here can be stored and read back, and is bounded.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import from_json

from thoughtgear.agent import Agent
from thoughtgear.errors import ModelRejectedError
from thoughtgear.loop import Limits
from thoughtgear.models import CallRecord, Message, Native, ToolCall
from thoughtgear.protocols import ModelReply, OnText, RequestedCall
from thoughtgear.transitions import unnumbered

NAME_LETTERS = 128
"""What is kept of a name, be it of a tool, a model or a reason: twice what providers allow."""

NOTE_LETTERS = 500
"""What is kept of why a model was passed over."""

NESTING_ROOM = 16
"""Levels that a stored state adds around the arguments of a call."""


def accept(agent: Agent, reply: ModelReply, iteration: int) -> tuple[Message, list[CallRecord]]:
    """Turn a reply into its message and the ledger rows of its calls. Raises `ModelRejectedError` for one
    over the limits, which is paid for all the same."""
    try:
        _check(reply, agent.limits)
    except ModelRejectedError as exc:
        exc.paid = reply
        raise
    calls = [_call(call, f"{iteration}.{index}") for index, call in enumerate(reply.calls)]
    message = unnumbered(
        role="assistant",
        text=storable(reply.text),
        tool_calls=calls,
        native=_native(reply.native),
        passed_over=[storable(note[:NOTE_LETTERS]) for note in reply.passed_over],
        iteration=iteration,
        usage=reply.usage,
        cost=agent.prices.cost(reply),
        model=_name(reply.model or agent.model.model),
        stop_reason=None if reply.stop_reason is None else _name(reply.stop_reason),
    )
    return message, [_row(agent, call) for call in calls]


def _native(native: Native | None) -> Native | None:
    """What the provider wants back, where it can be stored; what can't is nothing that a provider sent."""
    if native is None:
        return None
    try:
        text = storable(json.dumps(native.model_dump(), ensure_ascii=False, allow_nan=False))
        from_json("[" * NESTING_ROOM + text + "]" * NESTING_ROOM)
        return Native.model_validate_json(text)
    except ValueError:
        return None


def bounded(on_text: OnText, limits: Limits) -> OnText:
    """Return what passes the pieces of a reply on and ends one that grows over the limit, while it is being
    read. Raises `ModelRejectedError`."""
    size = 0

    async def add(piece: str) -> None:
        nonlocal size
        size += _bytes(piece)
        _check_size(size, limits)
        await on_text(piece)

    return add


def _check(reply: ModelReply, limits: Limits) -> None:
    size = _bytes(reply.text) + sum(_bytes(call.name + call.arguments) for call in reply.calls)
    _check_size(size + (reply.native.size if reply.native else 0), limits)
    if len(reply.calls) > limits.tool_calls:
        raise ModelRejectedError(
            f"The reply asks for {len(reply.calls)} calls; Limits(tool_calls={limits.tool_calls})."
        )


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.reply_bytes:
        raise ModelRejectedError(
            f"The reply has more than {limits.reply_bytes:,} bytes; Limits(reply_bytes=…) allows no more."
        )


def _call(call: RequestedCall, call_id: str) -> ToolCall:
    return ToolCall(id=call_id, name=_name(call.name), arguments=_arguments(call), cut=not call.whole)


def _row(agent: Agent, call: ToolCall) -> CallRecord:
    tool = agent.toolbox.find(call.name)
    if tool is None:
        return CallRecord(call=call)
    return CallRecord(call=call, policy=tool.policy, on_unknown=tool.on_unknown)


def _arguments(call: RequestedCall) -> dict[str, Any] | str:
    """The arguments as a JSON object, or the model's own text where they are none that can be stored."""
    text = call.arguments or "{}"
    try:
        parsed = from_json(text, allow_inf_nan=False)
        json.dumps(parsed, allow_nan=False)  # 1e400 is read as infinity, which no store can write
        if len(text) > 100:  # only a long text nests deeper than the stores' parser reads
            from_json("[" * NESTING_ROOM + text + "]" * NESTING_ROOM)
    except ValueError:
        return storable(text)
    return parsed if isinstance(parsed, dict) else storable(text)


def _name(text: str) -> str:
    return storable(text[:NAME_LETTERS])


def storable(text: str) -> str:
    """The text without lone surrogates, which no store can encode."""
    return text.encode(errors="replace").decode()


def _bytes(text: str) -> int:
    return len(text.encode(errors="replace"))
