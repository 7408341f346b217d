"""What is sent to the Responses API, and what is read of its streams."""

import json

import openai
import pytest
from conversations import CONVERSATION, asked, attached, listed, reasoned, turn, user
from dialects import responses_events
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from pydantic import TypeAdapter
from replay_server import named_events, plain, replay, stream

from thoughtgear.errors import ModelRejectedError, ModelUnavailableError
from thoughtgear.models import ReplyPart, Usage
from thoughtgear.protocols import RequestedCall
from thoughtgear.providers.openai import OpenAIProvider
from thoughtgear.providers.responses_request import encode_request

OFFICIAL = TypeAdapter(ResponseCreateParamsStreaming)
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "c2VjcmV0"}


def sent(*messages, model="m", **more) -> dict:
    return json.loads(encode_request(model, asked(*messages, **more)))


@pytest.mark.parametrize(
    "choice", ["auto", "none", "required", "read_file", {"type": "function", "name": "x"}]
)
@pytest.mark.parametrize("model", ["gpt-4o", "gpt-5.1"])
def test_the_official_types_accept_what_is_sent(model, choice):
    """The request type of the `openai` package validates the body, and no field is unknown to it."""
    thinking = turn(3, {}, text="So.", native=reasoned("openai", model, THOUGHT, text=3))
    options = {"reasoning": {"effort": "low"}, "max_output_tokens": 9, "tool_choice": choice}
    body = sent(*CONVERSATION, *thinking, model=model, context="Be brief.", **options)
    assert listed(OFFICIAL.validate_python(body)) == body
    assert body["store"] is False
    assert ("include" in body) == (model == "gpt-5.1")


def test_reasoning_goes_back_where_it_stood():
    """A reasoning item stands unchanged before the text and the call that followed it; that of another model
    doesn't."""
    messages = [user("Hi."), *turn(1, {}, text="So.", native=reasoned("openai", "m", THOUGHT, text=3))]
    items = sent(*messages)["input"]
    assert items[1] == THOUGHT
    assert items[2] == {"role": "assistant", "content": "So."}
    assert [items[3]["type"], items[4]["type"]] == ["function_call", "function_call_output"]
    assert items[3]["call_id"] == items[4]["call_id"]
    assert "rs_1" not in json.dumps(sent(*messages, model="another"))


def test_files_are_sent_with_the_prompt():
    """Images and PDF go as data URLs; what isn't taken is refused."""
    parts = sent(CONVERSATION[0])["input"][0]["content"]
    assert [part["type"] for part in parts] == ["input_text", "input_text", "input_image", "input_file"]
    assert parts[3]["filename"] == "d.pdf"
    assert parts[3]["file_data"].startswith("data:application/pdf;base64,")
    with pytest.raises(ModelRejectedError, match="is audio/wav; this provider takes"):
        sent(user("Hi.", attached("c", "audio/wav")))


@pytest.mark.parametrize("option", ["input", "instructions", "previous_response_id", "stream"])
def test_options_leave_the_loop_alone(option):
    """What the loop depends on can't be set by an option."""
    with pytest.raises(ModelRejectedError, match=f"may not set {option}"):
        sent(user("Hi."), **{option: "x"})


TEXT = "Grüße,\u2028Wal \U0001f40b"
CALLS = [("read_file", '{"path": "a.txt"}'), ("list", "{}")]
EVENTS = responses_events(["Grüße,\u2028", "Wal \U0001f40b"], CALLS, "completed")
DONE = {"output_index": 9, "sequence_number": 1}
REASONED = [
    {"type": "response.output_item.added", **DONE, "item": {**THOUGHT, "encrypted_content": None}},
    {"type": "response.output_item.done", **DONE, "item": {**THOUGHT, "status": None}},
]
RECORDED = named_events(EVENTS[0], *REASONED, *EVENTS[1:])
USAGE = Usage(input_tokens=20, cached_tokens=16, output_tokens=9, reasoning_tokens=4)


