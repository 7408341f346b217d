"""The benchmarks run; what they measure is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
OVERHEAD = BENCHMARKS / "overhead.py"


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


def stores(folder: Path, *options: str, timeout: float = 120) -> tuple[str, dict[str, Any]]:
    """Run the benchmark of the stores; return what it printed, and its numbers by store."""
    found = folder / "found.json"
    command = [sys.executable, str(BENCHMARKS / "stores.py"), *options, "--json", str(found)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, {each["store"]: each for each in json.loads(found.read_text())["results"]}


@pytest.mark.long
def test_stores_prints_its_table_and_writes_the_same_numbers_as_json(tmp_path: Path) -> None:
    """The quick benchmark, made smaller, measures every store, and a commit costs the same further on."""
    # As many commits as it takes until each store has folded once.
    smallest = ["--quick", "--lengths", "70", "140", "--commits", "64", "--repeats", "1"]
    printed, found = stores(tmp_path, *smallest)
    assert list(found) == ["memory", "sqlite", "files", "postgresql", "mongodb", "s3"]
    for name, result in found.items():
        first, last = (length["commit"] for length in result["lengths"])
        assert f"{name}, at so many messages" in printed
        assert last["ms"] > 0
        assert last["bytes"] <= 1.2 * first["bytes"]
        assert last["requests"] <= 1.2 * first["requests"]
    assert found["postgresql"]["lengths"][1]["commit"]["requests"] == 4  # BEGIN, UPDATE, INSERT, COMMIT
    assert found["sqlite"]["lengths"][1]["load"]["requests"] == 2
    assert "target: 1.2" in printed


@pytest.mark.long
def test_a_commit_costs_the_same_at_10_000_messages(tmp_path: Path) -> None:
    """On every store a commit at 10,000 messages takes at most 1.2 times the requests and bytes of one at 10,
    and a load of them all few requests."""
    _, found = stores(tmp_path, "--lengths", "10", "10000", "--repeats", "1", timeout=1800)
    most = {"memory": 0, "sqlite": 2, "postgresql": 4, "mongodb": 3, "s3": 22, "files": 250}
    for name, result in found.items():
        first, last = result["lengths"]
        for what in ("requests", "bytes"):
            assert last["commit"][what] <= 1.2 * first["commit"][what], (name, what)
        assert last["load"]["requests"] <= most[name]


@pytest.mark.long
def test_streaming_prints_its_table_and_writes_the_same_numbers_as_json(tmp_path: Path) -> None:
    """Every way brings a small reply to its reader; through the store no event is added to a history, through
    Workflow Streams some are."""
    found = tmp_path / "found.json"
    smallest = ["--stores", "sqlite", "s3", "--intervals", "0.2", "--words", "40", "--think", "0.2"]
    command = [sys.executable, str(BENCHMARKS / "streaming.py"), *smallest, "--json", str(found)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row["way"]: row for row in json.loads(found.read_text())["rows"]}
    assert list(rows) == ["sqlite", "s3", "heartbeats", "workflow streams"]
    for name, row in rows.items():
        assert name in done.stdout
        assert row["worker_requests"] > 0
        assert row["reader_bytes"] > 0
        assert row["late"] >= row["median"] > 0
    assert [rows[name]["events"] > 0 for name in rows] == [False, False, False, True]
