"""The commands about a store's database: `db upgrade`."""

from __future__ import annotations

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
    """Bring the tables to the version of this thoughtgear, or make them.

    Run it after an upgrade of the package. Several at once do it once; nothing is lost.
    """
    from thoughtgear import upgrade as work

    place = Place(target=target, db=db)
    call(work.upgrade(place, output_of(as_json)), debug, place)
