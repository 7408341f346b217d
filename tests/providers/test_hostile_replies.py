"""Malformed and hostile replies, over HTTP through the real handler into a real store: a run always ends."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from replay_server import STREAM_HEAD, events, plain, stream
from story import Story

from thoughtgear.providers.openai import OpenAIProvider
from thoughtgear.providers.pieces import MOST_TOKENS
from thoughtgear.replies import NAME_LETTERS

MB = 1024 * 1024
NULL = None


def chunk(delta: Any = NULL, finish: Any = NULL, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **more}


def calls(*functions: Any, finish: str = "tool_calls", ids: Any = NULL) -> bytes:
    """A reply of calls; each function is what the server says of one."""
    deltas = [
        chunk({"tool_calls": [{"index": index, "id": ids or f"c{index}", "function": function}]})
        for index, function in enumerate(functions)
    ]
    return events(*map(json.dumps, deltas), chunk(NULL, finish), "[DONE]")


def look(arguments: Any) -> dict[str, Any]:
    return {"name": "look", "arguments": arguments}


FINE = events(chunk({"content": "Fine."}, "stop"), "[DONE]")
INVALID = "Invalid arguments for look"
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def story(tmp_path: Path, quick: None) -> Story:
    return Story(tmp_path, lambda url: OpenAIProvider("m", base_url=url))


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (look('{"path": '), INVALID),
        (look("just text"), INVALID),
        (look('["a"]'), INVALID),
        (look(["a"]), INVALID),
        (look(5), INVALID),
        (look({"path": ["a"]}), INVALID),
        (look('{"path": NaN}'), INVALID),
        (look('{"path": ' + "7" * 5000 + "}"), INVALID),
        (look('{"path": "\\ud800"}'), INVALID),
        (look('{"path": ' + DEEP + "}"), INVALID),
        (look('{"path": "' + "x" * 1_000_000), INVALID),
        ({"name": "absent", "arguments": "{}"}, "no tool named 'absent'"),
        ({"name": "", "arguments": "{}"}, "no tool named ''"),
        ({"name": "n" * 1_000_000, "arguments": "{}"}, "no tool named 'nnn"),
        ({"name": "\ud800", "arguments": "{}"}, "no tool named '?'"),
        ({"name": ["look"], "arguments": "{}"}, "no tool named ''"),
        ({"arguments": "{}"}, "no tool named ''"),
        ("look", "no tool named ''"),
        (NULL, "no tool named ''"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_malformed_call_is_a_result_that_the_model_reads(
    story: Story, function: Any, says: str
) -> None:
    """A call that can't be run becomes an error result, nothing is run, and the run goes on to its answer."""
    state, history = await story.run(stream(calls(function)), stream(FINE))
    [result] = [message.tool_result for message in history if message.tool_result]
    assert (state.status, state.output, result.status, story.looked) == ("done", "Fine.", "error", [])
    assert says in result.content
    assert max(len(result.name), *(len(call.name) for call in history[1].tool_calls)) <= NAME_LETTERS


@pytest.mark.parametrize("finish", ["length", "content_filter"])
@pytest.mark.parametrize("half", ["", "{", '{"path": "a.t'])
async def test_half_a_call_is_not_run(story: Story, finish: str, half: str) -> None:
    """A call that the reply's end cuts off is not run, not even where it could be without arguments; at a
    limit of tokens the model reads so, and a content filter ends the run."""
    body = calls(look('{"path": "whole"}'), look(half), finish=finish)
    state, history = await story.run(stream(body), stream(FINE))
    if finish == "content_filter":
        assert (state.status, state.error and state.error.type) == ("failed", "ModelRejectedError")
        assert story.looked == []
    else:
        results = {m.tool_result.call_id: m.tool_result.content for m in history if m.tool_result}
        assert (state.status, story.looked, results["1.0"]) == ("done", ["whole"], "seen")
        assert "before this call was whole" in results["1.1"]


async def test_calls_that_share_an_id_stay_apart(story: Story) -> None:
    """Calls to which the server gives one id are all run, each with its own arguments."""
    paths = [f"{number}.txt" for number in range(10)]
    body = calls(*(look(json.dumps({"path": path})) for path in paths), ids="same")
    state, _ = await story.run(stream(body), stream(FINE))
    assert (state.status, sorted(story.looked)) == ("done", paths)


