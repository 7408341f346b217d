"""The options and arguments that several commands take."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


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
