"""Transcripts for the tests of what providers send."""

from collections.abc import Iterator

from thoughtgear.models import Attachment, Message, Native, ReplyPart, ToolCall, ToolResult
from thoughtgear.protocols import ModelRequest, ToolSpec

TOOL = ToolSpec("read_file", "Read a file.", {"type": "object", "properties": {"path": {"type": "string"}}})
PNG = b"\x89PNG\r\n\x1a\n"
FILES = {"a.txt": "Grüße".encode(), "b.json": b"{}", "c": PNG, "d.pdf": b"%PDF-1.7"}


def attached(name: str, media_type: str) -> Attachment:
    return Attachment(name=name, media_type=media_type, size=1, sha256=name)


def user(text: str, *attachments: Attachment) -> Message:
    return Message(seq=0, role="user", text=text, attachments=list(attachments))


def assistant(text: str) -> Message:
    return Message(seq=9, role="assistant", text=text)


def turn(iteration: int, *arguments: dict | str, text: str = "", native: Native | None = None, **result):
    """An assistant's calls and their results, which stand in the reverse order."""
    calls = [
        ToolCall(id=f"{iteration}.{n}", name="read_file", arguments=given)
        for n, given in enumerate(arguments)
    ]
    results = [
        ToolResult(call_id=c.id, name=c.name, **{"content": f"result {c.id}", **result}) for c in calls
    ]
    said = Message(seq=1, role="assistant", text=text, tool_calls=calls, native=native)
    return [said, *(Message(seq=2, role="tool", tool_result=each) for each in reversed(results))]


def reasoned(provider: str, model: str, *owns: dict, text: int = 0, calls: int = 1) -> Native:
    """A reply that began with reasoning: the provider's own parts, then text, then calls."""
    parts = [*(ReplyPart(own=own) for own in owns), ReplyPart(letters=text)]
    return Native(provider=provider, model=model, parts=[*parts, *(ReplyPart(call=n) for n in range(calls))])


CONVERSATION = [
    user(
        "Look.",
        attached("a.txt", "text/plain"),
        attached("c", "image/png"),
        attached("d.pdf", "application/pdf"),
    ),
    *turn(1, {"path": "a"}, {"path": "b"}, '{"path": ', text="I look."),
    assistant("Done."),
    user("Again."),
    *turn(1, {"path": "c"}, status="error", content="no such file"),
    user("And this is new."),
    *turn(2, {"path": "d"}, status="unknown", content=""),
    assistant(""),
    user("Well?"),
]


def asked(*messages: Message, context: str = "", tools=(TOOL,), files=FILES, **options) -> ModelRequest:
    return ModelRequest(context, messages, tools, files, options)


def listed(value):
    """Official types read lists lazily: read them all."""
    if isinstance(value, dict):
        return {key: listed(item) for key, item in value.items()}
    return [listed(item) for item in value] if isinstance(value, list | Iterator) else value
