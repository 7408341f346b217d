"""What an import brings with it: import-linter doesn't see what a parent package's `__init__` pulls in."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import thoughtgear
import thoughtgear.workflows

DRIVERS = {"sqlalchemy", "sqlite3", "asyncpg", "boto3", "pymongo", "httpx"}
CORE = [
    "thoughtgear",
    "thoughtgear.models",
    "thoughtgear.loop",
    "thoughtgear.protocols",
    "thoughtgear.handler",
]
WORKFLOWS = [
    f"thoughtgear.workflows.{each.name}" for each in pkgutil.iter_modules(thoughtgear.workflows.__path__)
]


def loaded_by(statement: str) -> set[str]:
    """The top-level modules of a fresh process after the statement."""
    script = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize("module", [*CORE, *WORKFLOWS])
def test_the_core_and_the_workflows_load_no_driver(module: str):
    """A fresh process that imports the module has loaded no database driver and no HTTP client."""
    assert not loaded_by(f"import {module}") & DRIVERS


def test_the_handler_loads_no_temporal():
    """Who runs a handler in their own process never loads Temporal's SDK."""
    assert "temporalio" not in loaded_by("from thoughtgear import PromptHandler, tool, Limits, LocalExecutor")


@pytest.mark.parametrize("name", thoughtgear.__all__)
def test_every_public_name_is_there(name: str):
    """A name of `__all__` is a public attribute of the package."""
    assert getattr(thoughtgear, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    """A name that the package doesn't have is the error that `hasattr` understands."""
    assert not hasattr(thoughtgear, "no_such_name")
