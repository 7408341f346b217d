"""The demonstration from its beginning to its end: `thoughtgear demo`."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.text import Text
from temporalio.client import Client

from thoughtgear.client import workflow_id_for
from thoughtgear.codec import converter_from_environment
from thoughtgear.demo.agent import PROMPT, Stage, make_handler
from thoughtgear.demo.folder import Folder
from thoughtgear.demo.report import Facts, Kill, closing_table, gather
from thoughtgear.dev import own_folder
from thoughtgear.devserver import DevServer
from thoughtgear.errors import ConfigurationError, WaitTimeoutError
from thoughtgear.events import StreamEvent
from thoughtgear.executors.temporal import TemporalExecutor
from thoughtgear.follow import Follower
from thoughtgear.handler import PromptHandler
from thoughtgear.models import RunState
from thoughtgear.render import call_line, clean, count, one_line, print_json, result_line
from thoughtgear.ui import workflow_link
from thoughtgear.worker_process import WorkerProcess

TARGET = "thoughtgear.demo.agent:handler"
QUEUE = "thoughtgear-demo"
VICTIM = "notify"
HOLD_SECONDS = 30.0
"""How long the tools of the first worker stay in their middle, unless it is killed there."""

SETTLE_SECONDS = 5.0
"""How long the siblings of the victim may take to finish or to reach their middle."""

STORY_SECONDS = 240.0
"""How long a run may take: a real model may be slow, or not there."""

LOOK_SECONDS = 0.02
DEFAULT_MODEL = "openai:gpt-4o-mini"


class Narrator:
    """Tells the story: each step a line, with the seconds since the beginning."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began = time.monotonic()
        self._asked_at: dict[str, datetime] = {}

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def note(self, text: str | Text, style: str = "") -> None:
        """Tell a step."""
        stamp = (f"{self.seconds:5.1f} s  ", "dim")
        line = Text.assemble(stamp, (text, style) if isinstance(text, str) else text)
        self.console.print(line, soft_wrap=True)

    def event(self, event: StreamEvent) -> None:
        """Tell what the model says, and of calls that begin and end."""
        width = self.console.width - 9
        if event.kind == "text":
            self.note(one_line(event.text, 400), "bold")
        elif event.call is not None and event.at is not None:
            self._asked_at[event.call.id] = event.at
            self.note(call_line(event.call, width))
        elif event.result is not None and event.at is not None:
            began = self._asked_at.get(event.result.call_id, event.at)
            seconds = (event.at - began).total_seconds()
            self.note(result_line(event.result, seconds, width))


class Story:
    """The run and its two workers."""

    def __init__(self, stage: Stage, server: DevServer, client: Client, narrator: Narrator) -> None:
        self._stage, self._server, self._client = stage, server, client
        self._tell = narrator.note
        self._narrator = narrator
        self._workers: list[WorkerProcess] = []
        self._handler: PromptHandler = make_handler(stage, TemporalExecutor(client, QUEUE))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.kill()
        await self._handler.aclose()

    async def play(self) -> Facts:
        """Run, kill, recover; return what was seen. The last worker stays until the story is left: it is
        what answers the UI's question for the current details."""
        await self._start_worker(hold=HOLD_SECONDS)
        run = await self._handler.handle_prompt(PROMPT)
        link = workflow_link(self._server.ui_url or "", self._client.namespace, workflow_id_for(run.run_id))
        self._tell(f"Run {run.run_id}: in the store, and scheduled.")
        self._tell(link, "dim")
        follower = Follower(self._handler.store, run.run_id, self._narrator, after=0, text=False)
        following = asyncio.create_task(follower.until_over())
        killing = asyncio.create_task(self._kill_in_the_middle(run.run_id, follower))
        try:
            async with asyncio.timeout(STORY_SECONDS):
                state = await following
                kill = await killing
        except TimeoutError:
            said = self._workers[-1].last_words()
            raise WaitTimeoutError(
                f"The run is not over after {STORY_SECONDS:.0f} s; worker: {said}"
            ) from None
        finally:
            following.cancel()
            killing.cancel()
        return await gather(
            self._stage,
            state,
            self._handler.store,
            self._client,
            kill,
            link=link,
            model=self._handler.model.model,
            seconds=round(self._narrator.seconds, 1),
        )

    async def _start_worker(self, hold: float) -> None:
        number = len(self._workers) + 1
        stage = Stage(self._stage.folder, self._stage.work, hold, self._stage.model)
        worker = WorkerProcess(
            TARGET,
            address=self._server.address,
            log=self._stage.work / f"worker-{number}.log",
            folder=self._stage.work,
            task_queue=QUEUE,
            environment=stage.environment(),
        )
        self._workers.append(worker)
        worker.start()
        if not await worker.until_ready(self._client):
            raise ConfigurationError(f"Worker {number} did not start: {worker.last_words()}")
        self._tell(f"Worker {number} (pid {worker.pid}) is ready.")

    async def _kill_in_the_middle(self, run_id: str, follower: Follower) -> Kill | None:
        """Kill the first worker once the victim has had its effect, and start the second. None when the run
        ends without the victim: a real model may never call it."""
        if not await self._victim_hit(run_id, follower):
            return None
        worker = self._workers[0]
        worker.kill()
        at = time.time()
        state = await self._handler.get_run(run_id)
        self._tell(f"SIGKILL to worker 1 (pid {worker.pid}), in the middle of {VICTIM}.", "bold red")
        self._tell("The message is in the outbox; that the call ended was never saved.")
        saved = frozenset(row.call.id for row in state.ledger if row.status in ("done", "failed"))
        self._tell("Temporal misses worker 1 after 10 s without a heartbeat. Worker 2 starts.")
        await self._start_worker(hold=0.0)
        recovered = await self._next_commit(run_id, state.version)
        self._tell(f"Worker 2 has the run, {recovered - at:.1f} s after the kill.", "bold green")
        return Kill(at, state.version, saved, recovered)

    async def _next_commit(self, run_id: str, version: int) -> float:
        """Return when (Unix seconds) the run went beyond this version."""
        while True:
            state = await self._handler.get_run(run_id)
            if state.version > version:
                return state.updated_at.timestamp()
            await asyncio.sleep(LOOK_SECONDS)

    async def _victim_hit(self, run_id: str, follower: Follower) -> bool:
        """Wait until the victim is in its middle, its siblings are finished or in theirs, and all is told."""
        hit_at: float | None = None
        while True:
            state = await self._handler.get_run(run_id)
            events = self._stage.tools.read()
            middles = {event["call"] for event in events if event["event"] == "middle"}
            victims = {event["call"] for event in events if event.get("tool") == VICTIM}
            if state.over:
                return False
            if middles & victims:
                hit_at = hit_at or time.monotonic()
                told = follower.seq == state.message_count - 1
                if (told and _settled(state, middles)) or time.monotonic() > hit_at + SETTLE_SECONDS:
                    return True
            await asyncio.sleep(LOOK_SECONDS)


