"""`run`, `wait`, `cancel` and `worker` where a worker elsewhere drives the run, and `dev`."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from rich.console import Console
from terminal import Terminal

from thoughtgear import commands
from thoughtgear.devserver import DevServer
from thoughtgear.place import Output, Place
from thoughtgear.worker_process import WorkerProcess

StartWorker = Callable[[str], WorkerProcess]


async def test_ctrl_c_detaches_and_the_run_goes_on(
    terminal: Terminal, server: DevServer, start_worker: StartWorker
):
    """Ctrl-C leaves a run of a worker with the line to come back by; that line then sees its end."""
    start_worker("agent:gated")
    running = await terminal.start("run", "-t", "agent:gated", "--address", server.address, "Go through")
    await running.until_says("→ 1.0 pass_gate()")
    running.interrupt()
    left = await running.ended()
    words = left.err.split("Come back with: thoughtgear ")[1].split()
    waiting = await terminal.start(*words)
    await waiting.until_says("run 0")
    terminal.open_gate()
    ended = await waiting.ended()
    assert left.code == 130
    assert "Traceback" not in left.err
    assert (ended.code, ended.out) == (0, "I am through.\n")
    assert "✓ 1.0 the gate is open" in ended.err


async def test_cancel_ends_a_run_in_the_middle_of_a_tool(
    terminal: Terminal, server: DevServer, start_worker: StartWorker
):
    """`run --detach` prints the run's id alone on stdout; `cancel` ends that run, and `wait` exits with 1."""
    start_worker("agent:several")
    place = ("-t", "agent:several", "--address", server.address)
    detached = await terminal.type("run", *place, "--handler", "gated", "--detach", "Go through")
    run_id = detached.out.strip()
    await terminal.until_there("waiting")
    cancelled = await terminal.type("cancel", run_id, *place, "--json")
    waited = await terminal.type("wait", run_id, *place, "--quiet")
    assert detached.code == 0
    assert json.loads(cancelled.out)["status"] == "cancelled"
    assert (waited.code, waited.out) == (1, "")


async def test_a_retry_is_driven_by_the_worker(
    terminal: Terminal, server: DevServer, start_worker: StartWorker
):
    """A run that failed under Temporal is retried there, also with the store alone at hand; `--detach` prints
    its id, and `wait` sees its end."""
    start_worker("agent:refused")
    place = ("-t", "agent:refused", "--address", server.address)
    failed = await terminal.type("run", *place, "--json", "Let me in")
    run_id = json.loads(failed.out)["run_id"]
    again = await terminal.type("retry", run_id, *place)
    terminal.open_gate()
    alone = ("--db", "sqlite:///runs.db", "--address", server.address)
    detached = await terminal.type("retry", run_id, *alone, "--detach")
    waited = await terminal.type("wait", run_id, *place, "--json")
    assert (failed.code, again.code, detached.code, detached.out.strip()) == (1, 1, 0, run_id)
    assert "ModelRejectedError: The gate is closed." in again.err
    assert (json.loads(waited.out)["status"], json.loads(waited.out)["output"]) == ("done", "I am in.")


async def test_run_says_that_no_worker_polls(terminal: Terminal, server: DevServer):
    """Where nobody polls the queue, `run` says so on stderr with the line that starts a worker, and waits."""
    running = await terminal.start("run", "-t", "agent:handler", "--address", server.address, "Hello")
    await running.until_says("No worker polls the task queue 'thoughtgear'")
    await running.until_says("thoughtgear worker agent:handler")
    running.interrupt()
    assert (await running.ended()).code == 130


async def test_cancel_says_that_no_worker_polls(
    terminal: Terminal, server: DevServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Where nobody polls the queue, `cancel` says so with the line that starts a worker, and exits with 1."""
    place = ("-t", "agent:handler", "--address", server.address, "--task-queue", "a queue")
    run_id = (await terminal.type("run", *place, "--detach", "Hello")).out.strip()
    again = await terminal.type("run", "--continue", run_id, *place, "--detach")
    monkeypatch.setattr(commands, "CANCEL_SECONDS", 2.5)
    there = Place(db=f"sqlite:///{terminal.folder / 'runs.db'}", address=server.address, task_queue="a queue")
    output = Output(Console(highlight=False), Console(stderr=True, highlight=False))
    code = await commands.cancel(there, run_id, output)
    said = capsys.readouterr().err
    assert (again.code, again.out.strip()) == (0, run_id)
    assert code == 1
    assert "No worker polls the task queue 'a queue'; start one: thoughtgear worker TARGET" in said
    assert f"--address {server.address} --task-queue 'a queue'" in said
    assert f"See its end with: thoughtgear wait {run_id} --db sqlite:///" in said


async def test_a_run_that_is_over_needs_no_server(
    terminal: Terminal, server: DevServer, start_worker: StartWorker
):
    """`wait` and `cancel` of a run that Temporal drove to its end answer while no server is there."""
    start_worker("agent:handler")
    made = await terminal.type("run", "-t", "agent:handler", "--address", server.address, "--json", "Hello")
    run_id = json.loads(made.out)["run_id"]
    await server.stop()
    place = ("--db", "sqlite:///runs.db", "--address", server.address)
    waited = await terminal.type("wait", run_id, *place)
    cancelled = await terminal.type("cancel", run_id, *place)
    assert (waited.code, waited.out) == (0, "The word is HELLO.\n")
    assert (cancelled.code, cancelled.err) == (0, f"Run {run_id} is done already.\n")


async def test_a_worker_says_what_it_serves_and_stops_on_sigterm(terminal: Terminal, server: DevServer):
    """`worker` logs what it serves as JSON where asked, never a key; SIGTERM ends it with exit code 0."""
    worker = await terminal.start(
        *(
            "worker",
            "agent:several",
            "--json-logs",
            "--task-queue",
            "some-queue",
            "--address",
            server.address,
        ),
        OPENAI_API_KEY="sk-secret",
    )
    await worker.until_says("handler gated")
    worker.terminate()
    ended = await worker.ended()
    lines = [json.loads(line)["message"] for line in ended.err.splitlines()]
    assert ended.code == 0
    assert lines[0] == f"working for {server.address}, namespace default, queue some-queue"
    assert lines[1].startswith("handler default: model scripted, store SqlAdapter(sqlite:///")
    assert lines[-1] == "stopped"
    assert "sk-secret" not in ended.err


async def test_dev_restarts_its_worker_when_a_file_changes(terminal: Terminal):
    """After a change `dev` has a new worker, which answers with the new code; Ctrl-C ends all of it."""
    dev = await terminal.start("dev", "agent:handler", "--port", "0")
    await dev.until_says("Worker ready")
    code = terminal.folder / "agent.py"
    code.write_text(code.read_text().replace("The word is", "The new word is"))
    await dev.until_says("agent.py changed")
    await dev.until_says("Worker ready", times=2)
    words = dev.line("try").split("thoughtgear ")[1].split(' "')[0].split()
    ended = await terminal.type(*words, "Say hello")
    dev.interrupt()
    stopped = await dev.ended()
    assert ended.out == "The new word is HELLO.\n"
    assert stopped.code == 0
    assert "Traceback" not in stopped.err
