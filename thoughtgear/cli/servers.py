"""The commands that start servers: `demo`, `dev`, `worker`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from thoughtgear.cli.app import app
from thoughtgear.cli.call import call
from thoughtgear.cli.options import Address, Db, Debug, Json, Namespace, Queue, TargetArgument
from thoughtgear.place import Place


@app.command()
def demo(
    path: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder to read.", file_okay=False, exists=True)
    ] = Path(),
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave server, UI and files (.thoughtgear/demo) until Ctrl-C.")
    ] = False,
    scripted: Annotated[
        bool, typer.Option("--scripted", help="Use the scripted model, whatever key is in the environment.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """See a worker die in the middle of a run, and another finish it.

    An agent reads a folder and writes a report. Needs no key and no account; takes half a minute.
    """
    from thoughtgear.demo.story import tell

    console = Console(stderr=as_json, highlight=False)
    call(tell(path.resolve(), console, keep=keep, scripted=scripted, as_json=as_json), debug)


@app.command()
def dev(
    target: TargetArgument,
    port: Annotated[
        int, typer.Option(help="The server's port; its UI is 1000 above. 0: any free one.")
    ] = 7233,
    db: Db = None,
    task_queue: Queue = None,
    debug: Debug = False,
) -> None:
    """Start a Temporal server and a worker that restarts with changes.

    The server keeps its state in .thoughtgear/. Ctrl-C ends both.
    """
    from thoughtgear.dev import develop

    console = Console(highlight=False)
    call(develop(target, console, port=port, db=db, task_queue=task_queue), debug)


@app.command()
def worker(
    target: TargetArgument,
    address: Address = None,
    namespace: Namespace = None,
    task_queue: Queue = None,
    db: Db = None,
    grace: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long a stop lets running tools finish.")
    ] = 30.0,
    json_logs: Annotated[bool | None, typer.Option("--json-logs", help="Log JSON lines.")] = None,
    debug: Debug = False,
) -> None:
    """Run iterations for a Temporal server.

    TEMPORAL_ADDRESS, _NAMESPACE, _API_KEY, _PROFILE and _TLS_… say which; SIGTERM stops gracefully.
    """
    from thoughtgear.serve import serve

    place = Place(target=target, db=db, address=address, namespace=namespace, task_queue=task_queue)
    call(serve(place, grace=grace, log_json=json_logs, debug=debug), debug, place, for_people=False)
