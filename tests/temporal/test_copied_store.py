"""A run that Temporal drives, and whose store is copied on the way."""

from __future__ import annotations

import asyncio
from typing import Any

from postgres_server import PostgresServer
from temporalio.api.enums.v1 import EventType
from world import World, chain

from thoughtgear import tool
from thoughtgear.models import RunState
from thoughtgear.providers.scripted import call
from thoughtgear.transfer import StoreCopy
from thoughtgear.transfer.runs import PAGE


@tool
def look(path: str) -> str:
    """Look at a file."""
    return path


LOOKS = [[call("look", path=f"{index}") for index in range(60)]] * 3


async def test_a_worker_goes_on_with_the_copy(world: World, postgres: PostgresServer, tmp_path: Any) -> None:
    """A workflow that was told a version of one store is driven to its end by a worker of the other one: the
    copy is no step back, although it took fewer commits, and no reply is bought again."""
    asked = asyncio.Event()

    async def never(request: Any) -> str:
        asked.set()
        await asyncio.Event().wait()
        return ""

    here = world.handler([*LOOKS, never], tools=[look])
    there = world.handler([*LOOKS, "All is there."], tools=[look], db=postgres.url(tmp_path))
    async with world.worker(here):
        run_id = (await here.handle_prompt("Look at all.")).run_id
        async with asyncio.timeout(30):
            await asked.wait()
    before = await here.get_run(run_id)
    commits = counted(there.store)
    report = await StoreCopy(here.store, there.store).run()
    async with world.worker(there):
        async with asyncio.timeout(60):
            ended = await there.wait(run_id)
            await world.workflow(run_id).result()
    [events] = await chain(world.workflow(run_id))
    failures = [each for each in events if each.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED]
    assert report.complete
    assert before.message_count > PAGE
    assert commits[-1].version == before.version > len(commits) == 2
    assert (ended.status, ended.output, ended.model_replies) == ("done", "All is there.", 4)
    assert ended.version > before.version
    assert failures == []
    assert (await here.get_run(run_id)) == before


def counted(store: Any) -> list[RunState]:
    """The states that are copied into the store from now on; what a worker saves comes later."""
    saved: list[RunState] = []
    save = store.save_run

    async def counting(state: RunState, messages: Any, *, expected: int | None = None) -> None:
        await save(state, messages, expected=expected)
        if expected is not None:
            saved.append(state)

    store.save_run = counting
    return saved
