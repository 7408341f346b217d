"""`thoughtgear schedule` with a real server and a worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
from terminal import Terminal

from thoughtgear.devserver import DevServer
from thoughtgear.registry import open_store
from thoughtgear.worker_process import WorkerProcess


async def test_a_prompt_that_recurs(
    terminal: Terminal, server: DevServer, start_worker: Callable[[str], WorkerProcess]
) -> None:
    """`create`, `trigger`, and the run is done in the store under the id that `show` names; `pause`,
    `resume`, `list` and `delete` do what they say, and `show` says why it is paused where somebody did."""

    async def schedule(*words: str, **environment: str) -> tuple[int, str, str]:
        ended = await terminal.type("schedule", *words, "--address", server.address, **environment)
        return ended.code, ended.out, ended.err

    code, _, err = await schedule("create", "news", "--every", "1h", "--paused", "What is new?")
    assert code == 0
    assert "every 1h. It is paused." in err
    assert "No worker polls the task queue 'thoughtgear'" in err
    start_worker("agent:handler")
    assert (await schedule("trigger", "news"))[0] == 0
    async with asyncio.timeout(60):
        while not (shown := json.loads((await schedule("show", "news", "--json"))[1]))["runs"]:
            await asyncio.sleep(0.1)
    run_id = shown["runs"][0]["run_id"]
    store = open_store(f"sqlite:///{terminal.folder}/runs.db")
    async with asyncio.timeout(60):
        while not (runs := (await store.list_runs()).runs) or not runs[0].over:
            await asyncio.sleep(0.05)
    await store.aclose()
    assert [(run.run_id, run.output) for run in runs] == [(run_id, "The word is HELLO.")]
    assert (shown["prompt"], shown["when"], shown["paused"]) == ("What is new?", "every 1h", True)
    _, out, _ = await schedule("show", "news")
    assert all(word in out for word in ("What is new?", "every 1h", "paused", run_id))
    for note, status in (((), "paused\n"), (("--note", "May"), "paused (May)\n")):
        assert (await schedule("pause", "news", *note))[0] == 0
        assert f"status      {status}" in (await schedule("show", "news"))[1]
    assert (await schedule("resume", "news"))[2].startswith("Schedule news is resumed.")
    assert (await schedule("list"))[1].split()[:2] == ["SCHEDULE", "WHEN"]
    assert "unreadable" not in (await schedule("list"))[1]
    keys = {"THOUGHTGEAR_CODEC_KEYS": f"k:{'A' * 43}=", "THOUGHTGEAR_CODEC_REQUIRED": "1"}
    assert "on, unreadable" in (await schedule("list", **keys))[1]
    assert json.loads((await schedule("list", "--json", **keys))[1])["schedules"][0]["unreadable"]
    assert "delete it and create it again" in (await schedule("show", "news", **keys))[1]
    assert (await schedule("delete", "news"))[2] == "Schedule news is deleted.\n"
    code, _, err = await schedule("delete", "news")
    assert (code, err) == (1, "Error: There is no schedule 'news' in this namespace.\n")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("create", "a", "Hello"), 2, "give --cron EXPRESSION or --every SPAN"),
        (("create", "a", "--every", "soon", "Hello"), 2, "no span of time"),
        (("create", "a", "--cron", "tomorrow", "Hello"), 1, "Error: Temporal refuses the schedule: Invalid"),
        (("create", "a", "--every", "1h", " "), 1, "Error: "),
        (("show", "nobody"), 1, "Error: There is no schedule 'nobody' in this namespace."),
    ],
    ids=str,
)
async def test_a_schedule_that_can_not_be(
    terminal: Terminal, server: DevServer, words: tuple[str, ...], code: int, says: str
) -> None:
    """Wrong usage exits with 2, what the server refuses with 1 and one line."""
    ended = await terminal.type("schedule", *words, "--address", server.address)
    assert ended.code == code
    assert says in ended.err.replace("\n", " ")
    assert "Traceback" not in ended.err


async def test_no_server(terminal: Terminal) -> None:
    """Without a server the error says which address did not answer."""
    ended = await terminal.type("schedule", "list", "--address", "127.0.0.1:1")
    assert ended.code == 1
    assert ended.err.startswith("Error: No Temporal server answers at 127.0.0.1:1")
