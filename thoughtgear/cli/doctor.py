"""The command that looks for what is wrong: `doctor`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import typer

from thoughtgear.cli.app import app
from thoughtgear.cli.call import call, output_of
from thoughtgear.cli.options import Address, Db, Debug, Json, Namespace, Queue, Target
from thoughtgear.place import Place


class EndWorkflow(StrEnum):
    """How a workflow is ended."""

    CANCEL = "cancel"
    TERMINATE = "terminate"


@app.command()
def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    workflows: Annotated[
        EndWorkflow | None,
        typer.Option(help="With --repair: what to do with workflows whose run is not in the store."),
    ] = None,
    target: Target = None,
    db: Db = None,
    address: Address = None,
    namespace: Namespace = None,
    task_queue: Queue = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find what is wrong with runs and what drives them.

    Changes nothing without --repair. Exit code 0: nothing is wrong; 1: something is.
    """
    if workflows is not None and not repair:
        raise typer.BadParameter("needs --repair", param_hint="--workflows")
    from thoughtgear import checkup

    place = Place(target=target, db=db, address=address, namespace=namespace, task_queue=task_queue)
    how: Literal["cancel", "terminate"] = "cancel" if workflows is EndWorkflow.CANCEL else "terminate"
    end_workflow = None if workflows is None else how
    call(checkup.doctor(place, output_of(as_json), repair=repair, end_workflow=end_workflow), debug, place)
