"""The commands about what is stored: `runs`, `runs delete`, `runs prune`, `users delete`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer

from thoughtgear.cli.app import app
from thoughtgear.cli.call import call, output_of
from thoughtgear.cli.options import Db, Debug, DryRun, Json, RunStatus, Target, Yes, metadata_pair, span_of
from thoughtgear.models import OVER, Status, now
from thoughtgear.place import Place
from thoughtgear.protocols import RunFilter

runs = typer.Typer(
    name="runs", help="List the runs of a store, newest first; or delete some.", rich_markup_mode=None
)
users = typer.Typer(
    name="users", help="Delete what is stored of a user.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(runs)
app.add_typer(users)

Handler = Annotated[str | None, typer.Option(metavar="NAME", help="Only this handler's.")]
Session = Annotated[str | None, typer.Option(metavar="ID", help="Only this session's.")]
User = Annotated[str | None, typer.Option(metavar="ID", help="Only this user's.")]
Metadata = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Only those with this metadata. VALUE is JSON where it can be, else a text.",
    ),
]
OlderThan = Annotated[
    timedelta,
    typer.Option(
        parser=span_of,
        metavar="SPAN",
        help="Those unchanged for so long: 12h, 30d, 4w.",
        show_default=False,
    ),
]
Statuses = Annotated[
    list[RunStatus] | None, typer.Option(help="Only these (default: done, failed, cancelled).")
]
IncludeUnfinished = Annotated[bool, typer.Option("--include-unfinished", help="Also runs that are not over.")]


@runs.callback(invoke_without_command=True)
def list_(
    context: typer.Context,
    status: Annotated[RunStatus | None, typer.Option(help="Only these.")] = None,
    handler: Handler = None,
    session: Session = None,
    user: User = None,
    metadata: Metadata = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many.")] = 20,
    after: Annotated[str | None, typer.Option(metavar="CURSOR", help="Go on from here.")] = None,
    target: Target = None,
    db: Db = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the runs of a store, newest first; or delete some."""
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    from thoughtgear.listing import list_runs

    where = _filter(handler, session, user, metadata, status)
    place = Place(target=target, db=db)
    call(list_runs(place, where, output_of(as_json), limit=limit, after=after), debug, place)


@runs.command()
def delete(
    run_ids: Annotated[list[str], typer.Argument(metavar="RUN…", help="The ids of the runs.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also a run that is not over; it stops at its next commit.")
    ] = False,
    yes: Yes = False,
    target: Target = None,
    db: Db = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Delete runs with their transcripts and files, and sessions that are empty by that.

    Where one is not there, or not over, none is deleted.
    """
    from thoughtgear import housekeeping as work

    place, consent = Place(target=target, db=db), work.Consent(yes=yes, force=force)
    call(work.delete_runs(place, run_ids, output_of(as_json), consent), debug, place)


@runs.command()
def prune(
    older_than: OlderThan,
    status: Statuses = None,
    handler: Handler = None,
    session: Session = None,
    user: User = None,
    metadata: Metadata = None,
    include_unfinished: IncludeUnfinished = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    target: Target = None,
    db: Db = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Delete old runs with all that belongs to them, and cached results that have expired.

    Only runs that are over, and none whose session has a run that is not.
    """
    from thoughtgear import housekeeping as work
    from thoughtgear.retention import UNFINISHED, Rule

    statuses: frozenset[Status] = frozenset(each.value for each in status or ()) or OVER
    if include_unfinished and not status:
        statuses |= UNFINISHED
    if statuses & UNFINISHED and not include_unfinished:
        raise typer.BadParameter("a run that is not over needs --include-unfinished", param_hint="--status")
    rule = Rule(now() - older_than, _filter(handler, session, user, metadata), statuses)
    place, consent = Place(target=target, db=db), work.Consent(yes=yes, dry_run=dry_run)
    call(work.prune(place, rule, output_of(as_json), consent), debug, place)


@users.command("delete")
def delete_user(
    user_id: Annotated[str, typer.Argument(metavar="USER", help="The user's id.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also runs that are not over; they stop at their next commit.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    target: Target = None,
    db: Db = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Delete all that is stored of a user: runs, files, sessions, what is remembered, cached results.

    Where a run of the user is not over, nothing is deleted.
    """
    from thoughtgear import housekeeping as work

    place, consent = Place(target=target, db=db), work.Consent(yes=yes, force=force, dry_run=dry_run)
    call(work.delete_user(place, user_id, output_of(as_json), consent), debug, place)


def _refuse_options(context: typer.Context) -> None:
    """An option of the list, before a command that deletes, would narrow nothing down."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            after = context.invoked_subcommand
            raise typer.BadParameter(f"stands before {after!r}; give it after", param_hint=parameter.opts[0])


def _filter(
    handler: str | None,
    session: str | None,
    user: str | None,
    metadata: list[str] | None,
    status: RunStatus | None = None,
) -> RunFilter:
    pairs: dict[str, Any] = dict(metadata_pair(text) for text in metadata or ())
    return RunFilter(status.value if status else None, handler, session, user, pairs)
