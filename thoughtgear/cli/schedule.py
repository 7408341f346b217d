"""The commands about recurring prompts: `schedule create`, `list`, `show`, `pause`, `resume`, `trigger` and
`delete`."""

from __future__ import annotations

import sys
from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer

from thoughtgear.cli.app import app
from thoughtgear.cli.call import call, output_of
from thoughtgear.cli.options import Address, Debug, Json, Namespace, Queue, span_of
from thoughtgear.place import Place

group = typer.Typer(
    name="schedule",
    help="Prompts that recur, by Temporal Schedules.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(group)


class Overlapping(StrEnum):
    """What a firing does while the run before goes on."""

    SKIP = "skip"
    BUFFER_ONE = "buffer-one"
    BUFFER_ALL = "buffer-all"
    CANCEL_OTHER = "cancel-other"
    ALLOW_ALL = "allow-all"


Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")]
Note = Annotated[str, typer.Option(metavar="TEXT", help="Why; `show` and Temporal's UI say it.")]


@group.command()
def create(
    name: Name,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help='What to do; "-" reads stdin.')],
    cron: Annotated[
        str | None, typer.Option(metavar="EXPRESSION", help='When, such as "0 9 * * MON-FRI".')
    ] = None,
    every: Annotated[
        timedelta | None, typer.Option(parser=span_of, metavar="SPAN", help="How often: 90m, 12h or 1d.")
    ] = None,
    timezone: Annotated[
        str | None, typer.Option(metavar="ZONE", help="That of --cron, such as Europe/Berlin (default: UTC).")
    ] = None,
    handler: Annotated[str, typer.Option(metavar="NAME", help="The handler that answers.")] = "default",
    overlap: Annotated[
        Overlapping, typer.Option(help="What a firing does while the run before goes on.")
    ] = Overlapping.SKIP,
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="The conversation of all its runs.")
    ] = None,
    user: Annotated[str | None, typer.Option(metavar="ID", help="Whose runs they are.")] = None,
    paused: Annotated[
        bool, typer.Option("--paused", help="Let it fire after `schedule resume` only.")
    ] = False,
    address: Address = None,
    namespace: Namespace = None,
    task_queue: Queue = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Have a prompt run again and again.

    The prompt is kept by Temporal: encrypted where there are keys for that. Each firing is a run of its own.
    """
    if (cron is None) == (every is None):
        raise typer.BadParameter("give --cron EXPRESSION or --every SPAN")
    from thoughtgear import timetable

    place = Place(address=address, namespace=namespace, task_queue=task_queue)
    text = sys.stdin.read() if prompt == "-" else prompt
    new = timetable.NewSchedule(
        text,
        cron,
        every,
        timezone,
        handler,
        overlap.value,
        session,
        user,
        paused,
    )
    call(timetable.create(place, name, new, output_of(as_json)), debug, place)


@group.command("list")
def list_all(
    address: Address = None, namespace: Namespace = None, as_json: Json = False, debug: Debug = False
) -> None:
    """List the schedules of a namespace."""
    from thoughtgear import timetable

    place = Place(address=address, namespace=namespace)
    call(timetable.show_all(place, output_of(as_json)), debug, place)


@group.command()
def show(
    name: Name,
    address: Address = None,
    namespace: Namespace = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a schedule: its prompt, when it fires, and the runs that it started."""
    from thoughtgear import timetable

    place = Place(address=address, namespace=namespace)
    call(timetable.show(place, name, output_of(as_json)), debug, place)


@group.command()
def pause(
    name: Name,
    note: Note = "",
    address: Address = None,
    namespace: Namespace = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Have a schedule fire no more; a run that goes on is left alone."""
    from thoughtgear import timetable

    place = Place(address=address, namespace=namespace)
    call(timetable.pause(place, name, note, output_of(as_json)), debug, place)


@group.command()
def resume(
    name: Name,
    note: Note = "",
    address: Address = None,
    namespace: Namespace = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Have a schedule fire again."""
    from thoughtgear import timetable

    place = Place(address=address, namespace=namespace)
    call(timetable.resume(place, name, note, output_of(as_json)), debug, place)


@group.command()
def trigger(
    name: Name,
    overlap: Annotated[
        Overlapping | None, typer.Option(help="While a run of it goes on (default: as it was created).")
    ] = None,
    address: Address = None,
    namespace: Namespace = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Have a schedule fire now, also while it is paused."""
    from thoughtgear import timetable

    place = Place(address=address, namespace=namespace)
    call(timetable.trigger(place, name, overlap.value if overlap else None, output_of(as_json)), debug, place)


@group.command()
def delete(
    name: Name,
    address: Address = None,
    namespace: Namespace = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Delete a schedule. Its runs stay, and one that goes on goes on."""
    from thoughtgear import timetable

    place = Place(address=address, namespace=namespace)
    call(timetable.delete(place, name, output_of(as_json)), debug, place)
