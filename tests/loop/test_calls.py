"""The calls of an iteration: threads of plain tools that are all taken."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from thoughtgear.handler import PromptHandler
from thoughtgear.models import Message, ToolPolicy
from thoughtgear.providers.scripted import ScriptedProvider, call
from thoughtgear.registry import open_store
from thoughtgear.threads import ThreadsBusyError, ToolThreads
from thoughtgear.tools import tool


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What a hanging tool waits for; it is set at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def results(history: list[Message]) -> list[tuple[str, str]]:
    found = [message.tool_result for message in history if message.tool_result]
    return [(result.status, result.content) for result in found]


@pytest.mark.parametrize("policy", ["idempotent", "at_most_once"])
async def test_a_hanging_tool_does_not_wedge_the_others(release: threading.Event, policy: ToolPolicy) -> None:
    """A plain tool that finds no free thread within its time-out was not run, and its error says so; the run
    goes on, and a thread that comes free is used again."""
    ran = 0

    @tool(timeout=0.1)
    def hang() -> str:
        release.wait(30)
        return "late"

    @tool(timeout=0.1, policy=policy)
    def quick() -> str:
        nonlocal ran
        ran += 1
        return "quick"

    @tool
    async def free() -> str:
        release.set()
        while handler.abandoned_threads:
            await asyncio.sleep(0)
        return "freed"

    replies: list[Any] = [[call("hang")], [call("quick")], [call("free")], [call("quick")], "end"]
    handler = PromptHandler(
        orm=open_store("memory://"),
        tools=[hang, quick, free],
        tool_threads=1,
        model=ScriptedProvider(replies=replies),
    )
    async with asyncio.timeout(20):
        state = await handler.handle_prompt("Go")
    assert (state.status, state.output, ran) == ("done", "end", 1)
    hung, busy, *after = results(await handler.history(state.run_id))
    assert hung[0] == "error"
    assert busy[0] == "error"
    assert "was not run. No thread came free in 0.1 s: all 1 are busy, 1 of them" in busy[1]
    assert after == [("ok", "freed"), ("ok", "quick")]
    await handler.aclose()


async def test_a_place_that_comes_free_is_taken() -> None:
    """Whoever waits gets the place when it comes free; whoever gave up leaves it to the next."""
    threads = ToolThreads(1)
    async with threads.place(1):
        with pytest.raises(ThreadsBusyError):
            async with threads.place(0.01):
                raise AssertionError("there was no place")
        waiting = asyncio.create_task(_with_place(threads))
        await asyncio.sleep(0)
        assert not waiting.done()
    assert await waiting == "ran"
    assert await _with_place(threads) == "ran"


async def _with_place(threads: ToolThreads) -> Any:
    async with threads.place(30) as place:
        return await place.run(lambda: "ran")
