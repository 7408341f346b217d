"""Writers that go on while their server is killed: what the tests of the three servers share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from server_process import Server

from thoughtgear.errors import ConflictError, StoreUnavailableError
from thoughtgear.models import RunState
from thoughtgear.protocols import OrmAdapter
from thoughtgear.testing import append, new_run
from thoughtgear.testing.case import texts_of

PATIENCE = 60
"""Seconds that a writer waits for its server."""

LONG_LOAD = {"writers": 8, "commits": 330, "kills": 10}


async def outlive_kills(
    server: Server, store: OrmAdapter, *, writers: int = 4, commits: int = 40, kills: int = 1
) -> None:
    """Let writers make at least so many commits each, kill the server by SIGKILL and start it again
    meanwhile, and check that all that was acknowledged is there, once and in order."""
    runs = [f"r{number}" for number in range(writers)]
    acknowledged: dict[str, list[int]] = {run_id: [] for run_id in runs}
    states = {run_id: await append(store, new_run(run_id), "1") for run_id in runs}
    killed = 0

    def enough(versions: list[int]) -> bool:
        return killed == kills and len(versions) >= commits  # writers may be faster than a server starts

    writing = [
        asyncio.create_task(go_on(store, states[run], acknowledged[run], partial(enough, acknowledged[run])))
        for run in runs
    ]
    for number in range(1, kills + 1):
        first = acknowledged[runs[0]]
        await _reached(first, len(first) + commits // (kills + 1))
        await asyncio.to_thread(server.kill)
        assert not any(task.done() for task in writing)
        await asyncio.to_thread(server.start)
        killed = number
    await asyncio.gather(*writing)
    for run_id, versions in acknowledged.items():
        assert versions == sorted(set(versions))
        state = await store.load_run(run_id)
        assert set(versions) <= set(range(2, state.version + 1))
        assert await texts_of(store, run_id) == [f"{version}" for version in range(1, state.version + 1)]


async def go_on(
    store: OrmAdapter, state: RunState, acknowledged: list[int], enough: Callable[[], bool]
) -> None:
    """Append until enough versions are acknowledged; after an unknown outcome, on what the store has. What
    was not answered may be done later: then, and only then, a conflict is right."""
    unknown = False
    while not enough():
        try:
            state = await append(store, state, f"{state.version + 1}")
        except StoreUnavailableError:
            unknown = True
            state = await reload(store, state.run_id)
        except ConflictError:
            if not unknown:
                raise
            unknown = False
            state = await reload(store, state.run_id)
        else:
            acknowledged.append(state.version)
            unknown = False


async def reload(store: OrmAdapter, run_id: str) -> RunState:
    """Load a run as soon as the server is there."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await store.load_run(run_id)
            except StoreUnavailableError:
                await asyncio.sleep(0.02)


async def _reached(acknowledged: list[int], count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while len(acknowledged) < count:
            await asyncio.sleep(0.001)
