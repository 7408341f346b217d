"""The commands about a store's database: `db upgrade`, `db copy`."""

from __future__ import annotations

from typing import Annotated

import typer

from thoughtgear.cli.app import app
from thoughtgear.cli.call import call, output_of
from thoughtgear.cli.options import Db, Debug, Json, Target
from thoughtgear.place import Place

group = typer.Typer(
    name="db", help="Look after the database of a store.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(group)


@group.command()
def upgrade(target: Target = None, db: Db = None, as_json: Json = False, debug: Debug = False) -> None:
    """Bring a store to the version of this thoughtgear, or make it.

    Run it after an upgrade of the package. Several at once do it once; nothing is lost.
    """
    from thoughtgear import upgrade as work

    place = Place(target=target, db=db)
    call(work.upgrade(place, output_of(as_json)), debug, place)


@group.command()
def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="The URL of the store that has the runs.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="The URL of the store that gets them.")],
    compare: Annotated[
        bool, typer.Option("--compare/--no-compare", help="Compare both stores at the end.")
    ] = True,
    replace_documents: Annotated[
        bool,
        typer.Option(
            "--replace-documents",
            help="Take FROM's memory and cached results where TO has others under the same key.",
        ),
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Copy all runs and documents of a store into another one, of whatever kind.

    Call it again after an interruption, or when FROM has gone on: it does what is left. Nothing in TO is
    overwritten. Exit code 0: TO has all that FROM has.
    """
    from thoughtgear import copying as work

    doing = work.copy(
        source, target, output_of(as_json), compare=compare, replace_documents=replace_documents
    )
    call(doing, debug)
