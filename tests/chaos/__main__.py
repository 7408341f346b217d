"""`just chaos`: the experiment with a progress display and a table at the end. Exit code 1 on a violation."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from chaos.experiment import Outcome, endure
from chaos.plan import Plan
from chaos.report import table, within


def main() -> int:
    """Run it, and say what came of it."""
    parser = argparse.ArgumentParser(prog="just chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="Repeats the order of the faults; default: a new one.")
    parser.add_argument("--little", action="store_true", help="The size of every day: half a minute.")
    given = parser.parse_args()
    plan = Plan(seed=random.randrange(10_000) if given.seed is None else given.seed)
    plan = plan.little() if given.little else plan
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    console = Console()
    console.print(f"Seed {plan.seed}; ledger, logs and Temporal's file are in {folder}.")
    begin = time.monotonic()
    outcome = asyncio.run(_shown(plan, folder, console))
    console.print(table(plan, outcome))
    console.print(within(outcome), soft_wrap=True)
    console.print(f"It took {time.monotonic() - begin:.0f} s.")
    for run_id, found in outcome.verdict.violations.items():
        console.print(f"[red]violation[/] {run_id}:", *found, markup=True, soft_wrap=True)
    return 1 if outcome.verdict.violations or any(outcome.exits) else 0


async def _shown(plan: Plan, folder: Path, console: Console) -> Outcome:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[last]}"), console=console) as progress:
        faults = progress.add_task("faults", total=plan.total, last="")
        runs = progress.add_task("runs over", total=plan.runs, last="")
        return await endure(
            plan,
            folder,
            fired=lambda strike: progress.update(faults, advance=1, last=strike.kind),
            ended=lambda asked: progress.update(runs, advance=1),
        )


if __name__ == "__main__":
    sys.exit(main())
