"""The Messages API's streams, as they were recorded and as they may break."""

import json

import anthropic
import pytest
from dialects import ANTHROPIC
from replay_server import named_events, plain, replay, stream

from thoughtgear.models import ReplyPart, Usage
from thoughtgear.protocols import RequestedCall
from thoughtgear.providers.anthropic import AnthropicProvider


def opened(index: int, **block) -> dict:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, kind: str, **more) -> dict:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **more}}


def closed(index: int) -> dict:
    return {"type": "content_block_stop", "index": index}


START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m-1",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 100,
            "cache_read_input_tokens": 2000,
            "output_tokens": 1,
        },
    },
}
END = {
    "type": "message_delta",
    "delta": {"stop_reason": "tool_use", "stop_sequence": None},
    "usage": {"output_tokens": 89, "output_tokens_details": {"thinking_tokens": 12}},
}
STOP = {"type": "message_stop"}
CALLS = [
    opened(3, type="tool_use", id="toolu_1", name="read_file", input={}),
    delta(3, "input_json_delta", partial_json=""),
    delta(3, "input_json_delta", partial_json='{"path": "a'),
    delta(3, "input_json_delta", partial_json='.txt"}'),
    closed(3),
    opened(4, type="tool_use", id="toolu_2", name="list", input={}),
    closed(4),
]
RECORDED = named_events(
    START,
    opened(0, type="thinking", thinking="", signature=""),
    {"type": "ping"},
    delta(0, "thinking_delta", thinking="First "),
    delta(0, "thinking_delta", thinking="this."),
    delta(0, "signature_delta", signature="c2lnbmF0dXJl"),
    closed(0),
    opened(1, type="redacted_thinking", data="ZGF0YQ=="),
    closed(1),
    opened(2, type="text", text=""),
    delta(2, "text_delta", text="Grüße,\u2028"),
    delta(2, "text_delta", text="Wal \U0001f40b"),
    closed(2),
    *CALLS,
    END,
    STOP,
)
TEXT = "Grüße,\u2028Wal \U0001f40b"
REQUESTED = [RequestedCall("read_file", '{"path": "a.txt"}'), RequestedCall("list", "{}")]
PARTS = [
    ReplyPart(own={"type": "thinking", "thinking": "First this.", "signature": "c2lnbmF0dXJl"}),
    ReplyPart(own={"type": "redacted_thinking", "data": "ZGF0YQ=="}),
    ReplyPart(letters=len(TEXT)),
    ReplyPart(call=0),
    ReplyPart(call=1),
]
USAGE = Usage(
    input_tokens=2103, cached_tokens=2000, cache_write_tokens=100, output_tokens=89, reasoning_tokens=12
)


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.long)])
async def test_a_reply_is_the_same_wherever_the_network_cuts_it(ask, step):
    """Text, calls, reasoning and usage are the same for a stream that is cut at any byte."""
    cut = 0

    async def answer(reader, writer) -> None:
        await stream(*filter(None, (RECORDED[:cut], RECORDED[cut:])))(reader, writer)

    async with replay(answer) as server:
        provider = AnthropicProvider("m", base_url=server.base_url, keep_alive=True)
        for cut in range(0, len(RECORDED), step):  # noqa: B007  the server reads it
            reply, pieces = await ask(provider, "hi")
            assert "".join(pieces) == reply.text == TEXT
            assert list(reply.calls) == REQUESTED
            assert (reply.native.provider, reply.native.model) == ("anthropic", "m")
            assert reply.native.parts == PARTS
            assert reply.usage == USAGE
            assert (reply.model, reply.stop_reason, reply.request_id) == ("m-1", "tool_calls", "req_7")
        assert server.connections == 1
        await provider.aclose()


