"""The benchmarks run; what they measure is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

OVERHEAD = Path(__file__).parent.parent / "benchmarks" / "overhead.py"


def test_overhead_prints_its_comparison_and_writes_the_same_numbers_as_json(tmp_path: Path) -> None:
    """The smallest benchmark measures both contenders and says how they compare."""
    found = tmp_path / "found.json"
    smallest = ["--lengths", "3", "--repeats", "1", "--runs", "2", "--json", str(found)]
    done = subprocess.run(
        [sys.executable, str(OVERHEAD), *smallest], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    numbers = json.loads(found.read_text())
    (length,) = numbers["lengths"]
    assert length["iterations"] == 3
    assert length["commits"] == 2.0  # the prompt, two for each tool iteration, one for the answer
    assert length["run_bytes"] > length["bare_bytes"] > 0
    assert f"highest ratio {length['ratio']:.2f}" in done.stdout
    assert numbers["concurrent"]["run_per_second"] > 0
