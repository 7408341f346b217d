"""Recurring prompts, by the schedules of a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from temporalio.client import Client, Schedule, ScheduleActionStartWorkflow, ScheduleSpec
from world import World

from thoughtgear import PromptHandler, codec
from thoughtgear.errors import InvalidInputError, ScheduleExistsError, ScheduleNotFoundError
from thoughtgear.models import RunState
from thoughtgear.schedules import (
    RunSchedule,
    create_schedule,
    delete_schedule,
    get_schedule,
    list_schedules,
    pause_schedule,
    resume_schedule,
    trigger_schedule,
)

HOURLY: dict[str, Any] = {"every": timedelta(hours=1), "paused": True}
"""It fires when the test triggers it, and not when the clock strikes."""


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(60):
        while not (found := await condition()):
            await asyncio.sleep(0.05)
    return found


async def a_later_second(workflow_id: str) -> bool:
    """Whether a firing now has another workflow id: that has the second of the firing."""
    return not workflow_id.endswith(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")


async def ended(handler: PromptHandler, number: int) -> list[RunState]:
    """The store's runs, once there are so many and all are over."""

    async def look() -> list[RunState]:
        runs = list((await handler.store.list_runs()).runs)
        return runs if len(runs) >= number and all(run.over for run in runs) else []

    found: list[RunState] = await until(look)
    return found


async def test_each_firing_is_a_run_of_its_own(world: World) -> None:
    """Two firings are two runs in the store, each with the schedule's prompt, session and user; the schedule
    names them by their ids. They stay when it is deleted."""
    handler = world.handler(["one", "two"])
    name = world.queue
    facts: dict[str, Any] = {"session_id": "s", "user_id": "u", "metadata": {"a": 1}}
    await create_schedule(world.client, name, "Look.", task_queue=world.queue, **facts, **HOURLY)
    async with world.worker(handler):
        for number in (1, 2):
            await trigger_schedule(world.client, name, "buffer-one")
            runs = await ended(handler, number)
    schedule = await get_schedule(world.client, name)
    assert {run.status for run in runs} == {"done"}
    assert {run.output for run in runs} == {"one", "two"}
    assert [(await handler.history(run.run_id))[0].text for run in runs] == ["Look.", "Look."]
    assert {(run.session_id, run.user_id, run.metadata["a"]) for run in runs} == {("s", "u", 1)}
    assert {firing.run_id for firing in schedule.runs} == {run.run_id for run in runs}
    assert (schedule.fired, schedule.prompt, schedule.handler) == (2, "Look.", "default")
    await delete_schedule(world.client, name)
    with pytest.raises(ScheduleNotFoundError):
        await get_schedule(world.client, name)
    assert len((await handler.store.list_runs()).runs) == 2


async def test_a_firing_is_skipped_while_a_run_goes_on(world: World) -> None:
    """By default a firing that meets a run of its schedule is skipped, and counted; another policy may be
    given for one."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: Any) -> str:
        begun.set()
        await go_on.wait()
        return "end"

    handler, name = world.handler(slow), world.queue
    await create_schedule(world.client, name, "Look.", task_queue=world.queue, **HOURLY)

    async def skipped() -> RunSchedule | None:
        schedule = await get_schedule(world.client, name)
        return schedule if schedule.skipped else None

    async with world.worker(handler):
        await trigger_schedule(world.client, name)
        await asyncio.wait_for(begun.wait(), 60)
        await trigger_schedule(world.client, name)
        schedule = await until(skipped)
        assert (schedule.skipped, len(schedule.runs), len(schedule.running)) == (1, 1, 1)
        [going] = schedule.running
        await until(lambda: a_later_second(going.workflow_id))
        await trigger_schedule(world.client, name, "allow-all")
        go_on.set()
        assert len(await ended(handler, 2)) == 2
    await delete_schedule(world.client, name)


async def test_a_schedule_is_shown_as_it_was_written(world: World) -> None:
    """A cron expression, its zone and the next firings there are shown, in lists as well; so are a pause and
    its reason."""
    name, client = world.queue, world.client
    await create_schedule(client, name, "Look.", cron="30 9 * * MON-FRI", timezone="Europe/Berlin")
    schedule = await get_schedule(client, name)
    assert (schedule.when, schedule.overlap) == ("30 9 * * MON-FRI Europe/Berlin", "skip")
    local = [moment.astimezone(ZoneInfo("Europe/Berlin")) for moment in schedule.next]
    assert {(moment.hour, moment.minute, moment.weekday() < 5) for moment in local} == {(9, 30, True)}
    await pause_schedule(client, name, "the shop is closed")

    async def listed() -> RunSchedule | None:
        found = [each for each in await list_schedules(client) if each.name == name]
        return found[0] if found and found[0].paused else None

    shown = await until(listed)
    assert (shown.when, shown.note, shown.next) == (schedule.when, "the shop is closed", [])
    await resume_schedule(client, name)
    assert (await get_schedule(client, name)).paused is False
    await delete_schedule(client, name)


@pytest.mark.parametrize("cron", ["0 9 * * MON # standup", "@daily", "0 9 * * * 2099 # far # off"])
async def test_a_comment_does_not_hide_the_times(world: World, cron: str) -> None:
    """What is shown is the expression as it was written, with its own comment behind it."""
    await create_schedule(world.client, world.queue, "Look.", cron=cron, paused=True)
    assert (await get_schedule(world.client, world.queue)).when == cron
    await delete_schedule(world.client, world.queue)


async def test_a_schedule_in_clear_is_unreadable_where_encryption_is_required(
    world: World, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that refuses clear text says of a schedule of before that it can't read it."""
    await create_schedule(world.client, world.queue, "Look.", **HOURLY)
    monkeypatch.setenv("THOUGHTGEAR_CODEC_REQUIRED", "1")
    keyed = await Client.connect(server, data_converter=codec.data_converter({"k": b"k" * 32}))
    found = await get_schedule(keyed, world.queue)
    assert (found.prompt, bool(found.unreadable)) == (None, True)
    await delete_schedule(world.client, world.queue)


