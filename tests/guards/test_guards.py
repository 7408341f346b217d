"""Each guard is taken away in turn, from a copy of the package, and the tests that guard it have to fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from guards import GUARDS, Guard

ROOT = Path(__file__).parents[2]
SECONDS = 240
"""What the tests of one guard may take. A guard's absence must show as a failure, not as a hang."""

FAILED = 1
"""pytest's exit code for tests that failed; 2 to 5 are other troubles."""


def copy_of_the_package(folder: Path) -> Path:
    target = folder / "thoughtgear"
    shutil.copytree(ROOT / "thoughtgear", target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def run_tests(folder: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run the tests against the package in `folder`, and no other."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment["GUARDED_PACKAGE"] = str(folder)
    environment.pop("PYTEST_ADDOPTS", None)
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-p", "no:cacheprovider", "--tb", "line"]
    # The plugin says whether it is that package which is tested.
    plugin = ["-p", "guarded"]
    environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
    return subprocess.run(
        [*command, *plugin, *tests],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_each_guard_is_there_once(guard: Guard) -> None:
    """The text of a guard stands in its file exactly once, so that the list can't rot."""
    source = (ROOT / "thoughtgear" / guard.file).read_text(encoding="utf-8")
    assert source.count(guard.text) == 1
    compile(source.replace(guard.text, guard.instead), guard.file, "exec")


@pytest.mark.long
@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_without_its_guard_a_test_fails(guard: Guard, tmp_path: Path) -> None:
    """Where a guard is taken away, each of its tests fails."""
    file = copy_of_the_package(tmp_path) / guard.file
    file.write_text(file.read_text(encoding="utf-8").replace(guard.text, guard.instead), encoding="utf-8")
    for test in guard.tests:
        found = run_tests(tmp_path, (test,))
        assert found.returncode == FAILED, f"{test} passes without: {guard.name}\n{found.stdout[-2000:]}"
        assert re.search(r"\b1 failed", found.stdout)


@pytest.mark.long
def test_with_its_guards_no_test_fails(tmp_path: Path) -> None:
    """The same tests pass on a copy that nothing was taken from: they fail for the guard's sake."""
    copy_of_the_package(tmp_path)
    tests = tuple(dict.fromkeys(test for guard in GUARDS for test in guard.tests))
    found = run_tests(tmp_path, tests)
    assert found.returncode == 0, found.stdout[-4000:]


def test_the_table_in_the_docs_is_this_list() -> None:
    """docs/reliability.md names each guard, its file and its tests, and no other."""
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    section = text.partition("## The guards")[2].partition("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    shown = [tuple(cell.strip() for cell in row) for row in rows if len(row) == 3]
    assert shown == [row_of(guard) for guard in GUARDS]


def row_of(guard: Guard) -> tuple[str, str, str]:
    """A guard's row of the table."""
    tests = "<br>".join(f"`{test}`" for test in guard.tests)
    return guard.name, f"`thoughtgear/{guard.file}`", tests
