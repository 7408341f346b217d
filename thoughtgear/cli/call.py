"""Runs a command to its exit code: logs for people, one line for what went wrong."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import traceback
from collections.abc import Coroutine
from typing import Any

import typer
from rich.console import Console

from thoughtgear import logs
from thoughtgear.errors import RunNotFoundError, ThoughtgearError
from thoughtgear.place import Output, Place

INTERRUPTED = 130

_LOGIN = re.compile(r"://[^/\s@]*@")
"""What stands before the host in a URL, which somebody may have typed in the wrong place."""


def output_of(as_json: bool = False, quiet: bool = False) -> Output:
    # No markup: what is shown may have come from a model.
    out = Console(highlight=False, markup=False)
    return Output(out, Console(stderr=True, highlight=False, markup=False), as_json, quiet)


def call(
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
            typer.echo(f"Error: {logs.one_line(_LOGIN.sub('://…@', explained))}", err=True)
    raise typer.Exit(code)


def _explain(exc: Exception, place: Place) -> str | None:
    """Return what went wrong and what to do; None for what nobody foresaw."""
    if isinstance(exc, RunNotFoundError):
        return f"{exc} See which there are: {place.stored.again('runs')}"
    if isinstance(exc, ThoughtgearError | OSError):
        return place.upgraded(str(exc))
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
        if isinstance(error, logs.Unsaid):  # a terminal shows the whole transcript, too
            error = error.said
        first = f": {type(error).__name__}: {error}".splitlines()[0] if error else ""
        return logs.one_line(f"{record.getMessage()}{first}")
