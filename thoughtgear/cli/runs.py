"""The commands about runs: `run`, `retry`, `show`, `wait`, `cancel`, `settle`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from thoughtgear.cli.app import app
from thoughtgear.cli.call import call, output_of
from thoughtgear.cli.options import (
    Address,
    Db,
    Debug,
    Detach,
    Drives,
    DrivesAt,
    Handler,
    Json,
    Namespace,
    Queue,
    Quiet,
    RunArgument,
    Target,
)
from thoughtgear.place import NewPrompt, Place

Prompt = Annotated[str | None, typer.Argument(metavar="PROMPT", help='What to do; "-" reads stdin.')]
Files = Annotated[
    list[Path] | None,
    typer.Option("--file", "-f", metavar="PATH", help="A file that goes with the prompt."),
]
Session = Annotated[str | None, typer.Option(metavar="ID", help="The conversation that this continues.")]
User = Annotated[str | None, typer.Option(metavar="ID", help="Whose run it is.")]
Request = Annotated[str | None, typer.Option(metavar="ID", help="The same id again is the same run.")]
GoOn = Annotated[
    str | None,
    typer.Option("--continue", metavar="RUN", help="Go on with this run instead of a new prompt."),
]


@app.command()
def run(
    prompt: Prompt = None,
    target: Target = None,
    handler: Handler = None,
    file: Files = None,
    session: Session = None,
    user: User = None,
    request: Request = None,
    go_on: GoOn = None,
    detach: Detach = False,
    executor: Drives = None,
    address: DrivesAt = None,
    namespace: Namespace = None,
    task_queue: Queue = None,
    db: Db = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Send a prompt and watch its run. The answer goes to stdout, all else to stderr.

    Ctrl-C leaves the run without ending it. Exit code 0: done, 1: failed or cancelled.
    """
    if (prompt is None) == (go_on is None):
        raise typer.BadParameter("give a prompt, or a run with --continue", param_hint="PROMPT")
    of_a_prompt = {"--file": file, "--session": session, "--user": user, "--request": request}
    stray = [name for name, value in of_a_prompt.items() if value]
    if go_on is not None and stray:
        raise typer.BadParameter(f"a run that goes on takes no {', '.join(stray)}", param_hint="--continue")
    from thoughtgear import commands

    place = Place(target, handler, db, executor, address, namespace, task_queue)
    output = output_of(as_json, quiet)
    if go_on is not None:
        call(commands.resume(place, go_on, output, detach=detach), debug, place)
    text = sys.stdin.read() if prompt == "-" else prompt or ""
    new = NewPrompt(text, file or (), session, user, request)
    call(commands.run(place, new, output, detach=detach), debug, place)


@app.command()
def retry(
    run_id: RunArgument,
    target: Target = None,
    handler: Handler = None,
    detach: Detach = False,
    executor: Drives = None,
    address: DrivesAt = None,
    namespace: Namespace = None,
    task_queue: Queue = None,
    db: Db = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Go on with a run that failed or was cancelled. Exit codes as of `run`.

    It begins at its last commit: nothing that was saved is bought or done again.
    """
    from thoughtgear import commands

    place = Place(target, handler, db, executor, address, namespace, task_queue)
    call(commands.retry(place, run_id, output_of(as_json, quiet), detach=detach), debug, place)


@app.command()
def show(
    run_id: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="The run's id (default: the newest run).")
    ] = None,
    target: Target = None,
    db: Db = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the transcript of a run."""
    from thoughtgear import listing

    place = Place(target=target, db=db)
    call(listing.show(place, run_id, output_of(as_json)), debug, place)


@app.command()
def wait(
    run_id: RunArgument,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", min=0, help="Give up after.")] = None,
    target: Target = None,
    db: Db = None,
    address: Address = None,
    namespace: Namespace = None,
    task_queue: Queue = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Watch a run until it is over. Exit codes as of `run`."""
    from thoughtgear import commands

    place = Place(target=target, db=db, address=address, namespace=namespace, task_queue=task_queue)
    call(commands.wait(place, run_id, output_of(as_json, quiet), timeout), debug, place)


@app.command()
def cancel(
    run_id: RunArgument,
    target: Target = None,
    db: Db = None,
    address: Address = None,
    namespace: Namespace = None,
    task_queue: Queue = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Cancel a run; its transcript stays. Exit code 1: it is not over yet."""
    from thoughtgear import commands

    place = Place(target=target, db=db, address=address, namespace=namespace, task_queue=task_queue)
    call(commands.cancel(place, run_id, output_of(as_json)), debug, place)


@app.command()
def settle(
    run_id: RunArgument,
    call_id: Annotated[str, typer.Argument(metavar="CALL", help="The call's id, such as 3.0.")],
    done: Annotated[
        str | None, typer.Option(metavar="RESULT", help="It took effect; this is its result.")
    ] = None,
    void: Annotated[
        str | None, typer.Option(metavar="REASON", help="It took no effect, and never will.")
    ] = None,
    unknown: Annotated[bool, typer.Option("--unknown", help="Nobody can tell; the model is told.")] = False,
    target: Target = None,
    db: Db = None,
    address: Address = None,
    namespace: Namespace = None,
    task_queue: Queue = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say how a call ended that waits for a person."""
    if (done is not None) + (void is not None) + unknown != 1:
        raise typer.BadParameter("give one of --done RESULT, --void REASON and --unknown")
    from thoughtgear import commands
    from thoughtgear.outcomes import Done, Void

    outcome = Done(done) if done is not None else Void(void) if void is not None else None
    place = Place(target=target, db=db, address=address, namespace=namespace, task_queue=task_queue)
    call(commands.settle(place, run_id, call_id, outcome, output_of(as_json)), debug, place)