@pytest.mark.parametrize("text", ["a\x00b", "half a pair \ud83d", "\u2028\u0085\x1b[2J", "\U0001f40b" * 1000])
async def test_any_text_is_an_answer(story: Story, text: str) -> None:
    """Control characters and lone surrogates are stored; what has no UTF-8 form becomes a question mark."""
    body = json.dumps(chunk({"content": text}, "stop"))  # with escapes
    state, _ = await story.run(stream(events(body, "[DONE]")))
    assert (state.status, state.output) == ("done", text.encode(errors="replace").decode())


TOO_MUCH = {
    "10,000 calls": (stream(calls(*[look("{}")] * 10_000)), "more than 1,000 calls"),
    "10,000 calls in one delta": (
        stream(events(chunk({"tool_calls": [{"function": look("{}")}] * 10_000}, "stop"))),
        "more than 1,000 calls",
    ),
    "65 calls": (stream(calls(*[look("{}")] * 65)), r"Limits\(tool_calls=64\)"),
    "arguments of 5 MB": (stream(calls(look('{"path": "' + "x" * 5 * MB + '"}'))), r"Limits\(reply_bytes"),
    "nothing but a content filter": (stream(events(chunk(NULL, "content_filter"))), "content filter"),
    "nothing but a limit": (stream(events(chunk(NULL, "length"))), "limit of tokens before it said anything"),
    "a web page": (plain(200, b"<html>", "text/html"), "no chat completion"),
    "no JSON of a completion": (plain(200, b"[]"), "no chat completion"),
}


@pytest.mark.parametrize("name", TOO_MUCH)
async def test_a_reply_that_no_retry_mends_fails_the_run(story: Story, name: str) -> None:
    """A reply over a limit, or refused, ends the run with the reason, after one request."""
    answer, says = TOO_MUCH[name]
    state, history = await story.run(answer)
    assert state.error is not None
    assert (state.status, state.error.type, story.asked) == ("failed", "ModelRejectedError", 1)
    assert [message.role for message in history] == ["user"]
    assert re.search(says, state.error.message)


LOST = {
    "no choices": stream(events({"choices": [], "usage": NULL}, "[DONE]")),
    "no choices, not streamed": plain(200, b'{"choices": []}'),
    "all null": stream(events({"id": NULL, "model": NULL, "choices": NULL, "usage": NULL}, "[DONE]")),
    "wrong types": stream(
        events(
            *[{"choices": wrong} for wrong in (1, "a", {}, [1], [[]], [NULL])],
            *[chunk(wrong) for wrong in (1, "a", [1])],
            chunk({"content": 5, "tool_calls": {"a": 1}, "refusal": []}),
            chunk({"content": [1, {"text": 5}], "tool_calls": [1, NULL, "a"]}),
            chunk(NULL, {"reason": "stop"}),
            chunk(NULL, NULL, id=5, model=["m"], usage=[1]),
            chunk(index="a"),
        )
    ),
    "no JSON": stream(b"data: {oops\n\n"),
    "deep JSON": stream(f"data: {DEEP}\n\n".encode()),
    "a number of 5,000 digits": stream(b"data: " + b"9" * 5000 + b"\n\n"),
    "a call that is announced": stream(events(chunk(NULL, "tool_calls"), "[DONE]")),
    "cut short": stream(events(chunk({"content": "half"}))),
    "cut off": stream(events(chunk({"content": "half"})), whole=False),
    "an error in the middle": stream(events(chunk({"content": "half"}), {"error": {"code": 502}})),
}


@pytest.mark.parametrize("name", LOST)
async def test_a_lost_reply_is_bought_again_a_number_of_times(story: Story, name: str) -> None:
    """A reply that is none is asked for again, and the run fails when that was so too often in a row."""
    state, history = await story.run(LOST[name], stream(FINE))
    assert (state.status, state.output, state.lost_replies, story.asked) == ("done", "Fine.", 0, 2)
    story.asked = 0
    state, history = await story.run(LOST[name])
    assert state.error is not None
    assert (state.status, state.lost_replies, story.asked) == ("failed", 2, 2)
    assert "limit of 2 lost replies" in state.error.message
    assert [message.role for message in history] == ["user"]


@pytest.mark.parametrize("piece", [b": ping\n\n", events(chunk({"content": "more "}))])
async def test_a_stream_without_end_is_ended_by_time(story: Story, piece: bytes) -> None:
    """A server that goes on sending, be it pings, is hung up on after a while, and not asked for ever."""

    async def drip(reader: Any, writer: Any) -> None:
        writer.write(STREAM_HEAD + b"\r\n")
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)

    state, _ = await story.run(drip, model_seconds=0.1)
    assert (state.status, story.asked) == ("failed", 2)
    assert "lost replies" in (state.error.message if state.error else "")


