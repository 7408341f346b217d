"""The command line: it parses and calls."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import traceback
from collections.abc import Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from thoughtgear import __version__, logs
from thoughtgear.errors import RunNotFoundError, ThoughtgearError
from thoughtgear.place import NewPrompt, Output, Place
from thoughtgear.protocols import RunFilter

INTERRUPTED = 130

app = typer.Typer(
    name="thoughtgear",
    help="Durable language-model agents: transcripts in your database, iterations driven by Temporal.",
    epilog="TARGET is module:attribute or path/to/file.py:attribute: a PromptHandler, a list of them, or a "
    "function that makes one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


class Executor(StrEnum):
    """What drives the runs."""

    LOCAL = "local"
    TEMPORAL = "temporal"


class RunStatus(StrEnum):
    """The status of a run."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


TargetArgument = Annotated[str, typer.Argument(metavar="TARGET", envvar="THOUGHTGEAR_TARGET")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]
Target = Annotated[
    str | None,
    typer.Option(
        "-t", "--target", metavar="TARGET", envvar="THOUGHTGEAR_TARGET", help="Where the handler is."
    ),
]
Handler = Annotated[
    str | None, typer.Option(metavar="NAME", help="Which handler, where the target has several.")
]
Db = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The store, e.g. sqlite:///thoughtgear.db. [env var: THOUGHTGEAR_DB]",
    ),
]
Drives = Annotated[
    Executor | None,
    typer.Option(
        "--executor",
        "-x",
        envvar="THOUGHTGEAR_EXECUTOR",
        help="What drives the run (default: the handler's own).",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="The Temporal server; implies --executor temporal."),
]
Namespace = Annotated[str | None, typer.Option(metavar="NAME", help="The Temporal namespace.")]
Queue = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The workers' task queue. [env var: THOUGHTGEAR_TASK_QUEUE]"),
]
Json = Annotated[bool, typer.Option("--json", help="Answer with JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the answer alone.")]
Debug = Annotated[
    bool, typer.Option("--debug", envvar="THOUGHTGEAR_DEBUG", help="Show logs, and tracebacks of errors.")
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"thoughtgear {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


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
    _call(tell(path.resolve(), console, keep=keep, scripted=scripted, as_json=as_json), debug)


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
    _call(develop(target, console, port=port, db=db, task_queue=task_queue), debug)


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
    _call(serve(place, grace=grace, log_json=json_logs, debug=debug), debug, for_people=False)


@app.command()
def run(
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help='What to do; "-" reads stdin.')
    ] = None,
    target: Target = None,
    handler: Handler = None,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", metavar="PATH", help="A file that goes with the prompt."),
    ] = None,
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="The conversation that this continues.")
    ] = None,
    user: Annotated[str | None, typer.Option(metavar="ID", help="Whose run it is.")] = None,
    request: Annotated[
        str | None, typer.Option(metavar="ID", help="The same id again is the same run.")
    ] = None,
    go_on: Annotated[
        str | None,
        typer.Option("--continue", metavar="RUN", help="Go on with this run instead of a new prompt."),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the run's id and leave.")] = False,
    executor: Drives = None,
    address: Address = None,
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
    output = _output(as_json, quiet)
    if go_on is not None:
        _call(commands.resume(place, go_on, output, detach=detach), debug, place)
    text = sys.stdin.read() if prompt == "-" else prompt or ""
    new = NewPrompt(text, file or (), session, user, request)
    _call(commands.run(place, new, output, detach=detach), debug, place)


@app.command()
def runs(
    status: Annotated[RunStatus | None, typer.Option(help="Only these.")] = None,
    handler: Annotated[str | None, typer.Option(metavar="NAME", help="Only this handler's.")] = None,
    session: Annotated[str | None, typer.Option(metavar="ID", help="Only this session's.")] = None,
    user: Annotated[str | None, typer.Option(metavar="ID", help="Only this user's.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many.")] = 20,
    after: Annotated[str | None, typer.Option(metavar="CURSOR", help="Go on from here.")] = None,
    target: Target = None,
    db: Db = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the runs of a store, newest first."""
    from thoughtgear.listing import list_runs

    where = RunFilter(status.value if status else None, handler, session, user)
    place = Place(target=target, db=db)
    _call(list_runs(place, where, _output(as_json), limit=limit, after=after), debug)


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
    _call(listing.show(place, run_id, _output(as_json)), debug, place)


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
    _call(commands.wait(place, run_id, _output(as_json, quiet), timeout), debug, place)


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
    _call(commands.cancel(place, run_id, _output(as_json)), debug, place)


def main() -> None:
    """The entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without Unicode still gets its answer
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # tidy up as after Ctrl-C
    app()


def _output(as_json: bool = False, quiet: bool = False) -> Output:
    return Output(Console(highlight=False), Console(stderr=True, highlight=False), as_json, quiet)


def _call(
    work: Coroutine[Any, Any, int], debug: bool, place: Place | None = None, *, for_people: bool = True
) -> None:
    """Run a command to its exit code; what went wrong becomes a line on stderr. A worker, which is not for
    people, sets its own logs and wants a fast loop."""
    if for_people:
        _set_logs(debug)
    try:
        with asyncio.Runner(loop_factory=None if for_people else _fast_loop()) as runner:
            code = runner.run(work)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of stdout has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as exc:
        code = 1
        explained = _explain(exc, place or Place())
        if debug or explained is None:
            traceback.print_exc()
        if explained is not None:
            typer.echo(f"Error: {explained}", err=True)
    raise typer.Exit(code)


def _explain(exc: Exception, place: Place) -> str | None:
    """Return what went wrong and what to do; None for what nobody foresaw."""
    if isinstance(exc, RunNotFoundError):
        return f"{exc} See which there are: {place.stored.again('runs')}"
    if isinstance(exc, ThoughtgearError | OSError):
        return str(exc)
    rpc = sys.modules.get("temporalio.service")  # its import takes a second, and most commands do without
    if rpc is not None and isinstance(exc, rpc.RPCError):
        return f"Temporal answered {exc.status.name}; check the server, its address and the namespace."
    return None


def _fast_loop() -> Any:
    """The loop of uvloop where it is installed: 1.5 ms less per iteration."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


def _set_logs(debug: bool) -> None:
    """Show warnings, without stacks unless they are asked for."""
    if debug:
        logs.configure(level="DEBUG")
        return
    handler = logging.StreamHandler()
    handler.setFormatter(_Brief())
    logging.getLogger(logs.LOGGER).addHandler(handler)


class _Brief(logging.Formatter):
    """A line for people: the message and the error's first line; no stack."""

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        first = f": {type(error).__name__}: {error}".splitlines()[0] if error else ""
        return f"{record.getMessage()}{first}"
