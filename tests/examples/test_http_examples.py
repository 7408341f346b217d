"""The HTTP examples over a real socket: one that answers, one that is polled and streamed."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from example_process import EXAMPLES, SECONDS, served

from thoughtgear import PromptHandler
from thoughtgear.adapters.memory import MemoryAdapter

TEXT = {"text": "Pay invoice 1207."}


async def test_a_prompt_is_answered_in_one_response(tmp_path: Path) -> None:
    """The answer is in the response; the same key again is the same run and no second payment, another prompt
    under it is refused, and so is what is no prompt."""
    async with served(tmp_path, "http_answer.py") as (_, client):
        key = {"idempotency-key": "order-1207"}
        first = await client.post("/prompts", json=TEXT, headers=key)
        again = await client.post("/prompts", json=TEXT, headers=key)
        other = await client.post("/prompts", json={"text": "Pay invoice 1208."}, headers=key)
        assert first.status_code == again.status_code == 200
        assert first.json()["status"] == "done"
        assert first.json()["output"].startswith("Paid 240.00 for invoice 1207, reference ")
        assert again.json() == first.json()
        assert (other.status_code, other.json()["error"]) == (409, "RequestConflictError")
        for body in (b"", b"[]", b'{"text": ""}', b"\xff"):
            refused = await client.post("/prompts", content=body)
            assert (refused.status_code, refused.json()["error"]) == (400, "InvalidInputError"), body


async def test_an_answer_outlives_its_server(tmp_path: Path) -> None:
    """A server that is killed in the middle of an answer loses nothing: asked again with the same key, the
    next one ends the same run."""
    key = {"idempotency-key": "order-1208"}
    async with served(tmp_path, "http_answer.py", PATIENCE_SECONDS="0") as (running, client):
        begun = await client.post("/prompts", json=TEXT, headers=key)
        assert (begun.status_code, begun.headers["retry-after"]) == (202, "1")
        await running.kill()
    async with served(tmp_path, "http_answer.py", PATIENCE_SECONDS="50") as (_, client):
        ended = await client.post("/prompts", json=TEXT, headers=key)
        assert (ended.status_code, ended.json()["run_id"]) == (200, begun.json()["run_id"])
        assert ended.json()["output"].startswith("Paid 240.00")


async def frames(response: httpx.Response, most: int | None = None) -> list[dict[str, Any]]:
    """The events of a response of Server-Sent Events, each with its id; so many at the most."""
    found: list[dict[str, Any]] = []
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        name, _, value = line.partition(": ")
        if name:
            fields[name] = value
        elif fields:
            found.append({**json.loads(fields["data"]), "id": fields["id"]})
            assert found[-1]["kind"] == fields["event"]
            fields = {}
        if most is not None and len(found) == most:
            break
    return found


def said(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What is on the page: the kinds but text, and the texts of each reply in one."""
    lines: list[tuple[str, str]] = []
    for event in events:
        if event["kind"] == "text" and lines and lines[-1][0] == "text":
            lines[-1] = ("text", lines[-1][1] + event["text"])
        else:
            lines.append((event["kind"], event.get("text", "")))
    return lines


async def test_a_run_is_polled_and_streamed(tmp_path: Path) -> None:
    """The id comes at once; the events come piece by piece, and from the id of each of them the rest comes
    again; who knows the end is told so, and the state has the answer."""
    async with served(tmp_path, "http_stream.py") as (_, client), asyncio.timeout(SECONDS):
        started = await client.post("/runs", json=TEXT)
        assert (started.status_code, started.json()["status"]) == (202, "pending")
        where, events_at = started.headers["location"], started.json()["events"]
        async with client.stream("GET", events_at) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            events = await frames(response)
        kinds = [event["kind"] for event in events]
        assert kinds.count("tool_start") == kinds.count("tool_end") == 2
        assert kinds.count("text") > 4  # the last reply alone takes a second
        assert (events[-1]["kind"], events[-1]["status"]) == ("end", "done")
        for position in range(0, len(events) - 1, 3):
            headers = {"last-event-id": events[position]["id"]}
            async with client.stream("GET", events_at, headers=headers) as response:
                rest = await frames(response)
            assert said([*events[: position + 1], *rest]) == said(events)
        last = await client.get(events_at, headers={"last-event-id": events[-1]["id"]})
        assert last.status_code == 204
        state = (await client.get(where)).json()
        assert (state["status"], state["output"]) == ("done", events[-1]["output"])
        assert (await client.get("/runs/nothing")).status_code == 404
        assert (await client.get("/runs/nothing/events")).status_code == 404
        odd = await client.get(events_at, params={"after": "odd"})
        assert (odd.status_code, odd.json()["error"]) == (400, "InvalidInputError")
        assert "EventSource" in (await client.get("/")).text


async def test_a_stream_goes_on_with_the_next_server(tmp_path: Path) -> None:
    """A server is killed while it streams; the next one goes on with the run by itself, and with the stream
    from the last id: all that is saved is told once, in the same order."""
    async with served(tmp_path, "http_stream.py") as (running, client), asyncio.timeout(SECONDS):
        events_at = (await client.post("/runs", json=TEXT)).json()["events"]
        async with client.stream("GET", events_at) as response:
            first = await frames(response, most=5)
        await running.kill()
    async with served(tmp_path, "http_stream.py") as (_, client), asyncio.timeout(SECONDS):
        async with client.stream("GET", events_at, headers={"last-event-id": first[-1]["id"]}) as response:
            rest = await frames(response)
        async with client.stream("GET", events_at) as response:
            late = await frames(response)
    assert rest[-1]["status"] == "done"
    shown = [line for line in said([*first, *rest]) if line[0] not in ("text", "superseded")]
    assert shown == [line for line in said(late) if line[0] != "text"]


async def test_all_that_a_server_left_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server goes on with every run that the one before it left, however many there are."""
    monkeypatch.chdir(tmp_path)  # the agent's own store is here
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in ("agent", "http_stream"):  # another test may have a module of that name
        monkeypatch.delitem(sys.modules, name, raising=False)
    go_on = importlib.import_module("http_stream").go_on
    async with PromptHandler(orm=MemoryAdapter(), model="scripted:echo") as handler, asyncio.timeout(SECONDS):
        left = [await handler.create_run("Hello") for _ in range(101)]
        await go_on(handler)
        for run in left:
            assert (await handler.wait(run.run_id, timeout=SECONDS / 4)).status == "done"
