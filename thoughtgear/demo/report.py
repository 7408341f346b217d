"""What the demonstration proves: facts read from the store, the server and the two ledgers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text
from temporalio.client import Client

from thoughtgear.client import workflow_id_for
from thoughtgear.demo.agent import DemoTools, Stage
from thoughtgear.models import Message, RunState, ToolResult
from thoughtgear.protocols import OrmAdapter
from thoughtgear.render import count

TELLING_LETTERS = 16
"""Texts at least this long are looked for in Temporal's history."""


@dataclass(frozen=True)
class CallFacts:
    """One tool call: how it was declared, how often its function began, and what the transcript says."""

    id: str
    tool: str
    policy: str
    starts: int
    workers: int
    keys: int
    result: str
    cut_off: bool
    saved_before_kill: bool

    @property
    def kept(self) -> bool:
        """Whether the promise of its policy was kept."""
        if self.policy == "at_most_once":
            return self.starts <= 1
        return self.keys <= 1 and (self.starts <= 1 or self.cut_off)

    def story(self) -> str:
        """What became of it, in a few words."""
        if self.result == "unknown":
            return "cut off by the kill; the model is told, it is not run again"
        if self.starts > 1:
            return "cut off by the kill; run again under the same key"
        if self.saved_before_kill:
            return "saved before the kill; not run again"
        return ""


@dataclass(frozen=True)
class Facts:
    """The whole story in numbers. Times in seconds, sizes in bytes."""

    run_id: str
    status: str
    error: str
    iterations: int
    model: str
    replies_bought: int
    replies_saved: int
    killed: bool
    recovery_seconds: float | None
    history_events: int
    history_bytes: int
    history_texts: int
    transcript_bytes: int
    outbox_lines: int
    seconds: float
    link: str
    answer: str
    report: str
    calls: list[CallFacts] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        """Whether everything is as promised."""
        return (
            self.status == "done"
            and self.replies_bought == self.replies_saved
            and self.history_texts == 0
            and all(call.kept for call in self.calls)
        )

    def as_dict(self) -> dict[str, Any]:
        """The facts as a script wants them."""
        return {**asdict(self), "kept": self.kept}


@dataclass(frozen=True)
class Kill:
    """When the first worker was killed (Unix seconds), at which version, and when the run moved again."""

    at: float
    version: int
    saved: frozenset[str]
    recovered_at: float


async def gather(
    stage: Stage, state: RunState, store: OrmAdapter, client: Client, kill: Kill | None, **known: Any
) -> Facts:
    """Read the facts. `known` holds the link, the seconds and the model's name."""
    messages = await store.get_history(state.run_id)
    handle = client.get_workflow_handle(state.driver.workflow_id or workflow_id_for(state.run_id))
    description = await handle.describe()
    history = (await handle.fetch_history()).to_json()
    return Facts(
        run_id=state.run_id,
        status=state.status,
        error=f"{state.error.type}: {state.error.message}" if state.error else "",
        iterations=state.iteration,
        replies_bought=len(stage.replies.read()),
        replies_saved=sum(message.role == "assistant" for message in messages),
        killed=kill is not None,
        recovery_seconds=round(kill.recovered_at - kill.at, 1) if kill else None,
        history_events=description.history_length,
        history_bytes=description.raw_description.workflow_execution_info.history_size_bytes,
        history_texts=sum(text in history for text in _texts(messages)),
        transcript_bytes=sum(len(message.model_dump_json()) for message in messages),
        outbox_lines=len(stage.outbox.read_text().splitlines()) if stage.outbox.exists() else 0,
        answer=state.output or "",
        report=stage.report.read_text(encoding="utf-8") if stage.report.exists() else "",
        calls=_calls(stage, messages, kill),
        **known,
    )


def _calls(stage: Stage, messages: list[Message], kill: Kill | None) -> list[CallFacts]:
    events = stage.tools.read()
    policies = {tool.name: tool.policy for tool in DemoTools(stage).all()}
    results = {
        message.tool_result.call_id: message.tool_result for message in messages if message.tool_result
    }
    saved = kill.saved if kill else frozenset()
    facts = []
    for call in (call for message in messages for call in message.tool_calls):
        starts = [each for each in events if each["event"] == "start" and each["call"] == call.id]
        ends = {each["pid"] for each in events if each["event"] == "end" and each["call"] == call.id}
        facts.append(
            CallFacts(
                id=call.id,
                tool=call.name,
                policy=policies.get(call.name, "idempotent"),
                starts=len(starts),
                workers=len({each["pid"] for each in starts}),
                keys=len({each["key"] for each in starts}),
                result=_status(results.get(call.id)),
                cut_off=bool(starts) and starts[0]["pid"] not in ends,
                saved_before_kill=call.id in saved,
            )
        )
    return facts


def _status(result: ToolResult | None) -> str:
    return result.status if result else "none"


def _texts(messages: list[Message]) -> set[str]:
    """Prompt, replies and results, as the history would show them: the first line of each."""
    texts = {message.text for message in messages}
    texts |= {message.tool_result.content for message in messages if message.tool_result}
    lines = {line for text in texts for line in text.splitlines()[:1]}
    return {line for line in lines if len(line) >= TELLING_LETTERS and line.isascii() and '"' not in line}


def closing_table(facts: Facts) -> Table:
    """The facts, for people."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, text in _rows(facts):
        table.add_row(name, text)
    return table


def _rows(facts: Facts) -> list[tuple[str, Text | str]]:
    starts = sum(call.starts for call in facts.calls)
    rows: list[tuple[str, Text | str]] = [
        ("model replies", f"{facts.replies_bought} bought, {facts.replies_saved} in the transcript"),
        ("tool calls", f"{count(len(facts.calls), 'call')}, {count(starts, 'start')}"),
    ]
    rows += [("", _call_text(call)) for call in facts.calls if call.story()]
    if facts.recovery_seconds is not None:
        recovery = f"{facts.recovery_seconds:.1f} s from SIGKILL to the next commit"
        rows.append(("recovery", f"{recovery} (heartbeat timeout 10 s)"))
    per_iteration = facts.history_bytes // max(facts.iterations, 1)
    history = f"{facts.history_events} events, {facts.history_bytes:,} bytes: {per_iteration:,} per iteration"
    rows.append(("history", history))
    found = (
        "no text of it is" if not facts.history_texts else f"{count(facts.history_texts, 'text')} of it are"
    )
    rows.append(("transcript", f"{facts.transcript_bytes:,} bytes in SQLite; {found} in the history"))
    rows.append(("outbox", count(facts.outbox_lines, "line")))
    return rows


def _call_text(call: CallFacts) -> Text:
    colour = "yellow" if call.result == "unknown" else "green" if call.result == "ok" else "red"
    return Text.assemble(
        f"{call.id} {call.tool} ({call.policy}), {count(call.starts, 'start')}, ",
        (call.result, colour),
        (f"\n    {call.story()}", "dim"),
    )
