"""What the commands of `schedule` do. `schedules` has the functions over Temporal's client."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from temporalio.client import Client
from temporalio.service import RPCError

from thoughtgear import config, schedules
from thoughtgear.client import pollers
from thoughtgear.errors import ScheduleNotFoundError
from thoughtgear.models import now
from thoughtgear.place import Output, Place
from thoughtgear.render import clean, one_line, print_json
from thoughtgear.schedules import Firing, RunSchedule

SHOWN = 3
"""How many of the next firings are shown."""

UNREADABLE = "Where the workers can't read it either, its runs wait: delete it and create it again."

ASKED_AT_ONCE = 10
"""How many schedules a list asks about at the same time."""


@dataclass(frozen=True)
class NewSchedule:
    """What `schedule create` sends."""

    prompt: str
    cron: str | None = None
    every: timedelta | None = None
    timezone: str | None = None
    handler: str = "default"
    overlap: schedules.Overlap = "skip"
    session_id: str | None = None
    user_id: str | None = None
    paused: bool = False


async def create(place: Place, name: str, new: NewSchedule, output: Output) -> int:
    """Create a schedule, and say when it fires."""
    client = await _client(place)
    queue = config.Settings.load(task_queue=place.task_queue).task_queue
    fields = {key: value for key, value in vars(new).items() if key != "prompt"}
    await schedules.create_schedule(client, name, new.prompt, task_queue=queue, **fields)
    schedule = await schedules.get_schedule(client, name)
    if output.as_json:
        print_json(_record(schedule))
        return 0
    first = "It is paused." if new.paused else f"It fires next at {_moments(schedule.next[:1])}."
    _say(output, f"Schedule {name} is there: {schedule.when}. {first} {_again(place, 'show', name)}")
    if not await pollers(client, queue):
        _say(output, f"No worker polls the task queue {queue!r}; its runs wait until one does.")
    return 0


async def show_all(place: Place, output: Output) -> int:
    """Show the namespace's schedules, and which of them can't be read."""
    client = await _client(place)
    found = await _looked_into(client, await schedules.list_schedules(client))
    if output.as_json:
        print_json({"schedules": [_listed(schedule) for schedule in found]})
    elif not found:
        _say(output, "No schedules.")
    else:
        output.out.print(_table(found))
    return 0


async def _looked_into(client: Client, listed: Sequence[RunSchedule]) -> list[RunSchedule]:
    """The same schedules with whether they can be read, which a list does not tell: a request for each."""
    places = asyncio.Semaphore(ASKED_AT_ONCE)

    async def look(schedule: RunSchedule) -> RunSchedule:
        async with places:
            # It was deleted meanwhile, for a list is a second behind; or the server was too slow this once.
            with suppress(ScheduleNotFoundError, RPCError):
                found = await schedules.get_schedule(client, schedule.name)
                return replace(schedule, unreadable=found.unreadable)
        return schedule

    return list(await asyncio.gather(*map(look, listed)))


async def show(place: Place, name: str, output: Output) -> int:
    """Show a schedule with its prompt, its next firings and the runs that it started."""
    schedule = await schedules.get_schedule(await _client(place), name)
    if output.as_json:
        print_json(_record(schedule))
    else:
        _show(output.out, schedule)
    return 0


async def pause(place: Place, name: str, note: str, output: Output) -> int:
    """Have a schedule fire no more."""
    return await _done(
        place, name, output, "paused", lambda client: schedules.pause_schedule(client, name, note)
    )


async def resume(place: Place, name: str, note: str, output: Output) -> int:
    """Have a schedule fire again."""
    return await _done(
        place, name, output, "resumed", lambda client: schedules.resume_schedule(client, name, note)
    )


async def trigger(place: Place, name: str, overlap: schedules.Overlap | None, output: Output) -> int:
    """Have a schedule fire now."""
    return await _done(
        place, name, output, "triggered", lambda client: schedules.trigger_schedule(client, name, overlap)
    )


async def delete(place: Place, name: str, output: Output) -> int:
    """Delete a schedule; its runs stay."""
    return await _done(place, name, output, "deleted", lambda client: schedules.delete_schedule(client, name))


async def _done(
    place: Place, name: str, output: Output, what: str, work: Callable[[Client], Awaitable[None]]
) -> int:
    await work(await _client(place))
    if output.as_json:
        print_json({"name": name, what: True})
    else:
        more = "" if what == "deleted" else f" {_again(place, 'show', name)}"
        _say(output, f"Schedule {name} is {what}.{more}")
    return 0


async def _client(place: Place) -> Client:
    return await config.connect(address=place.address, namespace=place.namespace)


def _say(output: Output, text: str) -> None:
    output.err.print(text, soft_wrap=True, highlight=False)


def _again(place: Place, command: str, name: str) -> str:
    plain = Place(address=place.address, namespace=place.namespace)
    return f"See it with: {plain.again(f'schedule {command} {shlex.quote(name)}')}"


def _moments(moments: Sequence[datetime]) -> str:
    """Times of this machine's zone, the day only where it is not today."""
    return ", ".join(_moment(moment) for moment in moments) or "no more"


