"""The checks of every proof, in one place. Each returns what is violated, in words; nothing is right.

What happened is what the ledger says. The store is asked for what it must show of that.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from temporalio.client import Client

from proofs.agent import ANSWER, CANARY, Agent, ledger_of, prompt
from proofs.ledger import Ledger
from thoughtgear.adapters.memory import MemoryAdapter
from thoughtgear.executors.local import LocalExecutor
from thoughtgear.models import Message, RunState

Turn = tuple[Any, ...]

_fault_free: dict[int, list[Turn]] = {}


@dataclass(frozen=True)
class Ended:
    """A run at its end, and what was acknowledged to those who prompted it.

    `lost` is how many crashes fell between a reply and its commit, `unknown` the calls whose outcome nobody
    can know (None: any payment), `sent` the messages that were acknowledged, in each sender's order.
    """

    prompt: str
    steps: int
    state: RunState
    history: Sequence[Message]
    sent: Sequence[Sequence[str]] = ()
    lost: int = 0
    unknown: Collection[str] | None = ()
    status: str = "done"


async def violations(ended: Ended, ledger: Ledger) -> list[str]:
    """All that is wrong with a run."""
    found = [
        *wrong_end(ended),
        *wrong_transcript(ended, await fault_free(ended.steps)),
        *lost_or_doubled_prompts(ended),
        *replies_bought_twice(ended, ledger),
        *wrong_effects(ended, ledger),
        *wrong_results(ended),
        *older_claims(ended, ledger),
    ]
    return [f"run {ended.state.run_id}: {each}" for each in found]


def wrong_end(ended: Ended) -> list[str]:
    """The run ended as it must, and its messages are numbered 0 to n."""
    state, seqs = ended.state, [message.seq for message in ended.history]
    found = [] if state.status == ended.status else [f"it is {state.status} ({state.error})"]
    if seqs != list(range(state.message_count)):
        found.append(f"its seqs are {seqs}, and it counts {state.message_count}")
    replies = sum(message.role == "assistant" for message in ended.history)
    if replies != state.model_replies:
        found.append(f"it has {replies} replies and counts {state.model_replies}")
    return found


def wrong_transcript(ended: Ended, expected: list[Turn]) -> list[str]:
    """The transcript is that of a run without faults, but for calls of unknown outcome. A run that was
    cancelled has its beginning; one that was sent messages may answer each of them."""
    turns = turns_of(ended.history)
    if ended.sent:
        answers = turns[len(expected) :]
        if len(answers) > sum(map(len, ended.sent)) or any(turn != expected[-1] for turn in answers):
            return [f"it goes on with {answers}"]
        turns = turns[: len(expected)]
    if ended.status == "cancelled":
        expected = expected[: len(turns)]
    return [
        f"its turn is {turn} instead of {right}"
        for turn, right in zip(turns, expected, strict=False)
        if turn != right and not _excused(turn, right, ended)
    ] + ([] if len(turns) == len(expected) else [f"it has {len(turns)} turns instead of {len(expected)}"])


def lost_or_doubled_prompts(ended: Ended) -> list[str]:
    """Each acknowledged prompt and message is there once, in the order of its sender."""
    texts = [message.text for message in ended.history if message.role == "user"]
    found = [] if texts[:1] == [ended.prompt] else [f"it begins with {texts[:1]}"]
    told = Counter([ended.prompt, *(text for each in ended.sent for text in each)])
    if Counter(texts) != told:
        found.append(f"messages lost {told - Counter(texts)}, doubled or unknown {Counter(texts) - told}")
    return found + [
        f"the messages {list(each)} stand as {texts}"
        for each in ended.sent
        if [text for text in texts if text in set(each)] != list(each)
    ]


def replies_bought_twice(ended: Ended, ledger: Ledger) -> list[str]:
    """No more replies were bought than are saved and were lost between the reply and its commit."""
    bought = len(ledger.notes("reply", prompt=ended.prompt))
    saved = ended.state.model_replies
    if saved <= bought <= saved + ended.lost:
        return []
    return [f"{bought} replies were bought, {saved} are saved, {ended.lost} may be lost"]


def wrong_effects(ended: Ended, ledger: Ledger) -> list[str]:
    """A payment took effect once at the most, exactly once where its result is ok, and a look that is ok at
    least once."""
    paid, looked = Counter[str](), Counter[str]()
    for note in ledger.notes("effect"):
        (paid if note["tool"] == "pay" else looked)[note["key"]] += 1
    found = [
        f"{key} took effect {times} times"
        for key, times in paid.items()
        if key.startswith(ended.state.run_id) and times > 1
    ]
    for result in _results(ended.history):
        key = f"{ended.state.run_id}:{result.call_id}"
        if result.status == "ok" and not (paid[key] == 1 if result.name == "pay" else looked[key]):
            found.append(f"{key} is ok and took effect {paid[key] or looked[key]} times")
    return found


def wrong_results(ended: Ended) -> list[str]:
    """Each call has one result, behind it."""
    open_calls: set[str] = set()
    found: list[str] = []
    for message in ended.history:
        if message.tool_result is not None:
            if message.tool_result.call_id not in open_calls:
                found.append(f"a second result, or one without a call: {message.tool_result.call_id}")
            open_calls.discard(message.tool_result.call_id)
        elif open_calls and message.role == "assistant":
            found.append(f"no result before the next reply: {open_calls}")
        open_calls |= {call.id for call in message.tool_calls}
    return found + ([f"calls without a result: {open_calls}"] if open_calls else [])


def older_claims(ended: Ended, ledger: Ledger) -> list[str]:
    """Whoever commits has the newest claim so far: along the versions epochs never fall."""
    notes = sorted(ledger.notes("commit", run=ended.state.run_id), key=lambda note: note["version"])
    found = [f"version {note['version']} was written twice" for note in _doubles(notes)]
    epochs = [note["epoch"] for note in notes]
    return found if epochs == sorted(epochs) else [*found, f"the commits' epochs are {epochs}"]


def secrets(texts: Iterable[str], *more: str) -> list[str]:
    """No prompt, argument or result, and none of `more`, is in what histories and logs say."""
    hidden = [CANARY, ANSWER, *more]
    return [f"{word!r} is in: …{_around(text, word)}…" for text in texts for word in hidden if word in text]


async def open_workflows(client: Client, queue: str) -> list[str]:
    """No workflow of this queue goes on."""
    query = f"TaskQueue = '{queue}' AND ExecutionStatus = 'Running'"
    return [f"workflow {found.id} goes on" async for found in client.list_workflows(query)]


async def fault_free(steps: int) -> list[Turn]:
    """The turns of a run of so many steps that nothing happened to: it is run."""
    if steps not in _fault_free:
        with tempfile.TemporaryDirectory() as folder:
            store = MemoryAdapter()
            agent = Agent(ledger_of(Path(folder)))
            async with agent.handler(store, LocalExecutor()) as handler:
                state = await handler.handle_prompt(prompt("fault-free", steps))
                assert state.status == "done", state.error
                _fault_free[steps] = turns_of(await handler.history(state.run_id))
    return _fault_free[steps]


def turns_of(history: Sequence[Message]) -> list[Turn]:
    """The replies with the results of their calls, in the order of the calls."""
    turns = []
    for _, group in groupby((m for m in history if m.role != "user"), key=lambda message: message.iteration):
        messages = list(group)
        replies = [message for message in messages if message.role == "assistant"]
        calls = [(call.id, call.name, call.arguments) for reply in replies for call in reply.tool_calls]
        results = [(each.call_id, each.name, each.status, each.content) for each in _results(messages)]
        turns.append(([reply.text for reply in replies], calls, sorted(results)))
    return turns


def _excused(turn: Turn, right: Turn, ended: Ended) -> bool:
    """Whether two turns differ by calls alone whose outcome nobody knows, or that a cancel left undone."""
    same = turn[:2] == right[:2] and len(turn[2]) == len(right[2])
    return same and all(
        mine == its or _may_differ(mine, ended) for mine, its in zip(turn[2], right[2], strict=True)
    )


def _may_differ(result: tuple[str, str, str, str], ended: Ended) -> bool:
    call_id, name, status, _ = result
    if ended.status == "cancelled":
        return status in ("unknown", "cancelled")
    return (name, status) == ("pay", "unknown") and (ended.unknown is None or call_id in ended.unknown)


def _results(history: Sequence[Message]) -> list[Any]:
    return [message.tool_result for message in history if message.tool_result is not None]


def _doubles(notes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    seen = Counter(note["version"] for note in notes)
    return [note for note in notes if seen[note["version"]] > 1]


def _around(text: str, word: str) -> str:
    begin = text.index(word)
    return text[max(0, begin - 100) : begin + 100]
