"""Replies and answers that no model should give."""

from __future__ import annotations

import json
from typing import Any

import httpx
from bad_input import LONG_TEXTS, OBJECTS, STRANGE, VALUES, cases, only_typed
from hypothesis import strategies as st

from thoughtgear import Limits, PromptHandler, tool
from thoughtgear.adapters.memory import MemoryAdapter
from thoughtgear.adapters.records import decode_message, encode
from thoughtgear.errors import ModelError
from thoughtgear.models import Usage
from thoughtgear.protocols import ModelReply, ModelRequest, RequestedCall
from thoughtgear.providers.failures import Failure, http_error, stream_error
from thoughtgear.providers.openai_reply import ReplyBuilder
from thoughtgear.providers.openai_request import encode_request
from thoughtgear.providers.scripted import ScriptedProvider
from thoughtgear.providers.sse import EventReader

MARK = "x-my-secret-x"
LIMITS = Limits(reply_bytes=20_000, tool_calls=5, iterations=4, tool_result_bytes=500)


@tool
async def look(what: str = "", where: Any = None) -> str:
    """Look."""
    return f"seen {what}"


@tool(policy="at_most_once")
def pay(amount: int) -> str:
    """Pay."""
    return "paid"


def _json(value: Any) -> str:
    try:
        return json.dumps(value)
    except ValueError:
        return "1" * 5000
    except RecursionError:
        return "[" * 5000


CALLS = st.builds(
    RequestedCall,
    st.one_of(st.sampled_from(("look", "pay")), LONG_TEXTS),
    st.one_of(
        LONG_TEXTS,
        OBJECTS.map(_json),
        st.sampled_from(
            ('{"amount": 1}', '{"what": "\\ud800"}', '{"where": 1e999}', '{"a":' * 150 + "1" + "}" * 150)
        ),
    ),
    st.booleans(),
)
REPLIES = st.builds(
    ModelReply,
    LONG_TEXTS,
    st.lists(CALLS, max_size=6),
    st.builds(Usage, input_tokens=st.integers(0, 2**53), output_tokens=st.integers(0, 2**53)),
    st.one_of(st.none(), LONG_TEXTS),
    st.one_of(st.none(), LONG_TEXTS),
)


@cases(56, replies=st.lists(REPLIES, min_size=1, max_size=3))
async def test_any_reply_ends_in_a_whole_transcript(replies: list[ModelReply]) -> None:
    """Whatever a model replies, the run ends, every message can be read back, each call has a result, and the
    transcript can be sent to a model again."""
    store = MemoryAdapter()
    model = ScriptedProvider(replies=[*replies, "Done."])
    agent = PromptHandler(orm=store, model=model, tools=[look, pay], limits=LIMITS)
    try:
        ended = await agent.handle_prompt("Look.")
        assert ended.over
        messages = await store.get_history(ended.run_id)
        assert [message.seq for message in messages] == list(range(ended.message_count))
        assert [decode_message(encode(message)) for message in messages] == messages
        asked = [call.id for message in messages for call in message.tool_calls]
        told = [message.tool_result.call_id for message in messages if message.tool_result]
        assert sorted(asked) == sorted(told)
        encode_request("m", ModelRequest("", messages, tools=[look.spec()]))
    finally:
        await agent.aclose()


CHUNKS = st.one_of(
    STRANGE,
    st.builds(
        lambda choice, more: {"object": "chat.completion.chunk", "choices": [choice], **more},
        st.one_of(
            VALUES,
            st.builds(
                lambda delta, reason: {"index": 0, "delta": delta, "finish_reason": reason},
                st.one_of(
                    VALUES,
                    st.dictionaries(
                        st.sampled_from(("content", "tool_calls", "role", "refusal", "function_call")),
                        st.one_of(
                            VALUES,
                            st.lists(
                                st.dictionaries(
                                    st.sampled_from(("index", "id", "type", "function")),
                                    st.one_of(
                                        VALUES,
                                        st.dictionaries(
                                            st.sampled_from(("name", "arguments")), VALUES, max_size=2
                                        ),
                                    ),
                                    max_size=4,
                                ),
                                max_size=2,
                            ),
                        ),
                        max_size=3,
                    ),
                ),
                st.one_of(st.sampled_from(("stop", "length", "tool_calls", None)), VALUES),
            ),
        ),
        st.dictionaries(st.sampled_from(("usage", "model", "id", "choices", "object")), VALUES, max_size=3),
    ),
    st.dictionaries(st.sampled_from(("choices", "usage", "model", "id")), VALUES, max_size=3),
).filter(lambda chunk: isinstance(chunk, dict))


@cases(56, chunks=st.lists(CHUNKS, max_size=4))
def test_any_answer_builds_a_reply_of_the_right_types(chunks: list[dict[str, Any]]) -> None:
    """Chunks of any shape build a reply of texts and counts."""
    with only_typed():
        builder = ReplyBuilder()
        for chunk in chunks:
            builder.add(chunk)
        reply = builder.build("m", None)
        assert isinstance(reply.text, str)
        assert all(isinstance(call.name + call.arguments, str) for call in reply.calls)
        assert 0 <= reply.usage.input_tokens < 2**53
        assert reply.model is None or isinstance(reply.model, str)


@cases(
    26,
    data=st.lists(
        st.one_of(
            st.binary(max_size=30), st.sampled_from((b"data: {}\n\n", b"event: e\r", b"data\r\n", b":\n"))
        ),
        max_size=8,
    ),
)
def test_any_stream_is_cut_into_events(data: list[bytes]) -> None:
    """Any bytes, cut anywhere, give the same events as the whole."""

    def events(chunks: list[bytes]) -> list[Any]:
        reader = EventReader(1000)
        return [event for chunk in chunks for event in reader.feed(chunk)] + list(reader.finish())

    assert events(data) == events([b"".join(data)])


HEADERS = st.dictionaries(
    st.sampled_from(("retry-after", "retry-after-ms", "x-request-id", "request-id")),
    st.one_of(
        st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")), max_size=30),
        st.sampled_from(
            (
                "1e999",
                "nan",
                "-1",
                "Wed, 99 Oct 2025 99:99:99 GMT",
                "Mon, 01 Jan 0001 00:00:00 +2400",
                "9" * 400,
            )
        ),
    ),
    max_size=3,
)


@cases(
    26,
    status=st.integers(100, 999),
    headers=HEADERS,
    body=st.one_of(
        STRANGE,
        st.builds(lambda e: {"error": e}, VALUES),
        st.builds(
            lambda k, v: {"error": {k: v}},
            st.sampled_from(("code", "type", "message")),
            st.one_of(VALUES, st.just(MARK + " x")),
        ),
    ),
)
def test_any_failure_is_a_model_error(status: int, headers: dict[str, str], body: Any) -> None:
    """An error answer of any shape is a `ModelError` that passes no free text on, with a finite delay."""
    failure = Failure.parse(body) or Failure()
    for error in (
        http_error("m", status, httpx.Headers(headers), failure),
        stream_error("m", headers, failure),
    ):
        assert isinstance(error, ModelError)
        assert MARK + " x" not in str(error)
        assert error.retry_after is None or 0 <= error.retry_after < float("inf")