def _moment(moment: datetime) -> str:
    local = moment.astimezone()
    return local.strftime("%H:%M:%S" if local.date() == now().astimezone().date() else "%Y-%m-%d %H:%M")


def _table(found: Sequence[RunSchedule]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("SCHEDULE", "WHEN", "STATUS", "NEXT"):
        table.add_column(name, no_wrap=True)
    for schedule in found:
        table.add_row(
            Text(clean(schedule.name)),
            Text(one_line(schedule.when, 60)),
            ("paused" if schedule.paused else "on") + (", unreadable" if schedule.unreadable else ""),
            _moments(schedule.next[:1]),
        )
    return table


def _show(out: Console, schedule: RunSchedule) -> None:
    facts = {
        "when": schedule.when,
        "status": _status(schedule),
        "next": _moments(schedule.next[:SHOWN]),
        "handler": schedule.handler,
        "session": schedule.session_id,
        "user": schedule.user_id,
        "task queue": schedule.task_queue,
        "overlap": schedule.overlap,
        "fired": f"{schedule.fired} (skipped: {schedule.skipped})",
        "prompt": schedule.prompt,
        "unreadable": schedule.unreadable and f"{schedule.unreadable} {UNREADABLE}",
    }
    for name, value in facts.items():
        if value is not None:
            out.print(Text(f"{name:<12}{clean(value)}"), soft_wrap=True)
    going = {firing.workflow_id for firing in schedule.running}
    for firing in schedule.runs:
        state = "goes on" if firing.workflow_id in going else "over"
        at = _moment(firing.at) if firing.at else ""
        out.print(
            Text(f"{'run':<12}{firing.run_id or clean(firing.workflow_id)}  {at}  {state}"), soft_wrap=True
        )


def _status(schedule: RunSchedule) -> str:
    """Paused, and why, where somebody said so."""
    if not schedule.paused:
        return "on"
    why = "" if schedule.note in ("", "paused") else f" ({schedule.note})"
    return f"paused{why}"


def _listed(schedule: RunSchedule) -> dict[str, Any]:
    kept = ("name", "when", "paused", "note", "unreadable")
    return {key: getattr(schedule, key) for key in kept} | {"next": _times(schedule.next)}


def _record(schedule: RunSchedule) -> dict[str, Any]:
    return asdict(schedule) | {
        "next": _times(schedule.next),
        "runs": [_firing(firing) for firing in schedule.runs],
        "running": [_firing(firing) for firing in schedule.running],
    }


def _firing(firing: Firing) -> dict[str, Any]:
    return asdict(firing) | {"at": firing.at.isoformat() if firing.at else None}


def _times(moments: Sequence[datetime]) -> list[str]:
    return [moment.isoformat() for moment in moments]