async def test_the_official_client_reads_the_same(ask):
    """The `anthropic` package reads the same text, calls, reasoning and usage from the recorded stream."""
    async with replay(stream(RECORDED)) as server:
        provider = AnthropicProvider("m", base_url=server.base_url)
        reply, _ = await ask(provider, "hi")
        await provider.aclose()
        root = server.base_url.removesuffix("/v1")
        hello = [{"role": "user", "content": "hi"}]
        async with (
            anthropic.AsyncAnthropic(base_url=root, api_key="none", max_retries=0) as client,
            client.messages.stream(model="m", max_tokens=9, messages=hello) as theirs,
        ):
            message = await theirs.get_final_message()
    assert "".join(block.text for block in message.content if block.type == "text") == reply.text
    called = [block for block in message.content if block.type == "tool_use"]
    assert [(c.name, c.input) for c in called] == [(c.name, json.loads(c.arguments)) for c in reply.calls]
    reasoning = [block.to_dict() for block in message.content if "thinking" in block.type]
    assert reasoning == [part.own for part in reply.native.parts if part.own]
    assert message.usage.output_tokens == reply.usage.output_tokens
    assert message.usage.cache_read_input_tokens == reply.usage.cached_tokens
    assert message.usage.output_tokens_details.thinking_tokens == reply.usage.reasoning_tokens


async def test_an_answer_that_is_not_streamed_is_understood(ask):
    """A gateway that ignores `stream` gives the same reply."""
    content = [
        {"type": "thinking", "thinking": "First this.", "signature": "c2lnbmF0dXJl"},
        {"type": "redacted_thinking", "data": "ZGF0YQ=="},
        {"type": "text", "text": TEXT},
        {"type": "tool_use", "id": "toolu_1", "name": "read_file", "input": {"path": "a.txt"}},
        {"type": "tool_use", "id": "toolu_2", "name": "list", "input": {}},
    ]
    message = {**START["message"], "content": content, "stop_reason": "tool_use"}
    message["usage"] = {**message["usage"], **END["usage"]}
    async with replay(plain(200, json.dumps(message).encode())) as server:
        provider = AnthropicProvider("m", base_url=server.base_url)
        reply, pieces = await ask(provider, "hi")
        await provider.aclose()
    assert (reply.text, pieces, list(reply.calls)) == (TEXT, [TEXT], REQUESTED)
    assert (reply.native.parts, reply.usage) == (PARTS, USAGE)


async def test_what_is_new_to_it_is_skipped(ask):
    """Events, blocks and deltas of unknown types, and tools of the server's own, do no harm."""
    body = named_events(
        START,
        {"type": "something_new", "index": 0},
        opened(0, type="server_tool_use", id="srv_1", name="web_search", input={}),
        delta(0, "input_json_delta", partial_json="{}"),
        closed(0),
        opened(1, type="text", text="So"),
        delta(1, "text_delta", text=" it is."),
        delta(1, "citations_delta", citation={}),
        delta(1, "new_delta", text="no"),
        delta(7, "text_delta", text="no"),
        closed(1),
        {**END, "delta": {"stop_reason": "pause_turn"}},
        STOP,
    )
    async with replay(stream(body)) as server:
        provider = AnthropicProvider("m", base_url=server.base_url)
        reply, _ = await ask(provider, "hi")
        await provider.aclose()
    assert (reply.text, reply.stop_reason, list(reply.calls), reply.native) == (
        "So it is.",
        "pause_turn",
        [],
        None,
    )


async def test_the_key_and_the_version_go_into_headers(ask):
    """The API wants its version and the key in headers of their own; a base_url with /v1 is taken as one."""
    for suffix in ("", "/"):
        async with replay(stream(ANTHROPIC.text("ok"))) as server:
            root = server.base_url.removesuffix("/v1")
            for base_url in (root + suffix, server.base_url + suffix):
                provider = AnthropicProvider("m", base_url=base_url, api_key="sk-ant-x")
                await ask(provider, "hi")
                await provider.aclose()
        assert {(h["x-api-key"], h["anthropic-version"]) for h in server.headers} == {
            ("sk-ant-x", "2023-06-01")
        }
        assert server.paths == ["/v1/messages"] * 2