async def test_a_wrong_overlap_of_a_firing_is_refused(world: World) -> None:
    """It is named before anything fires."""
    await create_schedule(world.client, world.queue, "Look.", **HOURLY)
    with pytest.raises(InvalidInputError, match="overlap is one of"):
        await trigger_schedule(world.client, world.queue, "never")  # type: ignore[arg-type]
    await delete_schedule(world.client, world.queue)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"cron": "0 0 30 2 *"}, "never fire"),
        ({"cron": "0 9 1 1 * 2020", "paused": True}, "never fire"),
        ({"every": "1h"}, "a timedelta"),
        ({"every": timedelta.max}, "a timedelta"),
        ({"cron": 5}, "texts"),
        ({"cron": "* * * * *", "timezone": 5}, "texts"),
        ({"cron": "* * * * *", "task_queue": ""}, "task queue"),
        ({"cron": "* * * * *", "task_queue": 5}, "task queue"),
        ({"cron": "* * * * *", "metadata": "x"}, "metadata"),
        ({"cron": "* * * * *", "overlap": []}, "overlap is one of"),
        ({}, "give one of them"),
        ({"cron": "* * * * *", "every": timedelta(hours=1)}, "give one of them"),
        ({"every": timedelta(hours=1), "timezone": "Europe/Berlin"}, "time zone"),
        ({"cron": "every morning"}, "CronString does not have 5-7 fields"),
        ({"cron": "99 * * * *"}, "Minute is not in range"),
        ({"cron": "0 9 * * MON#1"}, "no # in a field"),
        ({"cron": "0 9 * * *", "timezone": "Mars/Base"}, "unknown time zone Mars/Base"),
        ({"every": timedelta(0)}, "interval is too small"),
        ({"cron": "* * * * *", "overlap": "terminate-other"}, "overlap is one of"),
        ({"cron": "* * * * *", "prompt": "  "}, "needs text"),
        ({"cron": "* * * * *", "handler": "a\nb"}, "handler name"),
        ({"cron": "* * * * *", "session_id": ""}, "session"),
    ],
    ids=str,
)
async def test_what_is_no_schedule_is_refused(world: World, given: dict[str, Any], says: str) -> None:
    """A schedule that can't be is refused with the reason, by us or by the server, and is not there."""
    options = {"prompt": "Look.", **given}
    with pytest.raises(InvalidInputError, match=says):
        await create_schedule(world.client, world.queue, **options)
    with pytest.raises(ScheduleNotFoundError):
        await get_schedule(world.client, world.queue)


async def test_a_name_is_taken_or_not_there(world: World) -> None:
    """A second schedule of a name is refused; so is whatever is asked of one that is not there, or that
    starts something else than runs, which no list has either."""
    name, foreign, client = world.queue, f"other-{world.queue}", world.client
    await create_schedule(client, name, "Look.", **HOURLY)
    with pytest.raises(ScheduleExistsError, match=name):
        await create_schedule(client, name, "Look.", **HOURLY)
    action = ScheduleActionStartWorkflow("Other", id="other", task_queue="q")
    other = await client.create_schedule(foreign, Schedule(action, ScheduleSpec()))
    for missing in ("nobody", foreign):
        for do in (get_schedule, pause_schedule, resume_schedule, trigger_schedule, delete_schedule):
            with pytest.raises(ScheduleNotFoundError, match=missing):
                await do(client, missing)

    async def listed() -> list[str]:
        names = [schedule.name for schedule in await list_schedules(client)]
        return names if name in names else []

    assert foreign not in await until(listed)
    await other.delete()
    await delete_schedule(client, name)


async def test_an_encrypted_prompt(world: World, server: str) -> None:
    """A client with keys encrypts the prompt that the schedule holds; one without shows all but that."""
    keyed = await Client.connect(server, data_converter=codec.data_converter({"k": b"k" * 32}))
    await create_schedule(keyed, world.queue, "a canary", **HOURLY)
    described = await keyed.get_schedule_handle(world.queue).describe()
    plain = await get_schedule(world.client, world.queue)
    assert "canary" not in str(described.raw_description)
    assert (await get_schedule(keyed, world.queue)).prompt == "a canary"
    assert (plain.prompt, plain.when) == (None, "every 1h")
    assert (plain.unreadable or "").startswith("It is encrypted, and there are no keys here")
    other = await Client.connect(server, data_converter=codec.data_converter({"new": b"n" * 32}))
    assert "k" in ((await get_schedule(other, world.queue)).unreadable or "")
    assert (await get_schedule(keyed, world.queue)).unreadable is None
    await delete_schedule(world.client, world.queue)
