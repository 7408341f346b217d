"""What a storm has cost: all the checks of the proofs, over every run of the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from histories import chain, everything
from postgres_server import ESCAPED, PASSWORD
from proofs.ledger import Ledger, Note
from proofs.violations import Ended, open_workflows, secrets, violations
from proofs.workers import Job
from temporalio.client import Client

from chaos.crowd import Asked
from chaos.storm import Strike
from thoughtgear import PromptHandler
from thoughtgear.models import RunState


@dataclass
class Verdict:
    """`violations` by run id ("" for those of no run), and what was within the promises: replies that were
    lost between the model and their commit, calls whose outcome is unknown, messages that became a run."""

    violations: dict[str, list[str]] = field(default_factory=dict)
    runs: int = 0
    lost: int = 0
    unknown: int = 0
    followed: int = 0
    iterations: int = 0

    def add(self, run_id: str, found: Sequence[str]) -> None:
        """Note violations."""
        if found:
            self.violations.setdefault(run_id, []).extend(found)


async def judge(
    runs: Sequence[Asked],
    strikes: Sequence[Strike],
    ledger: Ledger,
    handler: PromptHandler,
    client: Client,
    job: Job,
) -> Verdict:
    """Check everything."""
    verdict, read = Verdict(), Counter[str]()
    asked = {each.run_id: each for each in runs}
    for state in await _all_runs(handler):
        history = await handler.history(state.run_id)
        read.update(message.text for message in history if message.role == "user")
        steps = asked[state.run_id].steps if state.run_id in asked else 0
        message = asked[state.run_id].message if state.run_id in asked else None
        mail = [[m.text] for m in history[1:] if m.role == "user" and m.text == message]
        bought = ledger.notes("reply", prompt=history[0].text)
        lost = lost_replies(bought, ledger.notes("commit", run=state.run_id), strikes)
        ended = Ended(history[0].text, steps, state, history, mail, lost, None)
        verdict.add(state.run_id, await violations(ended, ledger))
        verdict.add(state.run_id, await _told(client, state.run_id))
        verdict.runs += 1
        verdict.lost += lost
        verdict.iterations += state.iteration
        verdict.followed += state.run_id not in asked
        verdict.unknown += sum(m.tool_result.status == "unknown" for m in history if m.tool_result)
    told = Counter([each.text for each in runs] + [each.message for each in runs if each.message])
    if read != told:
        verdict.add("", [f"prompts lost {told - read}, doubled or unknown {read - told}"])
    verdict.add("", secrets([job.log.read_text()], PASSWORD, ESCAPED))
    verdict.add("", await open_workflows(client, job.queue))
    return verdict


def lost_replies(bought: Sequence[Note], commits: Sequence[Note], strikes: Sequence[Strike]) -> int:
    """How many replies of a run nobody saved, and a fault explains: it struck who bought the reply, or a
    server, between the question and the commit of another reply to it."""
    lost = 0
    for number in {note["number"] for note in bought}:
        notes = [note for note in bought if note["number"] == number]
        saved = [note for note in commits if note["replies"] >= number]
        until = min((note["time"] for note in saved), default=float("inf"))
        until = max([until, *(note["time"] for note in notes)])
        explained = [
            note for note in notes if any(strike.met(note["pid"], note["asked"], until) for strike in strikes)
        ]
        lost += min(len(notes) - 1, len(explained))
    return lost


async def _told(client: Client, run_id: str) -> list[str]:
    executions = await chain(client.get_workflow_handle(f"thoughtgear-{run_id}"))
    return secrets([everything(events) for events in executions], PASSWORD, ESCAPED)


async def _all_runs(handler: PromptHandler) -> list[RunState]:
    page = await handler.store.list_runs()
    runs = list(page.runs)
    while page.after is not None:
        page = await handler.store.list_runs(after=page.after)
        runs += page.runs
    return runs