@dataclass
class Flood:
    """An answer of 50 MB, in pieces; `sent` is what went out before the client hung up."""

    head: bytes
    piece: bytes
    sent: int = 0

    async def __call__(self, reader: Any, writer: Any) -> None:
        writer.write(self.head + b"\r\n")
        while self.sent < 50 * MB:
            writer.write(self.piece)
            await writer.drain()
            self.sent += len(self.piece)
        raise ConnectionResetError


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\n"
ARGUMENTS = events(chunk({"tool_calls": [{"index": 0, "function": look("x" * 5000)}]}))
FLOODS = {
    "without a newline": (STREAM_HEAD, b"data: " + b"x" * 65_530, "an event of the reply has more than"),
    "one event": (STREAM_HEAD, b"data: %s\n" % (b"x" * 4000) * 16, "an event of the reply has more than"),
    "small events": (STREAM_HEAD, events(chunk({"content": "x" * 400})) * 150, r"Limits\(reply_bytes"),
    "arguments": (STREAM_HEAD, ARGUMENTS * 12, "over 33554432 bytes"),
    "pings": (STREAM_HEAD, b": %s\n\n" % (b"x" * 4000) * 16, "over 33554432 bytes"),
    "one answer": (HEAD % b"application/json", b" " * 65_536, "over 8388608 bytes"),
    "a page": (HEAD % b"text/html", b"<p>" * 20_000, "an event of the reply has more than"),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_fifty_megabytes_are_refused_while_they_come(story: Story, name: str) -> None:
    """A reply of 50 MB is hung up on before it is read to the end, and memory stays bounded meanwhile."""
    head, piece, says = FLOODS[name]
    flood = Flood(head, piece)
    tracemalloc.start()
    try:
        state, _ = await story.run(flood)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert state.error is not None
    assert (state.status, state.error.type, story.asked) == ("failed", "ModelRejectedError", 1)
    assert re.search(says, state.error.message)
    assert flood.sent < 40 * MB
    assert peak < 48 * MB


async def test_a_compressed_flood_is_refused(story: Story) -> None:
    """A reply that unpacks to 50 MB is refused as one of 50 MB, and memory stays bounded."""
    packed = gzip.compress(b"x" * 50 * MB)
    answer = plain(200, packed, "text/event-stream", content_encoding="gzip")
    tracemalloc.start()
    try:
        state, _ = await story.run(answer)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (state.status, state.error and state.error.type) == ("failed", "ModelRejectedError")
    assert peak < 200 * MB


async def test_an_error_that_does_not_end_is_an_error(story: Story) -> None:
    """An error's body is read as far as it can help; what counts is the status."""
    flood = Flood(HEAD.replace(b"200 OK", b"401 No") % b"application/json", b"{" * 65_536)
    state, _ = await story.run(flood)
    assert state.error is not None
    assert "HTTP 401; check the API key" in state.error.message
    assert flood.sent < 8 * MB  # which is the buffers' size, and not the client's


async def test_what_follows_the_end_is_not_read(story: Story) -> None:
    """A reply that is whole counts, whatever the server sends after its end."""
    flood = Flood(STREAM_HEAD, FINE * 1000)
    state, _ = await story.run(flood)
    assert (state.status, state.output) == ("done", "Fine.")


@pytest.mark.parametrize(
    ("counts", "tokens"),
    [
        ({"prompt_tokens": -5, "completion_tokens": -1}, 0),
        ({"prompt_tokens": "many", "completion_tokens": [1]}, 0),
        ({"prompt_tokens": NULL, "prompt_tokens_details": 5, "completion_tokens_details": [1]}, 0),
        ({"prompt_tokens": 7.0, "completion_tokens": 2}, 9),
        ({"prompt_tokens": 1e300}, MOST_TOKENS),
        ({"prompt_tokens": 10**400}, MOST_TOKENS),
        ({"completion_tokens": float("inf")}, MOST_TOKENS),
        ({"completion_tokens": float("nan")}, 0),
        ("many", 0),
    ],
)
async def test_nonsense_counts_do_no_harm(story: Story, counts: Any, tokens: int) -> None:
    """Counts that are negative, of wrong types or endless are stored as numbers that every store can hold; a
    run that has used too many ends by its limit."""
    body = calls(look("{}")).removesuffix(b"data: [DONE]\n\n")
    state, history = await story.run(stream(body, events(chunk(usage=counts), "[DONE]")), stream(FINE))
    assert history[1].usage is not None
    assert history[1].usage.total_tokens == state.usage.total_tokens == tokens
    assert state.status == ("failed" if tokens == MOST_TOKENS else "done")
    assert not state.error or "limit of 2e+06 tokens" in state.error.message
