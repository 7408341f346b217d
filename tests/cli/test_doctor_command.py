"""`thoughtgear doctor`: what it says, with and without a Temporal server, and its exit codes."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client
from terminal import Terminal
from typer.testing import CliRunner, Result

from thoughtgear.cli import app
from thoughtgear.devserver import DevServer
from thoughtgear.models import Driver, now
from thoughtgear.registry import open_store
from thoughtgear.testing import append, new_run
from thoughtgear.worker_process import WorkerProcess

OLD = now() - timedelta(hours=1)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TEMPORAL_ADDRESS", "TEMPORAL_PROFILE", "THOUGHTGEAR_TARGET", "THOUGHTGEAR_DB"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server is where one is looked for by default."""
    monkeypatch.setattr("thoughtgear.config.DEFAULT_ADDRESS", "127.0.0.1:1")


async def type_in(*words: str) -> Result:
    """Type the command; it has an event loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, ("doctor", *words))


async def store_at(folder: Path, **fields: object) -> str:
    """A store with a run that is not over."""
    url = f"sqlite:///{folder}/runs.db"
    store = open_store(url)
    await append(store, new_run("stuck", created_at=OLD, updated_at=OLD, **fields), "a")
    await append(store, new_run("over", status="done"), "a")
    await store.aclose()
    return url


async def test_a_healthy_store_is_exit_code_0(tmp_path: Path, nowhere: None):
    """Without a server and without runs that need one nothing is wrong, and what was not checked is told."""
    url = await store_at(tmp_path, status="cancelled")
    ended = await type_in("--db", url)
    told = await type_in("--db", url, "--json")
    assert (ended.exit_code, ended.stdout) == (0, "")
    assert "Not checked: Temporal: No Temporal server answers at 127.0.0.1:1" in ended.stderr
    assert ended.stderr.endswith("Looked at 0 unfinished runs: nothing is wrong.\n")
    assert json.loads(told.stdout)["healthy"] is True


async def test_a_local_run_is_told_with_its_command(tmp_path: Path, nowhere: None):
    """A run that a dead process left is shown with a line that can be typed as it is, and not repaired."""
    url = await store_at(tmp_path)
    ended = await type_in("--db", url)
    repaired = await type_in("--db", url, "--repair")
    told = await type_in("--db", url, "--json")
    lines = ended.stdout.splitlines()
    assert (ended.exit_code, repaired.exit_code, told.exit_code) == (1, 1, 1)
    assert lines[0].split() == ["not", "driven", "stuck"]
    assert lines[2].endswith(f"thoughtgear run --continue stuck -t TARGET --db {url}")
    assert "✗ This takes a person." in repaired.stdout
    (finding,) = json.loads(told.stdout)["findings"]
    assert shlex.split(finding["command"])[:4] == ["thoughtgear", "run", "--continue", "stuck"]


async def test_a_server_that_is_needed_is_missed(tmp_path: Path, nowhere: None):
    """A server that does not answer is a finding where a run needs it, and where its address was given."""
    needed = await type_in("--db", await store_at(tmp_path, driver=Driver(executor="temporal")))
    (tmp_path / "empty").mkdir()
    store = await store_at(tmp_path / "empty", status="cancelled")
    given = await type_in("--db", store, "--address", "127.0.0.1:1")
    plain = await type_in("--db", store)
    assert "No Temporal server answers at 127.0.0.1:1" in needed.stdout
    assert "It drives 1 run." in needed.stdout
    assert given.stdout.startswith("temporal ")
    assert [each.exit_code for each in (needed, given, plain)] == [1, 1, 0]


async def test_how_to_end_workflows_needs_repair(tmp_path: Path):
    """--workflows without --repair is wrong usage."""
    ended = await type_in("--db", f"sqlite:///{tmp_path}/runs.db", "--workflows", "terminate")
    assert ended.exit_code == 2
    assert "needs --repair" in ended.stderr


async def test_the_doctor_mends_what_temporal_lost(
    terminal: Terminal, server: DevServer, start_worker: Callable[[str], WorkerProcess]
):
    """Runs without a workflow are scheduled and a terminated one is marked failed by --repair; then nothing
    is wrong."""
    url = f"sqlite:///{terminal.folder}/runs.db"
    store = open_store(url)
    driver = Driver(executor="temporal")
    for name in ("lost", "ended"):
        await append(store, new_run(name, created_at=OLD, updated_at=OLD, driver=driver), "Hello")
    client = await Client.connect(server.address)
    handle = await client.start_workflow(
        "RunWorkflow", {"run_id": "ended"}, id="thoughtgear-ended", task_queue="thoughtgear"
    )
    await handle.terminate(reason="by hand")
    start_worker("agent:handler")
    place = ("--db", url, "--address", server.address)
    async with asyncio.timeout(30):
        while "no worker" in (found := await type_in(*place)).stdout:
            await asyncio.sleep(0.1)
    repaired = await type_in(*place, "--repair")
    ended = await terminal.type("wait", "lost", "--db", url, "--address", server.address)
    after = await type_in(*place)
    states = {run.run_id: run for run in (await store.list_runs()).runs}
    await store.aclose()
    assert found.exit_code == 1
    assert [line.split()[-1] for line in found.stdout.splitlines() if line[0] != " "] == ["ended", "lost"]
    assert "Its Temporal workflow was terminated: by hand." in found.stdout
    assert repaired.stdout.count("✓") == 2
    assert (repaired.exit_code, ended.code, after.exit_code) == (0, 0, 0)
    assert (states["lost"].status, states["ended"].status) == ("done", "failed")
    assert states["ended"].error is not None
    assert states["ended"].error.message == "Its Temporal workflow was terminated: by hand."
