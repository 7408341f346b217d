"""`run`, `wait`, `cancel` and `worker` where a worker elsewhere drives the run, and `dev`."""

from __future__ import annotations

import json
from collections.abc import Callable

from conftest import Terminal

from thoughtgear.devserver import DevServer
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


async def test_run_says_that_no_worker_polls(terminal: Terminal, server: DevServer):
    """Where nobody polls the queue, `run` says so on stderr with the line that starts a worker, and waits."""
    running = await terminal.start("run", "-t", "agent:handler", "--address", server.address, "Hello")
    await running.until_says("No worker polls the task queue 'thoughtgear'")
    await running.until_says("thoughtgear worker agent:handler")
    running.interrupt()
    assert (await running.ended()).code == 130


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
