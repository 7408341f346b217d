"""One storm over one crowd, from the start of the servers to the verdict."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from postgres_server import PostgresServer
from proofs.agent import Agent, ledger_of
from proofs.temporal_server import ShortHistories
from proofs.workers import Job, connected

from chaos.crowd import Asked, Crowd
from chaos.plan import Plan
from chaos.storm import Storm, Strike
from chaos.verdict import Verdict, judge
from thoughtgear import TemporalExecutor
from thoughtgear.devserver import DevServer
from thoughtgear.registry import open_store


@dataclass
class Outcome:
    """What happened, and what it has cost."""

    strikes: list[Strike]
    runs: list[Asked]
    exits: list[int | None]
    verdict: Verdict


async def endure(
    plan: Plan,
    folder: Path,
    *,
    fired: Callable[[Strike], Any] = lambda strike: None,
    ended: Callable[[Asked], Any] = lambda asked: None,
) -> Outcome:
    """Let a storm rage over a crowd, with all files in `folder`, and judge. `fired` and `ended` are told of
    each fault and of each run that is over."""
    async with _servers(folder) as (temporal, postgres):
        url = postgres.url(folder)
        job = Job(url, folder, temporal.address, f"q-{uuid4().hex}", pace=plan.pace, seconds=3600)
        client = await connected(temporal.address)
        ledger = ledger_of(folder)
        async with Agent(ledger).handler(open_store(url), TemporalExecutor(client, job.queue)) as handler:
            storm, crowd = Storm(plan, job, temporal, postgres), Crowd(plan, handler, ended=ended)
            storm.fired = fired
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(storm.rage())
                    # A few more than the share of the faults, so that there is always something to strike.
                    group.create_task(crowd.go(lambda: 0.08 + len(storm.strikes) / plan.total))
                await _until_closed(client, job.queue)
                exits = await storm.end()
            finally:
                storm.kill()
            verdict = await judge(crowd.runs, storm.strikes, ledger, handler, client, job)
    return Outcome(storm.strikes, crowd.runs, exits, verdict)


async def _until_closed(client: Any, queue: str) -> None:
    """Wait for the runs that messages became, too. What goes on for too long is found by the verdict."""
    from proofs.violations import open_workflows

    for _ in range(300):
        if not await open_workflows(client, queue):
            return
        await asyncio.sleep(0.2)


@asynccontextmanager
async def _servers(folder: Path) -> AsyncIterator[tuple[DevServer, PostgresServer]]:
    # Not below `folder`: that may be closed to the server's user.
    data = Path(tempfile.mkdtemp(prefix="postgres-"))
    postgres = PostgresServer(data)
    await asyncio.to_thread(postgres.start)
    try:
        async with ShortHistories(db=folder / "temporal.db", ui=False) as temporal:
            yield temporal, postgres
    finally:
        if postgres.running:
            await asyncio.to_thread(postgres.kill)
        shutil.rmtree(data, ignore_errors=True)
