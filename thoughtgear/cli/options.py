"""The options and arguments that several commands take."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


LONGEST = timedelta(days=100 * 365)


def span_of(text: str) -> timedelta:
    """Read a span of time such as `90m`, `12h`, `30d` or `4w`."""
    found = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no span of time; write 90m, 12h, 30d or 4w")
    span = timedelta(**{UNITS[found[2]]: int(found[1])})
    if span > LONGEST:
        raise typer.BadParameter(f"{text} is longer than {LONGEST.days // 365} years")
    return span


def metadata_pair(text: str) -> tuple[str, Any]:
    """Read `key=value`: a value that is JSON is what it says, any other is a text."""
    key, separator, value = text.partition("=")
    if not (key and separator):
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--metadata")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


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
        help="The store, e.g. sqlite:///thoughtgear.db; or its JSON. [env var: THOUGHTGEAR_DB]",
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
    typer.Option(metavar="HOST:PORT", help="The Temporal server (default: as the environment says)."),
]
DrivesAt = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="The Temporal server; implies --executor temporal."),
]
Namespace = Annotated[str | None, typer.Option(metavar="NAME", help="The Temporal namespace.")]
Queue = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The workers' task queue. [env var: THOUGHTGEAR_TASK_QUEUE]"),
]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Print the run's id and leave.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Go without asking.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")]
Json = Annotated[bool, typer.Option("--json", help="Answer with JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the answer alone.")]
Debug = Annotated[
    bool, typer.Option("--debug", envvar="THOUGHTGEAR_DEBUG", help="Show logs, and tracebacks of errors.")
]
