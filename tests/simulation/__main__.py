"""`just simulate`: search for a schedule of faults that breaks a promise.

just simulate                    every schedule of one fault, every one of two, 20,000 random ones
just simulate --seed 7           the random experiment of a seed, told step by step
just simulate 'small-local@12:die,30:lose'
                                 one experiment as a search has printed it, told step by step
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from simulation import clock
from simulation.experiment import Experiment, random_experiment, read_experiment
from simulation.faults import KINDS, POINTS
from simulation.scenarios import ENUMERATED, SCENARIOS
from simulation.search import Piece, Tally, carry_out, pieces, smallest
from simulation.story import tell

console = Console()
if not console.is_terminal:
    console = Console(width=140)  # the table of faults, whole


def main(
    experiment: Annotated[str, typer.Argument(help="One experiment, as a search prints it.")] = "",
    seed: Annotated[int | None, typer.Option(help="The random experiment of this seed alone.")] = None,
    seeds: Annotated[int, typer.Option(help="How many random experiments.")] = 20_000,
    first: Annotated[int, typer.Option(help="The first seed.")] = 0,
    singles: Annotated[bool, typer.Option(help="Try every fault in every scenario.")] = True,
    pairs: Annotated[bool, typer.Option(help="Try every two faults in the small scenarios.")] = True,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 1,
) -> None:
    """Search for a schedule of faults that breaks a promise; exit with 1 where there is one, or where a
    listed fault has never fired."""
    logging.disable()
    if experiment or seed is not None:
        raise typer.Exit(show(read_experiment(experiment) if experiment else random_experiment(seed or 0)))
    work = list(pieces(list(SCENARIOS) if singles else [], ENUMERATED if pairs else [], first, seeds))
    tally = search(work, jobs)
    console.print(table_of(tally))
    console.print(
        "Schedules: " + ", ".join(f"{count:,} {kind}" for kind, count in sorted(tally.kinds.items()))
    )
    console.print(
        f"{tally.schedules:,} schedules in {tally.seconds:,.0f} s of CPU: {tally.per_minute:,.0f} per minute "
        f"and core. {len(tally.failures)} failed. {datetime.now(UTC):%Y-%m-%d}"
    )
    raise typer.Exit(report(tally, whole=singles and pairs))


def show(experiment: Experiment) -> int:
    """Tell one experiment; return the exit code."""
    with clock.virtual():
        outcome = experiment.run()
    for line in tell(outcome.world):
        console.print(line, highlight=False, soft_wrap=True, style="bold red" if "FAULT" in line else None)
    console.print(f"exactly: {outcome.exact}", soft_wrap=True, highlight=False)
    for violation in outcome.violations:
        console.print(f"[red]violated:[/] {violation}", soft_wrap=True, highlight=False)
    if not outcome.violations:
        console.print("All promises hold.")
    return 1 if outcome.violations else 0


def search(work: list[Piece], jobs: int) -> Tally:
    """Carry the work out, and show how far it is."""
    total = Tally()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn(
            "{task.fields[done]:,} schedules, {task.fields[rate]:,.0f} per minute, {task.fields[bad]} bad"
        ),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("simulating", total=len(work), done=0, rate=0.0, bad=0)
        for tally in results(work, jobs):
            total.merge(tally)
            bad = len(total.failures)
            progress.update(bar, advance=1, done=total.schedules, rate=total.per_minute, bad=bad)
    return total


def results(work: list[Piece], jobs: int) -> Iterator[Tally]:
    """The pieces' tallies as they come."""
    if jobs == 1:
        yield from map(carry_out, work)
        return
    with ProcessPoolExecutor(jobs, initializer=logging.disable) as pool:
        for done in as_completed([pool.submit(carry_out, piece) for piece in work]):
            yield done.result()


def report(tally: Tally, *, whole: bool) -> int:
    """Say how to repeat each failure, and how to keep it as a test. Return the exit code: 1 as well where a
    listed fault has never fired in a `whole` search: all singles and pairs are in it, without chance."""
    for failed, violations in tally.failures:
        console.print(f"[red]{violations[0]}[/]", soft_wrap=True, highlight=False)
        console.print(f"  just simulate '{smallest(failed)}'", soft_wrap=True, highlight=False)
    if tally.failures:
        console.print("Put what is mended into FOUND of tests/simulation/found.py: it is a test then.")
    silent = tally.silent if whole else []
    for point, kind in silent:
        console.print(f"[red]never fired:[/] {kind} at {point}")
    return 1 if tally.failures or silent else 0


def table_of(tally: Tally) -> Table:
    """How often each fault has fired, and where; what is not listed there is a dot."""
    table = Table(title="Faults fired", box=None, padding=(0, 1, 0, 0))
    table.add_column("point", no_wrap=True)
    for kind in KINDS:
        table.add_column(kind, justify="right", no_wrap=True)
    for point, there in POINTS.items():
        table.add_row(point, *(short(tally.fired[point, kind]) if kind in there else "·" for kind in KINDS))
    return table


def short(count: int) -> str:
    """A number in four letters."""
    return str(count) if count < 10_000 else f"{count // 1000}k"


if __name__ == "__main__":
    sys.argv[0] = "simulate"
    typer.run(main)
