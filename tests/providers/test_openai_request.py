"""What the provider sends."""

import json
import re
from collections.abc import Iterator

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from pydantic import TypeAdapter

from thoughtgear.errors import ModelRejectedError
from thoughtgear.models import Attachment, Message, ToolCall, ToolResult
from thoughtgear.protocols import ModelRequest, ToolSpec
from thoughtgear.providers.openai import OpenAIProvider
from thoughtgear.providers.openai_request import encode_request

OFFICIAL = TypeAdapter(CompletionCreateParamsStreaming)
TOOL = ToolSpec("read_file", "Read a file.", {"type": "object", "properties": {"path": {"type": "string"}}})
PNG = b"\x89PNG\r\n\x1a\n"


def turn(iteration: int, *arguments: dict | str, reverse: bool = False) -> list[Message]:
    """An assistant's calls and their results."""
    calls = [
        ToolCall(id=f"{iteration}.{n}", name="read_file", arguments=given)
        for n, given in enumerate(arguments)
    ]
    results = [ToolResult(call_id=call.id, name=call.name, content=f"result {call.id}") for call in calls]
    assistant = Message(seq=1, role="assistant", tool_calls=calls)
    tools = [Message(seq=2, role="tool", tool_result=result) for result in results]
    return [assistant, *(reversed(tools) if reverse else tools)]


def user(text: str, *attachments: Attachment) -> Message:
    return Message(seq=0, role="user", text=text, attachments=list(attachments))


def attached(name: str, media_type: str) -> Attachment:
    return Attachment(name=name, media_type=media_type, size=1, sha256=name)


def assistant(text: str) -> Message:
    return Message(seq=9, role="assistant", text=text)


def sent(*messages: Message, **more) -> dict:
    return json.loads(encode_request("m", ModelRequest("", messages, **more)))


def listed(value):
    """The official types read lists lazily: read them all."""
    if isinstance(value, dict):
        return {key: listed(item) for key, item in value.items()}
    return [listed(item) for item in value] if isinstance(value, list | Iterator) else value


CONVERSATION = [
    user(
        "Look.",
        attached("a.txt", "text/plain"),
        attached("b.json", "application/json"),
        attached("c", "image/png"),
    ),
    *turn(1, {"path": "a"}, {"path": "b"}, '{"path": ', reverse=True),
    assistant("Done."),
    user("Again."),
    *turn(1, {"path": "c"}),
    assistant("Done again."),
]
FILES = {"a.txt": "Grüße".encode(), "b.json": b"{}", "c": PNG}


def test_the_official_types_accept_what_is_sent():
    """The request type of the `openai` package validates the body, and no field of ours is unknown to it."""
    body = encode_request("m", ModelRequest("Be brief.", CONVERSATION, [TOOL], FILES, {"temperature": 0}))
    checked = OFFICIAL.validate_python(json.loads(body))
    assert listed(checked) == json.loads(body)


def test_results_follow_in_the_order_of_the_calls():
    """Results stand right behind their calls, in their order, whatever that of the transcript is."""
    wire = sent(*CONVERSATION, files=FILES)["messages"]
    ids = [call["id"] for call in wire[1]["tool_calls"]]
    assert [message["tool_call_id"] for message in wire[2:5]] == ids
    assert [message["content"] for message in wire[2:5]] == ["result 1.0", "result 1.1", "result 1.2"]


def test_call_ids_are_unique_and_portable():
    """Ids of ours that repeat across the runs of a conversation become ids that don't."""
    wire = sent(*CONVERSATION, files=FILES)["messages"]
    ids = [call["id"] for message in wire for call in message.get("tool_calls", [])]
    assert len(set(ids)) == len(ids) == 4
    assert all(re.fullmatch("[A-Za-z0-9]{9}", id_) for id_ in ids)
    assert [message["tool_call_id"] for message in wire if message["role"] == "tool"] == ids


@pytest.mark.parametrize("length", range(1, len(CONVERSATION)))
def test_a_conversation_begins_with_the_bytes_of_its_beginning(length):
    """What was sent before is a prefix of what is sent now: the provider's prompt cache holds."""
    if CONVERSATION[length].role == "tool":
        length += 3
    before = sent(*CONVERSATION[:length], files=FILES)["messages"]
    assert sent(*CONVERSATION, files=FILES)["messages"][: len(before)] == before


@pytest.mark.parametrize("arguments", ['{"path": ', "", "[1]", '"text"', {"n": float("nan")}])
def test_arguments_are_always_an_object(arguments):
    """Arguments that are no JSON object are wrapped into one, so that no server refuses the conversation."""
    call = sent(user("hi"), *turn(1, arguments))["messages"][1]["tool_calls"][0]
    (text,) = json.loads(call["function"]["arguments"]).values()
    assert text == (arguments if isinstance(arguments, str) else '{"n": NaN}')


