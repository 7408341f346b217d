"""Malformed and hostile replies of every provider, through the real handler into a real store: a run ends."""

from __future__ import annotations

import json
import random
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from dialects import DIALECTS, OVER_HTTPX, Dialect
from replay_server import STREAM_HEAD, events, stream
from story import Story

MB = 1024 * 1024
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.name)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return request.param


@pytest.fixture
def story(tmp_path: Path, quick: None, dialect: Dialect) -> Story:
    return Story(tmp_path, dialect.make)


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("look", '{"path": ', "Invalid arguments for look"),
        ("look", "just text", "Invalid arguments for look"),
        ("look", '["a"]', "Invalid arguments for look"),
        ("look", "5", "Invalid arguments for look"),
        ("look", '{"path": ["a"]}', "Invalid arguments for look"),
        ("look", '{"path": NaN}', "Invalid arguments for look"),
        ("look", '{"path": "\\ud800"}', "Invalid arguments for look"),
        ("absent", "{}", "no tool named 'absent'"),
        ("n" * 100_000, "{}", "no tool named 'nnn"),
        ("\ud800", "{}", "no tool named '?'"),
        (["look"], "{}", "no tool named ''"),
        (None, "{}", "no tool named ''"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_a_malformed_call_is_a_result_that_the_model_reads(
    story: Story, dialect: Dialect, name: Any, arguments: str, says: str
) -> None:
    """A call that can't be run becomes an error result, nothing is run, and the run goes on to its answer."""
    body = dialect.calls((name, arguments)).replace(b"\xed\xa0\x80", b"\\ud800")
    state, history = await story.run(stream(body), stream(dialect.text("Fine.")))
    [result] = [message.tool_result for message in history if message.tool_result]
    assert (state.status, state.output, result.status, story.looked) == ("done", "Fine.", "error", [])
    assert says in result.content


async def test_half_a_call_is_not_run(story: Story, dialect: Dialect) -> None:
    """A call that a limit of tokens cut off is not run, the whole one before it is."""
    half = dialect.calls(("look", '{"path": "a"}'), ("look", '{"path": "a.t'), reason=dialect.reasons[2])
    state, history = await story.run(stream(half), stream(dialect.text("Fine.")))
    results = {m.tool_result.call_id: m.tool_result for m in history if m.tool_result}
    assert (state.status, story.looked, results["1.0"].content) == ("done", ["a"], "seen")
    assert results["1.1"].status == "error"


def refused(dialect: Dialect) -> dict[str, tuple[bytes, str]]:
    look = ("look", "{}")
    return {
        "10,000 calls": (dialect.calls(*[look] * 10_000), "more than 1,000 calls"),
        "65 calls": (dialect.calls(*[look] * 65), r"Limits\(tool_calls=64\)"),
        "long arguments": (
            dialect.calls(("look", json.dumps({"path": "x" * 5 * MB}))),
            r"Limits\(reply_bytes",
        ),
        "long text": (dialect.text(*["x" * MB] * 5), r"Limits\(reply_bytes"),
    }


@pytest.mark.parametrize("name", ["10,000 calls", "65 calls", "long arguments", "long text"])
async def test_a_reply_that_no_retry_mends_fails_the_run(story: Story, dialect: Dialect, name: str) -> None:
    """A reply over a limit ends the run with the reason, after one request."""
    body, says = refused(dialect)[name]
    state, history = await story.run(stream(body))
    assert state.error is not None
    assert (state.status, state.error.type, story.asked) == ("failed", "ModelRejectedError", 1)
    assert re.search(says, state.error.message)
    assert [message.role for message in history] == ["user"]


LOST = {
    "no JSON": b"data: {oops\n\n",
    "deep JSON": f"data: {DEEP}\n\n".encode(),
    "a long number": b"data: " + b"9" * 5000 + b"\n\n",
    "nothing": b":\n\n",
}


@pytest.mark.parametrize("name", LOST)
@pytest.mark.parametrize("dialect", OVER_HTTPX, ids=lambda dialect: dialect.name)
async def test_what_is_no_event_is_a_lost_reply(
    tmp_path: Path, quick: None, dialect: Dialect, name: str
) -> None:
    """A reply that can't be read is asked for again."""
    story = Story(tmp_path, dialect.make)
    state, _ = await story.run(stream(LOST[name]), stream(dialect.text("Fine.")))
    assert (state.status, state.output, state.lost_replies, story.asked) == ("done", "Fine.", 0, 2)


@pytest.mark.parametrize("name", ["cut short", "a call that is announced"])
async def test_a_lost_reply_is_bought_again_a_number_of_times(
    story: Story, dialect: Dialect, name: str
) -> None:
    """A reply that is none is asked for again, and then the run is done; it fails after a number of those."""
    body = dialect.text("half", reason="")
    if name == "a call that is announced" and dialect.name != "openai":  # whose reason says nothing of calls
        body = dialect.say(
            (), (), "MALFORMED_FUNCTION_CALL" if dialect.name == "gemini" else dialect.reasons[1]
        )
    state, _ = await story.run(stream(body), stream(dialect.text("Fine.")))
    assert (state.status, state.output, state.lost_replies, story.asked) == ("done", "Fine.", 0, 2)


@pytest.mark.parametrize(
    "dialect",
    [DIALECTS[0], *(pytest.param(each, marks=pytest.mark.long) for each in DIALECTS[1:])],
    ids=lambda dialect: dialect.name,
)
async def test_a_flood_is_refused_while_it_comes(tmp_path: Path, quick: None, dialect: Dialect) -> None:
    """A reply of 50 MB is hung up on before it is read to the end, and memory stays bounded meanwhile."""
    story = Story(tmp_path, dialect.make)
    sent = 0
    piece = dialect.text(*["x" * 100] * 100, reason="")

    async def flood(reader: Any, writer: Any) -> None:
        nonlocal sent
        writer.write(STREAM_HEAD + b"\r\n")
        while sent < 50 * MB:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
        raise ConnectionResetError

    tracemalloc.start()
    try:
        state, _ = await story.run(flood)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (state.status, state.error and state.error.type) == ("failed", "ModelRejectedError")
    assert sent < 40 * MB
    assert peak < 48 * MB


ENDS = ("ModelRejectedError", "LimitExceededError")
WRONG: list[Any] = [None, 5, -1, 1e300, "a", [], {}, [1], {"a": 1}, [None], True, {"type": "text"}, [[]]]


def mutations(value: Any, rng: random.Random) -> Any:
    """The value with something in it replaced by nonsense."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        return {**value, key: mutations(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        index = rng.randrange(len(value))
        return [*value[:index], mutations(value[index], rng), *value[index + 1 :]]
    return rng.choice(WRONG)


@pytest.mark.parametrize("dialect", OVER_HTTPX, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.long) for n in range(1, 9))])
async def test_nonsense_of_wrong_types_ends_a_run(
    tmp_path: Path, quick: None, dialect: Dialect, seed: int
) -> None:
    """Replies in which some value has a wrong type become a result, a lost reply or a refusal: a run always
    ends, whatever stands where."""
    rng = random.Random(seed)
    whole = dialect.say(["So ", "it is."], [("look", '{"path": "a"}')], dialect.reasons[1])
    chunks = [json.loads(line[6:]) for line in whole.decode().splitlines() if line.startswith("data: {")]
    bodies = []
    for _ in range(15):
        mutated = [mutations(chunk, rng) if rng.random() < 0.4 else chunk for chunk in chunks]
        bodies.append(stream(events(*map(json.dumps, mutated))))
    for number, body in enumerate(bodies):
        folder = tmp_path / str(number)
        folder.mkdir()
        state, _ = await Story(folder, dialect.make).run(body, stream(dialect.text("Fine.")))
        assert state.over
        assert state.error is None or state.error.type in ENDS