async def ask_server(answer, ask):
    async with replay(answer) as server:
        provider = OpenAIProvider("m", base_url=server.base_url, api="responses")
        try:
            return await ask(provider, "hi")
        finally:
            await provider.aclose()


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.long)])
async def test_a_reply_is_the_same_wherever_the_network_cuts_it(ask, step):
    """Text, calls, reasoning and usage are the same for a stream that is cut at any byte."""
    cut = 0

    async def answer(reader, writer) -> None:
        await stream(*filter(None, (RECORDED[:cut], RECORDED[cut:])))(reader, writer)

    async with replay(answer) as server:
        provider = OpenAIProvider("m", base_url=server.base_url, api="responses", keep_alive=True)
        for cut in range(0, len(RECORDED), step):  # noqa: B007  the server reads it
            reply, pieces = await ask(provider, "hi")
            assert "".join(pieces) == reply.text == TEXT
            assert list(reply.calls) == [RequestedCall(*call) for call in CALLS]
            kept = [
                ReplyPart(own=THOUGHT),
                ReplyPart(letters=len(TEXT)),
                ReplyPart(call=0),
                ReplyPart(call=1),
            ]
            assert reply.native.parts == kept
            assert (reply.usage, reply.stop_reason, reply.request_id) == (USAGE, "tool_calls", "req_7")
        assert server.connections == 1
        await provider.aclose()


async def test_the_official_client_reads_the_same(ask):
    """The `openai` package reads the same text, calls and usage from the stream."""
    async with replay(stream(named_events(*EVENTS))) as server:
        provider = OpenAIProvider("m", base_url=server.base_url, api="responses")
        reply, _ = await ask(provider, "hi")
        await provider.aclose()
        async with (
            openai.AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client,
            client.responses.stream(model="m", input="hi") as theirs,
        ):
            response = await theirs.get_final_response()
    assert response.output_text == reply.text
    called = [item for item in response.output if item.type == "function_call"]
    assert [(c.name, c.arguments) for c in called] == [(c.name, c.arguments) for c in reply.calls]
    assert response.usage.output_tokens_details.reasoning_tokens == reply.usage.reasoning_tokens


async def test_a_response_that_is_not_streamed_is_understood(ask):
    """A gateway that ignores `stream`, or sends whole items alone, gives the same reply."""
    whole = {**EVENTS[-1]["response"]}
    items = [event for event in EVENTS if not event["type"].endswith((".delta", ".added"))]
    for answer in (plain(200, json.dumps(whole).encode()), stream(named_events(*items))):
        reply, pieces = await ask_server(answer, ask)
        assert (reply.text, pieces, reply.usage) == (TEXT, [TEXT], USAGE)
        assert list(reply.calls) == [RequestedCall(*call) for call in CALLS]


@pytest.mark.parametrize(
    ("code", "error"),
    [("server_error", ModelUnavailableError), ("rate_limit_exceeded", ModelUnavailableError)]
    + [("invalid_prompt", ModelRejectedError), (None, ModelUnavailableError)],
)
async def test_a_response_that_failed_is_an_error(ask, code, error):
    """A response may fail in its last event; its code decides whether to try again."""
    failed = {"error": code and {"code": code, "message": "SECRET"}, "status": "failed"}
    body = named_events(*EVENTS[:4], {"type": "response.failed", "response": failed, "sequence_number": 5})
    with pytest.raises(error, match=code or "error in the stream") as caught:
        await ask_server(stream(body), ask)
    assert "SECRET" not in str(caught.value)
    assert caught.value.begun


async def test_a_refusal_is_the_answer(ask):
    """A refusal takes the place of the text."""
    at = {"output_index": 0, "content_index": 0, "item_id": "msg_1", "sequence_number": 2}
    refusal = {"type": "response.refusal.delta", **at, "delta": "No."}
    reply, pieces = await ask_server(stream(named_events(EVENTS[0], refusal, EVENTS[-1])), ask)
    assert (reply.text, pieces) == ("No.", ["No."])
