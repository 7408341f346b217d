"""What the scripted model says. Each reply is a function of the tool results that it is shown, so that the
report is about the real folder, and about what really happened to the calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from thoughtgear.models import ToolResult
from thoughtgear.protocols import ModelReply, ModelRequest, RequestedCall
from thoughtgear.providers.scripted import Cue, call

READ_FILES = 4
PYTHON_FILES = 2


def look(_request: ModelRequest) -> RequestedCall:
    """First of all, what is there?"""
    return call("list_files")


def read(request: ModelRequest) -> list[RequestedCall]:
    """Look closer at the largest part that is readable in a few calls."""
    listed = _value(request, "list_files") or {}
    calls = [call("largest_files", limit=5)]
    calls += [call("count_words", name=name) for name in _readable(listed.get("names", []))[:READ_FILES]]
    calls += [call("python_functions", name=name) for name in listed.get("python", [])[:PYTHON_FILES]]
    return calls


def draft(request: ModelRequest) -> RequestedCall:
    """Write down what is known."""
    return call("write_report", text=report(request))


def tell(request: ModelRequest) -> ModelReply:
    """Tell the team, and count on meanwhile: the worker dies in the middle of this."""
    files = (_value(request, "list_files") or {}).get("files", 0)
    calls = [
        call("notify", message=f"A report about {files} files is on its way."),
        call("most_common_words", limit=8),
        call("file_kinds"),
    ]
    return ModelReply(text="The draft is written. I tell the team and count on.", calls=calls)


def rewrite(request: ModelRequest) -> RequestedCall:
    """Add what came since, and what became of the notification."""
    return call("write_report", text=report(request))


def answer(request: ModelRequest) -> str:
    """The end."""
    listed = _value(request, "list_files") or {}
    return (
        f"I looked through {_many(listed.get('files', 0), 'file')} ({_size(listed.get('bytes', 0))}) and "
        f"wrote the report. {_notified(request)}"
    )


REPLIES: Sequence[Cue] = (look, read, draft, tell, rewrite, answer)


def report(request: ModelRequest) -> str:
    """The report, from the results that there are so far."""
    listed = _value(request, "list_files") or {}
    lines = ["# What is in this folder", ""]
    lines += [f"{_many(listed.get('files', 0), 'file')}, {_size(listed.get('bytes', 0))} in all."]
    if not listed.get("complete", True):
        lines += ["There are more; these are the first ones."]
    lines += _section("Largest files", [_largest(each) for each in _value(request, "largest_files") or []])
    lines += _section("Read", [_counted(each) for each in _values(request, "count_words")])
    lines += _section("Python", [_python(each) for each in _values(request, "python_functions")])
    kinds = _value(request, "file_kinds") or {}
    lines += _section("Kinds", [f"{kind}: {_many(number, 'file')}" for kind, number in kinds.items()])
    words = _value(request, "most_common_words") or []
    common = ", ".join(f"{each['word']} ({each['times']})" for each in words)
    lines += _section("Most common words", [common] if common else [])
    if _result(request, "notify"):
        lines += ["", "## Notification", "", _notified(request)]
    return "\n".join(lines) + "\n"


def _notified(request: ModelRequest) -> str:
    result = _result(request, "notify")
    if result is None:
        return "The team was not told yet."
    if result.status == "unknown":
        return (
            "Whether the team got the notification is unknown: the call was cut off, and it is not repeated."
        )
    return "The team was told." if result.status == "ok" else "The team could not be told."


def _readable(names: Sequence[str]) -> list[str]:
    """The files most worth reading, by their names."""
    first = (".md", ".rst", ".txt", ".py", ".toml", ".json", ".yaml", ".yml", ".csv")
    return sorted(names, key=lambda name: (not name.lower().endswith(first), name.count("/")))


def _section(title: str, items: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *(f"- {item}" for item in items)] if items else []


def _largest(each: dict[str, Any]) -> str:
    return f"`{each['name']}`: {_size(each['bytes'])}"


def _counted(each: dict[str, Any]) -> str:
    if each.get("binary"):
        return f"`{each['name']}`: binary"
    return f"`{each['name']}`: {_many(each['words'], 'word')}, {_many(each['lines'], 'line')}"


def _python(each: dict[str, Any]) -> str:
    if not each.get("valid", True):
        return f"`{each['name']}`: not valid Python"
    return f"`{each['name']}`: {_many(each['functions'], 'function')}, {_many(each['classes'], 'class')}"


def _many(number: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def _size(size: int) -> str:
    return f"{size:,} bytes" if size < 10_000 else f"{size / 1000:,.0f} kB"


def _result(request: ModelRequest, tool: str) -> ToolResult | None:
    """The last result of a tool."""
    results = (message.tool_result for message in reversed(request.messages) if message.tool_result)
    return next((result for result in results if result.name == tool), None)


def _value(request: ModelRequest, tool: str) -> Any:
    result = _result(request, tool)
    return json.loads(result.content) if result is not None and result.status == "ok" else None


def _values(request: ModelRequest, tool: str) -> list[Any]:
    results = [message.tool_result for message in request.messages if message.tool_result]
    return [json.loads(each.content) for each in results if each.name == tool and each.status == "ok"]
