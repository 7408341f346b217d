"""A transcript that one provider wrote is sent to another: the provider may change in the middle of a run."""

import json
from itertools import pairwise, permutations, product

import boto3
import pytest
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from botocore.validate import ParamValidator
from conversations import CONVERSATION, asked, listed, turn, user
from dialects import ANTHROPIC, BEDROCK, GEMINI, OPENAI, RESPONSES
from google.genai import types
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from pydantic import TypeAdapter
from replay_server import replay, stream

from thoughtgear.handler import PromptHandler
from thoughtgear.models import Message, Native, ReplyPart
from thoughtgear.protocols import ModelRequest
from thoughtgear.providers import (
    anthropic_request,
    bedrock_request,
    gemini_request,
    openai_request,
    responses_request,
)
from thoughtgear.tools import tool

RESPONSES_TYPE = TypeAdapter(ResponseCreateParamsStreaming)
OPENAI_TYPE = TypeAdapter(CompletionCreateParamsStreaming)
ANTHROPIC_TYPE = TypeAdapter(MessageCreateParamsStreaming)
SHAPE = (
    boto3.Session(region_name="us-east-1")
    .client("bedrock-runtime")
    .meta.service_model.operation_model("ConverseStream")
    .input_shape
)
MARK = "c2VjcmV0"
NATIVE = {
    "chat": None,
    "responses": [
        ReplyPart(own={"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": MARK}),
        ReplyPart(letters=5),
        ReplyPart(call=0),
    ],
    "anthropic": [
        ReplyPart(own={"type": "thinking", "thinking": "Hm.", "signature": MARK}),
        ReplyPart(letters=5),
        ReplyPart(call=0),
    ],
    "bedrock": [
        ReplyPart(own={"reasoningText": {"text": "Hm.", "signature": MARK}}),
        ReplyPart(letters=5),
        ReplyPart(call=0),
    ],
    "gemini": [ReplyPart(letters=5), ReplyPart(call=0, own={"thoughtSignature": MARK, "id": f"fc_{MARK}"})],
}


def check_openai(body: dict) -> None:
    assert listed(OPENAI_TYPE.validate_python(body)) == body
    calls = [call["id"] for message in body["messages"] for call in message.get("tool_calls", [])]
    results = [message["tool_call_id"] for message in body["messages"] if message["role"] == "tool"]
    assert sorted(calls) == sorted(results)


def check_anthropic(body: dict) -> None:
    assert listed(ANTHROPIC_TYPE.validate_python(body)) == body
    assert all(one["role"] != other["role"] for one, other in pairwise(body["messages"]))
    blocks = [block for message in body["messages"] for block in message["content"]]
    calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    assert calls == [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]


def check_gemini(body: dict) -> None:
    for content, following in zip(body["contents"], [*body["contents"][1:], {"parts": []}], strict=True):
        made = types.Content.model_validate_json(json.dumps(content))
        assert json.loads(made.model_dump_json(by_alias=True, exclude_none=True)) == content
        calls = [part["functionCall"]["name"] for part in content["parts"] if "functionCall" in part]
        given = [
            part["functionResponse"]["name"] for part in following["parts"] if "functionResponse" in part
        ]
        assert calls == given


def check_bedrock(body: dict) -> None:
    assert ParamValidator().validate(body, SHAPE).generate_report() == ""
    roles = [message["role"] for message in body["messages"]]
    assert all(one != other for one, other in pairwise(roles))
    blocks = [block for message in body["messages"] for block in message["content"]]
    calls = [block["toolUse"]["toolUseId"] for block in blocks if "toolUse" in block]
    assert calls == [block["toolResult"]["toolUseId"] for block in blocks if "toolResult" in block]


def encode_bedrock(model: str, request: ModelRequest) -> bytes:
    arguments = bedrock_request.converse_arguments(model, request)
    assert ParamValidator().validate(arguments, SHAPE).generate_report() == ""
    return json.dumps(arguments, default=lambda value: "").encode()


def check_responses(body: dict) -> None:
    assert listed(RESPONSES_TYPE.validate_python(body)) == body
    calls = [item["call_id"] for item in body["input"] if item.get("type") == "function_call"]
    assert calls == [item["call_id"] for item in body["input"] if item.get("type") == "function_call_output"]


READERS = {
    "responses": (responses_request.encode_request, check_responses),
    "bedrock": (encode_bedrock, check_bedrock),
    "chat": (openai_request.encode_request, check_openai),
    "anthropic": (anthropic_request.encode_request, check_anthropic),
    "gemini": (gemini_request.encode_request, check_gemini),
}


def written(provider: str) -> list[Message]:
    """A conversation with calls, failures and attachments whose last turn this provider began."""
    parts = NATIVE[provider]
    name = {"responses": "openai"}.get(provider, provider)
    native = Native(provider=name, model="gemini-3-m", parts=parts) if parts else None
    return [*CONVERSATION, *turn(5, {"path": "e"}, '{"path": ', text="Look:", native=native)]


@pytest.mark.parametrize(("writer", "reader"), [*product(NATIVE, READERS)])
def test_a_transcript_of_one_is_sent_to_another(writer, reader):
    """The official types of the reader validate what another wrote: texts, calls and results are all there,
    and belong together; what the writer alone can read goes to nobody else, and all of it to the writer."""
    encode, check = READERS[reader]
    messages = written(writer)
    if reader == "chat":  # which takes no PDF
        messages = [user("Look."), *messages[1:]]
    body = json.loads(encode("gemini-3-m", asked(*messages)))
    check(body)
    text = json.dumps(body)
    assert (MARK in text) == (writer == reader and NATIVE[writer] is not None)
    assert all(said in text for said in ("I look.", "Done.", "result 1.2", "no such file", "Well?", "Look:"))
    assert text.count("result 5.") == 2


ALL = [OPENAI, RESPONSES, ANTHROPIC, GEMINI, BEDROCK]


RING = [*pairwise([*ALL, ALL[0]])]
REST = [pytest.param(*pair, marks=pytest.mark.long) for pair in permutations(ALL, 2) if pair not in RING]


@pytest.mark.parametrize(("first", "second"), RING + REST, ids=lambda d: f"{d.name} {d.settings}")
async def test_a_session_goes_on_with_another_provider(tmp_path, first, second):
    """Over HTTP and from a store: one provider calls a tool and answers, another gets the whole conversation
    with its next prompt, and answers."""

    @tool
    def look(path: str) -> str:
        """Look at a file."""
        return f"seen {path}"

    async def ask(dialect, *bodies: bytes):
        answers = iter(bodies)

        async def answer(reader, writer) -> None:
            await stream(next(answers))(reader, writer)

        async with replay(answer) as server:
            model = dialect.make(server.base_url)
            async with PromptHandler(tools=[look], model=model, db=f"sqlite:///{tmp_path}/r.db") as handler:
                state = await handler.handle_prompt(f"Hello {dialect.name}", session_id="s")
            await model.aclose()
        return state, json.dumps(server.bodies[-1])

    call = first.calls(("look", '{"path": "a.txt"}'))
    state, _ = await ask(first, call, first.text("The first is done."))
    assert (state.status, state.output) == ("done", "The first is done.")
    state, sent = await ask(second, second.text("So is the second."))
    assert (state.status, state.output) == ("done", "So is the second.")
    wanted = (
        f"Hello {first.name}",
        "look",
        "a.txt",
        "seen a.txt",
        "The first is done.",
        f"Hello {second.name}",
    )
    assert all(text in sent for text in wanted)
