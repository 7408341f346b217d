"""The command line: it parses and calls."""

from __future__ import annotations

import signal
import sys

from thoughtgear.cli import servers  # isort: skip  (the help lists the commands in this order)
from thoughtgear.cli import runs  # isort: skip
from thoughtgear.cli import stored  # isort: skip
from thoughtgear.cli import db  # isort: skip
from thoughtgear.cli import doctor
from thoughtgear.cli.app import app

__all__ = ["app", "db", "doctor", "main", "runs", "servers", "stored"]


def main() -> None:
    """The entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without Unicode still gets its answer
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # tidy up as after Ctrl-C
    app()
