"""The streams of generateContent, as they were recorded and as they may break."""

import json

import pytest
from dialects import gemini_chunk
from google import genai
from replay_server import events, plain, replay, stream

from thoughtgear.errors import ModelRejectedError, ModelUnavailableError
from thoughtgear.models import ReplyPart, Usage
from thoughtgear.protocols import RequestedCall
from thoughtgear.providers.gemini import GeminiProvider

COUNTS = {
    "promptTokenCount": 2103,
    "candidatesTokenCount": 20,
    "thoughtsTokenCount": 12,
    "cachedContentTokenCount": 2000,
    "totalTokenCount": 2135,
}
CHUNKS = [
    gemini_chunk({"text": "I should look.", "thought": True}),
    gemini_chunk({"text": "Grüße,\u2028"}),
    gemini_chunk({"text": "Wal \U0001f40b"}),
    gemini_chunk(
        {
            "functionCall": {"name": "read_file", "args": {"path": "a.txt"}, "id": "fc_1"},
            "thoughtSignature": "c2ln",
        }
    ),
    gemini_chunk({"functionCall": {"name": "list", "args": {}}}),
    gemini_chunk({"text": "", "thoughtSignature": "ZW5k"}, reason="STOP", usageMetadata=COUNTS),
]
RECORDED = events(*CHUNKS)
TEXT = "Grüße,\u2028Wal \U0001f40b"
REQUESTED = [RequestedCall("read_file", '{"path": "a.txt"}'), RequestedCall("list", "{}")]
PARTS = [
    ReplyPart(letters=len(TEXT)),
    ReplyPart(call=0, own={"thoughtSignature": "c2ln", "id": "fc_1"}),
    ReplyPart(call=1),
    ReplyPart(own={"thoughtSignature": "ZW5k"}),
]
USAGE = Usage(input_tokens=2103, cached_tokens=2000, output_tokens=32, reasoning_tokens=12)


async def ask_server(answer, ask, **settings):
    async with replay(answer) as server:
        provider = GeminiProvider("m", base_url=server.base_url, **settings)
        try:
            return (await ask(provider, "hi"))[0]
        finally:
            await provider.aclose()


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.long)])
async def test_a_reply_is_the_same_wherever_the_network_cuts_it(ask, step):
    """Text, calls, signatures and usage are the same for a stream that is cut at any byte."""
    cut = 0

    async def answer(reader, writer) -> None:
        await stream(*filter(None, (RECORDED[:cut], RECORDED[cut:])))(reader, writer)

    async with replay(answer) as server:
        provider = GeminiProvider("m", base_url=server.base_url, keep_alive=True)
        for cut in range(0, len(RECORDED), step):  # noqa: B007  the server reads it
            reply, pieces = await ask(provider, "hi")
            assert "".join(pieces) == reply.text == TEXT
            assert list(reply.calls) == REQUESTED
            assert (reply.native.provider, reply.native.model, reply.native.parts) == ("gemini", "m", PARTS)
            assert reply.usage == USAGE
            assert (reply.model, reply.stop_reason, reply.request_id) == ("m-1", "tool_calls", "req_7")
        assert server.connections == 1
        assert set(server.paths) == {"/v1/models/m:streamGenerateContent?alt=sse"}
        await provider.aclose()


async def test_the_official_client_reads_the_same(ask):
    """The `google-genai` package reads the same text, calls and usage from the recorded stream."""
    async with replay(stream(RECORDED)) as server:
        provider = GeminiProvider("m", base_url=server.base_url)
        reply, _ = await ask(provider, "hi")
        await provider.aclose()
        options = genai.types.HttpOptions(base_url=server.base_url.removesuffix("/v1"), api_version="v1")
        async with genai.Client(api_key="none", http_options=options).aio as client:
            theirs = [c async for c in await client.models.generate_content_stream(model="m", contents="hi")]
    parts = [part for chunk in theirs for part in chunk.candidates[0].content.parts or []]
    assert "".join(part.text for part in parts if part.text and not part.thought) == reply.text
    called = [part.function_call for part in parts if part.function_call]
    assert [(c.name, c.args) for c in called] == [(c.name, json.loads(c.arguments)) for c in reply.calls]
    assert [part.thought_signature for part in parts if part.thought_signature] == [b"sig", b"end"]
    counts = theirs[-1].usage_metadata
    assert counts.prompt_token_count == reply.usage.input_tokens
    assert counts.candidates_token_count + counts.thoughts_token_count == reply.usage.output_tokens


@pytest.mark.parametrize("body", [CHUNKS, gemini_chunk({"text": "ok"}, reason="STOP")], ids=["a list", "one"])
async def test_an_answer_that_is_not_streamed_is_understood(ask, body):
    """A gateway that drops `alt=sse` gives a list of chunks, one that doesn't stream a single one."""
    reply = await ask_server(plain(200, json.dumps(body).encode()), ask)
    assert reply.text == (TEXT if isinstance(body, list) else "ok")


async def test_a_prompt_that_is_blocked_is_refused(ask):
    """Feedback that blocks the prompt is a content filter, not a lost reply."""
    body = events({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "modelVersion": "m-1"})
    with pytest.raises(ModelRejectedError, match="content filter"):
        await ask_server(stream(body), ask)


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"])
async def test_a_malformed_call_is_asked_for_again(ask, reason):
    """A reply that ends because the model wrote a call badly is lost, even where it has text."""
    for part in ({"text": "So:"}, {"text": ""}):
        with pytest.raises(ModelUnavailableError, match=f"is broken .{reason.lower()}") as caught:
            await ask_server(stream(events(gemini_chunk(part, reason=reason))), ask)
        assert caught.value.begun


async def test_the_wait_stands_in_the_error(ask):
    """Google asks to wait in the details of the error; a header wins."""
    detail = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s"}
    error = {"code": 429, "message": "SECRET", "status": "RESOURCE_EXHAUSTED", "details": [5, {}, detail]}
    for headers, wait in (({}, 17.5), ({"retry_after": "3"}, 3.0)):
        with pytest.raises(ModelUnavailableError, match="HTTP 429, RESOURCE_EXHAUSTED") as caught:
            await ask_server(plain(429, json.dumps({"error": error}).encode(), **headers), ask)
        assert caught.value.retry_after == wait
    with pytest.raises(ModelUnavailableError, match="RESOURCE_EXHAUSTED"):
        await ask_server(plain(429, json.dumps([{"error": error}]).encode()), ask)


@pytest.mark.parametrize(
    ("name", "path"),
    [("gemini-x", "/v1/models/gemini-x"), ("tunedModels/a b?", "/v1/tunedModels/a%20b%3F")],
)
async def test_the_name_stands_in_the_path(ask, name, path):
    """A model's name is a part of the address, quoted; one with a slash is taken as it is."""
    async with replay(stream(RECORDED)) as server:
        provider = GeminiProvider(name, base_url=server.base_url)
        await ask(provider, "hi")
        await provider.aclose()
    assert server.paths == [f"{path}:streamGenerateContent?alt=sse"]
