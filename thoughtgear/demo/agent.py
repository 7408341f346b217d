"""The agent of the demonstration: real tools on a real folder. `handler` is the target of its workers."""

from __future__ import annotations

import ast
import os
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from thoughtgear import registry
from thoughtgear.demo import script
from thoughtgear.demo.folder import Folder, FoundFile, read_text
from thoughtgear.demo.ledger import CountedModel, Ledger
from thoughtgear.errors import ConfigurationError
from thoughtgear.handler import PromptHandler
from thoughtgear.loop import Limits
from thoughtgear.protocols import Executor, ModelProvider
from thoughtgear.providers.scripted import ScriptedProvider
from thoughtgear.tools import Tool, ToolContext, tool

T = TypeVar("T")

NAME = "demo"
PROMPT = "Look through this folder, write a report about it, and tell the team."
CONTEXT = """\
You look through a folder with the tools and write a short report in Markdown with write_report.
First call list_files. Then, in one turn, largest_files and count_words for up to five text files.
Then call write_report. Then, in one turn, call notify exactly once, most_common_words and file_kinds.
A result with the status unknown means that nobody knows whether the call took effect: don't repeat it.
Then call write_report again, with the common words and with what is known about the notification.
End with an answer of two or three sentences."""
SHOWN_NAMES = 40
MOST_READ = 500


@dataclass(frozen=True)
class Stage:
    """Where the demonstration reads and writes. `hold` is how many seconds the slow tools take, so that
    the worker can be killed in their middle; `model` is a real one's name, or empty for the script."""

    folder: Path
    work: Path
    hold: float = 0.0
    model: str = ""

    def environment(self) -> dict[str, str]:
        """What `from_environment` reads, for a worker."""
        return {f"THOUGHTGEAR_DEMO_{name.upper()}": str(value) for name, value in vars(self).items()}

    @classmethod
    def from_environment(cls) -> Stage:
        """Read what `environment` wrote. Raises `ConfigurationError`."""
        try:
            folder, work, hold, model = (os.environ[f"THOUGHTGEAR_DEMO_{name}"] for name in _VARIABLES)
        except KeyError as exc:
            raise ConfigurationError(f"{exc.args[0]} is not set; start this with: thoughtgear demo") from None
        return cls(Path(folder), Path(work), float(hold), model)

    @property
    def report(self) -> Path:
        """The report that the agent writes."""
        return self.work / "thoughtgear-report.md"

    @property
    def outbox(self) -> Path:
        """What left the house: a line per notification."""
        return self.work / "outbox.txt"

    @property
    def tools(self) -> Ledger:
        """Tool starts, middles and ends."""
        return Ledger(self.work / "tools.jsonl")

    @property
    def replies(self) -> Ledger:
        """Model replies."""
        return Ledger(self.work / "replies.jsonl")


_VARIABLES = ("FOLDER", "WORK", "HOLD", "MODEL")


def handler() -> PromptHandler:
    """The target of the workers: `thoughtgear.demo.agent:handler`."""
    return make_handler(Stage.from_environment())


def make_handler(stage: Stage, executor: Executor | None = None) -> PromptHandler:
    """Return the agent, with its transcript in a SQLite file of the work folder."""
    inner: ModelProvider = (
        registry.open_model(stage.model)
        if stage.model
        else ScriptedProvider("scripted", replies=script.REPLIES, delay=0.25, chunk=12)
    )
    return PromptHandler(
        NAME,
        context=CONTEXT,
        tools=DemoTools(stage).all(),
        model=CountedModel(inner, stage.replies),
        db={"type": "sqlite", "path": str(stage.work / "demo.db")},
        executor=executor,
        limits=Limits(iterations=30, tokens=300_000),
    )


