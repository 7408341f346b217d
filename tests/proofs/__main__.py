"""`just prove`: all of the proofs of docs/reliability.md, one after the other, and a table at the end.

Together they take long; each shows its own progress. Exit code 1 if any of them failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

TESTS = Path(__file__).parents[1]

PROOFS = {
    "simulation": ("-m", "simulation"),
    "crash windows": ("-m", "pytest", "-m", "long or not long", "crashes"),
    "chaos": ("-m", "chaos"),
    "scheduling": ("-m", "pytest", "-m", "long or not long", "scheduling"),
    "bad input": ("-m", "pytest", "-m", "long or not long", "fuzz"),
    "replay": ("-m", "pytest", "temporal/test_replay.py"),
    "guards": ("-m", "pytest", "-m", "long or not long", "guards"),
}
"""Name → what Python is to run, in the folder of the tests."""


@dataclass(frozen=True)
class Result:
    """What came of a proof: the exit code of its process, and how long it took."""

    name: str
    code: int
    seconds: float


def main() -> int:
    """Run the proofs that are asked for, and say what came of them."""
    parser = argparse.ArgumentParser(prog="just prove", description=__doc__)
    parser.add_argument("proofs", nargs="*", metavar="PROOF", help=f"Default: all. {', '.join(PROOFS)}")
    names: list[str] = parser.parse_args().proofs or list(PROOFS)
    unknown = [name for name in names if name not in PROOFS]
    if unknown:
        parser.error(f"there is no proof {unknown[0]!r}; there are {', '.join(PROOFS)}")
    console = Console()
    results = [_run(name, number, names, console) for number, name in enumerate(names, 1)]
    console.print(_table(results))
    return 1 if any(result.code for result in results) else 0


def _run(name: str, number: int, names: Sequence[str], console: Console) -> Result:
    console.rule(f"{name} ({number} of {len(names)})")
    begin = time.monotonic()
    code = subprocess.run([sys.executable, *PROOFS[name]], cwd=TESTS, check=False).returncode
    return Result(name, code, time.monotonic() - begin)


def _table(results: Sequence[Result]) -> Table:
    table = Table("proof", "result", "minutes")
    for result in results:
        said = "passed" if result.code == 0 else f"failed (exit code {result.code})"
        table.add_row(result.name, said, f"{result.seconds / 60:.1f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
