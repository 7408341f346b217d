"""The command line: it parses and calls."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress

from thoughtgear.cli import servers  # isort: skip  (the help lists the commands in this order)
from thoughtgear.cli import runs  # isort: skip
from thoughtgear.cli import stored  # isort: skip
from thoughtgear.cli import schedule  # isort: skip
from thoughtgear.cli import db  # isort: skip
from thoughtgear.cli import doctor
from thoughtgear.cli.app import app

__all__ = ["app", "db", "doctor", "main", "runs", "schedule", "servers", "stored"]


def main() -> None:
    """The entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without Unicode still gets its answer
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except SystemExit as exc:
        if BRIDGE in sys.modules and isinstance(exc.code, int):
            _leave(exc.code)
        raise


def _terminate(*_: object) -> None:
    """Tidy up as after Ctrl-C, also where that does nothing: a script starts its background jobs so."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


BRIDGE = "temporalio.bridge.temporal_sdk_bridge"


def _leave(code: int) -> None:
    """End without taking the interpreter apart: a thread of Temporal's SDK that has just answered may be
    about to let go of it, and aborts a process that ends in the same moment."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)