class DemoTools:
    """The tools. Each notes its start and its end in a ledger of its own, apart from the store."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._ledger = stage.tools
        self._folder = Folder(stage.folder)

    def all(self) -> list[Tool]:
        """The tools as a handler takes them."""
        plain = (
            self.list_files,
            self.largest_files,
            self.count_words,
            self.python_functions,
            self.file_kinds,
            self.most_common_words,
            self.write_report,
        )
        return [*(tool(each) for each in plain), tool(policy="at_most_once")(self.notify)]

    def list_files(self, ctx: ToolContext) -> dict[str, Any]:
        """List the folder: how many files, how many bytes, and the names of the first ones."""
        self._begin(ctx, "list_files")
        files = self._folder.files
        listed = {
            "files": len(files),
            "bytes": sum(file.size for file in files),
            "names": [file.name for file in files[:SHOWN_NAMES]],
            "python": [file.name for file in self._ranked() if file.name.endswith(".py")][:SHOWN_NAMES],
            "complete": not self._folder.cut,
        }
        return self._end(ctx, listed)

    def largest_files(self, ctx: ToolContext, limit: int = 5) -> list[dict[str, Any]]:
        """Name the largest files, with their bytes."""
        self._begin(ctx, "largest_files")
        most = max(0, min(limit, 20))
        largest = [{"name": file.name, "bytes": file.size} for file in self._ranked()[:most]]
        return self._end(ctx, largest)

    def count_words(self, ctx: ToolContext, name: str) -> dict[str, Any]:
        """Count words and lines of one file of the list."""
        self._begin(ctx, "count_words")
        text = read_text(self._folder.find(name))
        if text is None:
            return self._end(ctx, {"name": name, "binary": True})
        counted = {"name": name, "words": len(text.split()), "lines": len(text.splitlines())}
        return self._end(ctx, counted)

    def python_functions(self, ctx: ToolContext, name: str) -> dict[str, Any]:
        """Count the functions and classes of a Python file of the list."""
        self._begin(ctx, "python_functions")
        try:
            tree = ast.parse(read_text(self._folder.find(name)) or "")
        except (SyntaxError, ValueError, RecursionError):
            return self._end(ctx, {"name": name, "valid": False})
        kinds = Counter(type(node).__name__ for node in ast.walk(tree))
        functions = kinds["FunctionDef"] + kinds["AsyncFunctionDef"]
        return self._end(ctx, {"name": name, "functions": functions, "classes": kinds["ClassDef"]})

    def file_kinds(self, ctx: ToolContext) -> dict[str, int]:
        """Count the files by the ending of their names."""
        self._begin(ctx, "file_kinds")
        kinds = Counter(Path(file.name).suffix.lower() or "none" for file in self._folder.files)
        return self._end(ctx, dict(kinds.most_common(8)))

    def most_common_words(self, ctx: ToolContext, limit: int = 8) -> list[dict[str, Any]]:
        """Find the most common words of all files. Takes a while."""
        self._begin(ctx, "most_common_words")
        self._hold(ctx)
        words: Counter[str] = Counter()
        for file in self._folder.files[:MOST_READ]:
            ctx.heartbeat()
            words.update(re.findall(r"[^\W\d_]{5,}", (read_text(file) or "").lower()))
        common = [{"word": word, "times": n} for word, n in words.most_common(max(0, min(limit, 50)))]
        return self._end(ctx, common)

    def write_report(self, ctx: ToolContext, text: str) -> str:
        """Write the report, in place of the one before."""
        self._begin(ctx, "write_report")
        half = self._stage.report.with_suffix(".half")
        half.write_text(text, encoding="utf-8")
        half.replace(self._stage.report)
        return self._end(ctx, f"{self._stage.report.name}: {len(text.encode())} bytes")

    def notify(self, ctx: ToolContext, message: str) -> str:
        """Tell the team, by a message that can't be taken back."""
        self._begin(ctx, "notify")
        with self._stage.outbox.open("a", encoding="utf-8") as outbox:
            outbox.write(" ".join(message.split()) + "\n")
        self._hold(ctx)
        return self._end(ctx, "The team has the message.")

    def _ranked(self) -> list[FoundFile]:
        """The files, largest first."""
        return sorted(self._folder.files, key=lambda file: (-file.size, file.name))

    def _begin(self, ctx: ToolContext, name: str) -> None:
        self._ledger.note(event="start", call=ctx.call_id, tool=name, key=ctx.idempotency_key)

    def _hold(self, ctx: ToolContext) -> None:
        self._ledger.note(event="middle", call=ctx.call_id)
        time.sleep(self._stage.hold)

    def _end(self, ctx: ToolContext, value: T) -> T:
        self._ledger.note(event="end", call=ctx.call_id)
        return value