@pytest.mark.parametrize(("name", "wire"), [("a.b c/ü", "a_b_c__"), ("", "unnamed"), ("x" * 99, "x" * 64)])
def test_a_name_that_the_model_invented_is_made_safe(name, wire):
    """A call of a tool that can't exist doesn't make the conversation unacceptable."""
    calls = [ToolCall(id="1.0", name=name)]
    result = Message(seq=2, role="tool", tool_result=ToolResult(call_id="1.0", name=name))
    body = sent(user("hi"), Message(seq=1, role="assistant", tool_calls=calls), result)
    assert body["messages"][1]["tool_calls"][0]["function"]["name"] == wire


def test_a_result_without_content_says_how_it_ended():
    """An unknown outcome reaches the model also when there is no text for it."""
    calls = [ToolCall(id="1.0", name="pay")]
    result = ToolResult(call_id="1.0", name="pay", status="unknown")
    messages = [
        Message(seq=1, role="assistant", tool_calls=calls),
        Message(seq=2, role="tool", tool_result=result),
    ]
    assert sent(user("hi"), *messages)["messages"][2]["content"] == "unknown"


def test_files_are_sent_with_the_prompt():
    """Text files go as text with their name, images as data URLs."""
    first, *parts = sent(*CONVERSATION, files=FILES)["messages"][0]["content"]
    assert first["text"] == "Look."
    assert parts[0]["text"] == '<file name="a.txt">\nGrüße\n</file>'
    assert parts[1]["text"] == '<file name="b.json">\n{}\n</file>'
    assert parts[2]["image_url"]["url"] == "data:image/png;base64,iVBORw0KGgo="


def test_a_pdf_goes_to_openai_itself():
    """Its endpoint takes PDF as a file, as the official types validate it; of others nobody knows, and the
    error says where it goes."""
    request = ModelRequest(
        "", [user("Look.", attached("d.pdf", "application/pdf"))], files={"d.pdf": b"%PDF-1.7"}
    )
    official = OpenAIProvider("m", api_key="k", base_url="https://api.openai.com/v1", api="chat")
    path, content = official._encode(request)
    body = json.loads(content)
    assert (path, listed(OFFICIAL.validate_python(body))) == ("/chat/completions", body)
    file = {"filename": "d.pdf", "file_data": "data:application/pdf;base64,JVBERi0xLjc="}
    assert body["messages"][0]["content"][1] == {"type": "file", "file": file}
    with pytest.raises(ModelRejectedError, match=r"PDF goes to OpenAI's own address, or by api="):
        OpenAIProvider("m", base_url="http://127.0.0.1:1/v1")._encode(request)


@pytest.mark.parametrize(
    ("media_type", "data", "match"),
    [
        ("application/pdf", b"%PDF", "is application/pdf; this provider takes"),
        ("text/plain", b"\xff\xfe\x00", "not UTF-8; this provider takes"),
        ("my secret words", b"", "of an unknown type; this provider takes"),
        ("text/plain", None, "not in the store"),
    ],
)
def test_files_that_can_not_be_sent_are_rejected(media_type, data, match):
    """The error says what the provider takes, and names no file."""
    files = {} if data is None else {"secret.bin": data}
    with pytest.raises(ModelRejectedError, match=match) as caught:
        sent(user("hi", attached("secret.bin", media_type)), files=files)
    assert "secret" not in str(caught.value)


def test_options_reach_the_body():
    """An option is set as it is; None leaves a field out, for servers that refuse it."""
    body = sent(user("hi"), options={"max_completion_tokens": 5, "stream_options": None, "model": "other"})
    assert (body["max_completion_tokens"], body["model"], body["stream"]) == (5, "other", True)
    assert "stream_options" not in body
    assert "tools" not in body


@pytest.mark.parametrize("options", [{"stream": False}, {"messages": []}, {"n": 2}, {"tools": []}])
def test_options_leave_the_loop_alone(options):
    """What the loop depends on can't be set by an option."""
    with pytest.raises(ModelRejectedError, match=f"may not set {next(iter(options))}"):
        sent(user("hi"), options=options)


@pytest.mark.parametrize("value", [float("inf"), object(), {1, 2}])
def test_options_are_json(value):
    """An option that is no JSON is an error that says so."""
    with pytest.raises(ModelRejectedError, match="A model option is not JSON"):
        sent(user("hi"), options={"temperature": value})


def test_any_text_can_be_sent():
    """A lone surrogate has no UTF-8 form and is replaced; everything else stays."""
    assert sent(user("a\ud800\U0001f40b\u2028"))["messages"][0]["content"] == "a?\U0001f40b\u2028"


def test_a_call_without_a_result_is_not_sent():
    """An incomplete turn is refused here: a provider would refuse it, too."""
    with pytest.raises(ModelRejectedError, match=r"no result for call 1\.0"):
        sent(user("hi"), turn(1, {})[0])