def _settled(state: RunState, middles: set[str]) -> bool:
    return all(row.status in ("done", "failed") or row.call.id in middles for row in state.ledger)


async def tell(folder: Path, console: Console, *, keep: bool, scripted: bool, as_json: bool) -> int:
    """Play the story, and close with the facts. Returns 0 when every promise was kept."""
    narrator = Narrator(console)
    model = "" if scripted else _real_model()
    files = Folder(folder)
    found = count(len(files.files), "file") + " or more" * files.cut
    narrator.note(f"An agent looks through {clean(str(folder))} ({found}).")
    if model:
        narrator.note(
            f"Model {model}: names and contents of files go to it; --scripted keeps them here.", "yellow"
        )
    with _work_folder(keep) as work:
        stage = Stage(folder, work, model=model)
        async with DevServer(db=work / "temporal.db" if keep else None, log=work / "temporal.log") as server:
            narrator.note(f"Temporal server at {server.address}, its UI at {server.ui_url}")
            client = await Client.connect(server.address, data_converter=converter_from_environment())
            async with Story(stage, server, client, narrator) as story:
                facts = await story.play()
                _close(facts, console, as_json=as_json)
                if keep:
                    await _stay(console, facts, work)
    if not keep and not as_json:
        console.print("The report, the logs and the page in the UI stay with: thoughtgear demo --keep")
    return 0 if facts.kept else 1


async def _stay(console: Console, facts: Facts, work: Path) -> None:
    console.print(f"UI     {facts.link}\nfiles  {work}\nCtrl-C ends the server.", soft_wrap=True)
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


def _close(facts: Facts, console: Console, *, as_json: bool) -> None:
    if as_json:
        print_json(facts.as_dict())
        return
    console.print()
    console.print(Text(_verdict(facts), "bold green" if facts.kept else "bold red"), soft_wrap=True)
    console.print()
    console.print(closing_table(facts))
    console.print()
    if not facts.killed:
        console.print(f"The model never called {VICTIM}, so no worker was killed.")


def _verdict(facts: Facts) -> str:
    if facts.status != "done":
        return clean(f"{facts.status}: {facts.error}") + (" (--scripted needs no model)" * bool(facts.error))
    return "Done, and everything is as promised." if facts.kept else "Done, but NOT all is as promised."


def _real_model() -> str:
    """The model that the environment has a key or a server for, or nothing."""
    if os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL"):
        return os.environ.get("THOUGHTGEAR_MODEL") or DEFAULT_MODEL
    return ""


@contextmanager
def _work_folder(keep: bool) -> Iterator[Path]:
    if keep:
        work = own_folder() / "demo" / time.strftime("%Y%m%d-%H%M%S")
        work.mkdir(parents=True, exist_ok=True)
        yield work.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="thoughtgear-demo-", ignore_cleanup_errors=True) as name:
        yield Path(name).resolve()
