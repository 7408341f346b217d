"""What the benchmarks share: on what they were measured, and how they print it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table


def versions(*packages: str) -> dict[str, str]:
    """Return what took part."""
    here = Path(__file__).parent
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=here, capture_output=True, text=True, check=False).stdout.strip()
    loop = f"uvloop {version('uvloop')}" if event_loop() else "asyncio"
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    python, commit = platform.python_version(), commit or "unknown"
    found = {name: version(name) for name in packages}
    return {**found, "python": python, "loop": loop, "system": system, "commit": commit}


def event_loop() -> Any:
    """The loop that `thoughtgear worker` takes: uvloop's where it is installed."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


def table_of(title: str, columns: Sequence[str]) -> Table:
    """An empty table with numbers on the right."""
    table = Table(title=title, title_justify="left", highlight=False)
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def say(line: str) -> None:
    """Tell how far it is, apart from the result."""
    print(line, file=sys.stderr, flush=True)
