"""The table of faults survived, for the terminal and for docs/reliability.md."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from chaos.experiment import Outcome
from chaos.plan import Plan

HEADS = ("Fault", "Fired", "Runs under way", "Violations")


def rows(plan: Plan, outcome: Outcome) -> Iterator[tuple[str, int, int, int]]:
    """Per kind: how often it fired, how many runs went on while it did, how many of them a promise was broken
    to. The last row is all of it."""
    bad = outcome.verdict.violations
    for kind in plan.faults:
        strikes = [strike for strike in outcome.strikes if strike.kind == kind]
        struck = {
            run.run_id
            for run in outcome.runs
            if any(run.begin <= strike.end and strike.begin <= run.end for strike in strikes)
        }
        yield kind, len(strikes), len(struck), len(struck & bad.keys())
    yield "all", len(outcome.strikes), len(outcome.runs), sum(map(len, bad.values()))


def table(plan: Plan, outcome: Outcome) -> Table:
    """The rows for the terminal."""
    made = Table(title=f"Faults survived (seed {plan.seed})")
    for head in HEADS:
        made.add_column(head, justify="left" if head == HEADS[0] else "right")
    for row in rows(plan, outcome):
        made.add_row(*map(str, row))
    return made


def within(outcome: Outcome) -> str:
    """What was lost within the promises, in a sentence."""
    verdict = outcome.verdict
    return (
        f"{verdict.iterations} iterations of {verdict.runs} runs, of which {verdict.followed} were messages "
        f"that came after a run's end. Within the promises: {verdict.lost} replies lost between the model "
        f"and their commit, {verdict.unknown} payments whose outcome the transcript calls unknown."
    )
