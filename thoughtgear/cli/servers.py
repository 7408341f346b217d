"""The commands that start servers: `demo`, `dev`, `worker`, `codec-server`."""

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
    """See a worker die in a run, and another one finish it.

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
    """Start a Temporal server, and a worker that follows changes.

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


@app.command("codec-server")
def codec_server(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen. 0: any free one.")] = 8081,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Which address to listen on.")] = "127.0.0.1",
    origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A Temporal UI that may ask, e.g. http://localhost:8233."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN", envvar="THOUGHTGEAR_CODEC_TOKEN", help="The bearer token that requests carry."
        ),
    ] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Ask for none, and answer every process of this machine.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Decrypt for Temporal's UI and command line.

    The keys are those of THOUGHTGEAR_CODEC_KEYS. Whoever it answers can read all that they encrypt.
    """
    token = None if no_token else (token or "").strip() or None  # an empty variable counts as unset
    if token is None and not no_token:
        raise typer.BadParameter("give --token, or --no-token for this machine alone", param_hint="--token")
    from thoughtgear.serve_codec import serve_codec

    call(serve_codec(host, port, token, origin or (), debug=debug), debug, for_people=False)
