"""A model that follows a script: for tests, demos and development without a key.

    ScriptedProvider(replies=[[call("read_file", path="a.txt")], "It says hello."])

The n-th reply follows from the request alone: n is the number of assistant messages in it. So a reply
that is asked for again after a crash is the same one. In a session the earlier runs of the conversation
count, too: the script is that of the whole conversation. With `per_run=True` each run begins the script
anew; the run begins at the last message with seq 0, whatever messages reach it later.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from thoughtgear.errors import ConfigurationError, ModelRejectedError
from thoughtgear.models import Message, Usage
from thoughtgear.protocols import ModelReply, ModelRequest, OnText, RequestedCall

Line = str | ModelReply | RequestedCall | Mapping[str, Any] | Sequence[RequestedCall | Mapping[str, Any]]
"""What the model says: an answer, a call, several calls, or a whole reply.

As JSON: `"text"`, `{"name": …, "arguments": {…}}`, a list of those, or `{"text": …, "calls": […]}`.
"""
Cue = Callable[[ModelRequest], Line | Awaitable[Line]]
"""A function, plain or async, that says the line for a request."""

LETTERS_PER_TOKEN = 4


def call(name: str, /, **arguments: Any) -> RequestedCall:
    """A tool call of a script: `call("read_file", path="a.txt")`."""
    return RequestedCall(name, json.dumps(arguments, ensure_ascii=False))


class ScriptedProvider:
    """Says the lines of a script, or what a function says; the name `echo` repeats the last user message.

    Past the end of the script it raises `ModelRejectedError`.
    """

    def __init__(
        self,
        name: str = "scripted",
        *,
        replies: Sequence[Line | Cue] | Cue | None = None,
        per_run: bool = False,
        delay: float = 0.0,
        chunk: int | None = None,
        pace: float = 0.0,
        ledger: str | os.PathLike[str] | None = None,
    ) -> None:
        """`replies` is the script: lines, functions, or one function for all of it. `delay` is the seconds
        before a reply, `chunk` the letters per streamed piece (None: one piece), `pace` the seconds before
        each further one. `ledger` is a file that gets a line of JSON (time, pid, n) for each reply, when it
        begins. Raises `ConfigurationError`."""
        if replies is None and name != "echo":
            raise ConfigurationError(
                "The scripted model has no script: pass replies=[…] or use scripted:echo."
            )
        self.model = name
        self._cue = echo if replies is None else replies if callable(replies) else None
        script = [] if replies is None or callable(replies) else replies
        self._script = [line if callable(line) else read_line(line) for line in script]
        self._per_run, self._delay, self._chunk, self._pace = per_run, delay, chunk, pace
        self._ledger = None if ledger is None else Path(ledger)

    def __repr__(self) -> str:
        return f"ScriptedProvider(name={self.model!r}, replies={len(self._script)})"

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        """Say the next line. Raises `ModelRejectedError` when there is none."""
        number = count_replies(request.messages, per_run=self._per_run)
        reply = await self._line(number, request)
        await asyncio.sleep(self._delay)
        self._note(number)
        for start in range(0, len(reply.text), self._chunk or len(reply.text) or 1):
            if start and self._pace:
                await asyncio.sleep(self._pace)
            await on_text(reply.text[start : start + (self._chunk or len(reply.text))])
        return self._finish(reply, request, number)

    async def _line(self, number: int, request: ModelRequest) -> ModelReply:
        if self._cue is None and number >= len(self._script):
            raise ModelRejectedError(
                f"The script has {len(self._script)} replies and reply {number + 1} was asked for; add one."
            )
        line = self._cue or self._script[number]
        if isinstance(line, ModelReply):
            return line
        said = line(request)
        return read_line(await said if inspect.isawaitable(said) else said)

    def _note(self, number: int) -> None:
        """Append to the ledger. One write to a file opened for appending: lines of processes don't mix."""
        if self._ledger is not None:
            line = json.dumps({"time": time.time(), "pid": os.getpid(), "n": number}) + "\n"
            descriptor = os.open(self._ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)

    def _finish(self, reply: ModelReply, request: ModelRequest, number: int) -> ModelReply:
        return replace(
            reply,
            usage=reply.usage if reply.usage.total_tokens else estimate_usage(request, reply),
            model=reply.model or self.model,
            stop_reason=reply.stop_reason or ("tool_calls" if reply.calls else "stop"),
            request_id=reply.request_id or f"scripted-{number}",
        )

    async def aclose(self) -> None:
        """Nothing to close."""


def echo(request: ModelRequest) -> str:
    """Return the text of the last user message."""
    return next((message.text for message in reversed(request.messages) if message.role == "user"), "")


def count_replies(messages: Sequence[Message], *, per_run: bool) -> int:
    """Count the assistant messages: those of the current run, or of the whole conversation."""
    begins = [position for position, message in enumerate(messages) if message.seq == 0]
    current = messages[begins[-1] :] if per_run and begins else messages
    return sum(message.role == "assistant" for message in current)


def read_line(line: Any) -> ModelReply:
    """Return a line as a reply. Raises `ConfigurationError` for what is none."""
    if isinstance(line, ModelReply):
        return line
    if isinstance(line, str):
        return ModelReply(text=line)
    if isinstance(line, Mapping) and "name" not in line:
        return ModelReply(text=str(line.get("text", "")), calls=_calls(line.get("calls", ())))
    return ModelReply(calls=_calls([line] if isinstance(line, Mapping | RequestedCall) else line))


def _calls(calls: Any) -> list[RequestedCall]:
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise ConfigurationError(f"A scripted reply can't be of type {type(calls).__name__}.")
    return [item if isinstance(item, RequestedCall) else _call(item) for item in calls]


def _call(item: Any) -> RequestedCall:
    if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
        raise ConfigurationError('A scripted call looks like {"name": "read_file", "arguments": {…}}.')
    arguments = item.get("arguments", {})
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return RequestedCall(item["name"], text)


def estimate_usage(request: ModelRequest, reply: ModelReply) -> Usage:
    """Count tokens by the length of the texts."""
    asked = len(request.context) + sum(_length(message) for message in request.messages)
    asked += sum(len(json.dumps(spec.parameters)) + len(spec.description) for spec in request.tools)
    answered = len(reply.text) + sum(len(made.name) + len(made.arguments) for made in reply.calls)
    return Usage(input_tokens=_tokens(asked), output_tokens=_tokens(answered))


def _length(message: Message) -> int:
    calls = sum(len(made.name) + len(str(made.arguments)) for made in message.tool_calls)
    return len(message.text) + calls + len(message.tool_result.content if message.tool_result else "")


def _tokens(letters: int) -> int:
    return max(1, -(-letters // LETTERS_PER_TOKEN))
