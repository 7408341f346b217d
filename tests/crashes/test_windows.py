"""Each window of the design in which a crash could lose or double something, under Temporal."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from outage import Outage, of_database, of_temporal
from places import STORES, server_of, url_of
from postgres_server import ESCAPED, PASSWORD
from proofs.case import TIMES, Case
from proofs.workers import Job
from s3_server import SECRET_KEY
from server_process import Server
from temporalio.client import Client
from windows import WINDOWS

from thoughtgear.devserver import DevServer


def outage_of(window: str, temporal: DevServer, database: Server | None, cases: int) -> Outage | None:
    """What dies in this window for all cases at once."""
    if window == "the server restarts":
        return of_temporal(temporal, cases)
    if window == "the database restarts" and database is not None:
        return of_database(database, cases)
    return None


async def prove(
    window: str,
    times: Sequence[int],
    store: str,
    temporal: DevServer,
    place: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Stage a window so many times at once, each on a store and a queue of its own."""
    # Each attempt that goes to a poller of a frozen worker costs ten seconds: one will do every day.
    pollers = 1 if len(times) == 1 else 5
    client = await Client.connect(temporal.address)
    outage = outage_of(window, temporal, server_of(store, request), len(times))

    async def once(time: int) -> None:
        folder = place / f"{time}"
        folder.mkdir(parents=True)
        url, queue = url_of(store, folder, request), f"q-{uuid4().hex}"
        job = Job(url, folder, temporal.address, queue, sticky=timedelta(seconds=1), pollers=pollers)
        case = Case(client, job, time, (PASSWORD, ESCAPED, SECRET_KEY))
        try:
            await WINDOWS[window](case, outage)
        finally:
            await case.close()

    async with asyncio.TaskGroup() as group:
        for time in times:
            group.create_task(once(time))


async def test_each_window_once(temporal: DevServer, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """In each window that needs no server to die nothing is lost, nothing comes twice, and the transcript
    is that of a run without faults, on SQLite."""
    quiet = [window for window in WINDOWS if window != "the server restarts"]

    async def one(window: str) -> None:
        try:
            await prove(window, [0], "sqlite", temporal, tmp_path / window.replace(" ", "-"), request)
        except BaseException as exc:
            exc.add_note(f"window: {window}")
            raise

    async with asyncio.TaskGroup() as group:
        for window in quiet:
            group.create_task(one(window))


async def test_the_server_restarts(
    temporal: DevServer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A Temporal server that is killed and started again knows every run, on SQLite."""
    await prove("the server restarts", [0], "sqlite", temporal, tmp_path, request)


@pytest.mark.long
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("store", STORES)
async def test_window(
    store: str, window: str, temporal: DevServer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """In each window, on each store, five times: nothing is lost, nothing comes twice, and the transcript is
    that of a run without faults."""
    await prove(window, range(TIMES), store, temporal, tmp_path, request)
