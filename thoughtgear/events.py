"""The events of a run: what a reader is told, and which of them a saved message is."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from thoughtgear.models import Attachment, Message, Moment, RunError, Status, ToolCall, ToolResult, Usage

Kind = Literal["message", "text", "superseded", "reply", "tool_start", "tool_end", "iteration", "end"]


class StreamEvent(BaseModel):
    """One event of a run. `cursor` is where the reader stands after it.

    - `message`: a user's message is in the transcript: `text`, `attachments`, `request_id`
    - `text`: the next piece of a reply. The pieces of an iteration are the whole text of its reply
    - `superseded`: the pieces of this iteration's reply are void, another attempt says something else
    - `reply`: the reply is saved, and its text was told whole: `model`, `usage`, `stop_reason`, `passed_over`
    - `tool_start`: `call` is saved and is run, as soon as its tool's turn comes
    - `tool_end`: `result` is saved, be it of a tool that ran or of none
    - `iteration`: the iteration is complete
    - `end`: the run is over: `status`, `output`, `error`

    `at` is when the message was made that an event is of, the last one of an iteration; of the end when the
    run ended. None of text before its reply is saved, and of `superseded`.
    """

    model_config = ConfigDict(frozen=True)

    kind: Kind
    run_id: str
    cursor: str
    iteration: int = 0
    at: Moment | None = None
    text: str = ""
    attachments: list[Attachment] = Field(default_factory=list)
    request_id: str | None = None
    model: str | None = None
    usage: Usage | None = None
    stop_reason: str | None = None
    passed_over: list[str] = Field(default_factory=list)
    call: ToolCall | None = None
    result: ToolResult | None = None
    status: Status | None = None
    output: str | None = None
    error: RunError | None = None

    def data(self) -> dict[str, Any]:
        """The event as plain JSON values, without what says nothing."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def sse(self) -> str:
        """The event as a server sends it to an `EventSource`; its id is the cursor."""
        data = json.dumps(self.data(), ensure_ascii=False, separators=(",", ":"))
        return f"id: {self.cursor}\nevent: {self.kind}\ndata: {data}\n\n"


def facts_of(message: Message) -> list[dict[str, Any]]:
    """The events of a message, in order, as fields of `StreamEvent`; the run and the cursor are missing."""
    common = {"iteration": message.iteration, "at": message.created_at}
    if message.role == "assistant":
        return [common | facts for facts in _of_reply(message)]
    if message.role == "tool":
        return [common | {"kind": "tool_end", "result": message.tool_result}]
    said = {"text": message.text, "attachments": message.attachments, "request_id": message.request_id}
    return [common | {"kind": "message", **said}]


def _of_reply(message: Message) -> list[dict[str, Any]]:
    names = ("model", "usage", "stop_reason", "passed_over")
    reply = {"kind": "reply", **{name: getattr(message, name) for name in names}}
    text = [{"kind": "text", "text": message.text}] if message.text else []
    return [*text, reply, *({"kind": "tool_start", "call": call} for call in message.tool_calls)]
