"""What the provider sends to the Messages API."""

import json
import re

import pytest
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from conversations import (
    CONVERSATION,
    FILES,
    PNG,
    TOOL,
    asked,
    assistant,
    attached,
    listed,
    reasoned,
    turn,
    user,
)
from pydantic import TypeAdapter

from thoughtgear.errors import ModelRejectedError
from thoughtgear.protocols import ModelRequest
from thoughtgear.providers.anthropic_request import encode_request

OFFICIAL = TypeAdapter(MessageCreateParamsStreaming)
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
HIDDEN = {"type": "redacted_thinking", "data": "ZGF0YQ=="}


def sent(*messages, cache=None, **more) -> dict:
    return json.loads(encode_request("m", asked(*messages, **more), cache=cache))


def unmarked(value):
    if isinstance(value, dict):
        return {key: unmarked(item) for key, item in value.items() if key != "cache_control"}
    return [unmarked(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("cache", [None, "5m", "1h"])
@pytest.mark.parametrize("choice", ["auto", "none", "required", "read_file", {"type": "any"}])
def test_the_official_types_accept_what_is_sent(cache, choice):
    """The request type of the `anthropic` package validates the body, and no field is unknown to it."""
    thinking = turn(3, {}, native=reasoned("anthropic", "m", THOUGHT, HIDDEN))
    options = {
        "stop_sequences": ["END"],
        "tool_choice": choice,
        "thinking": {"type": "enabled", "budget_tokens": 2000},
    }
    request = asked(*CONVERSATION, *thinking, context="Be brief.", **options)
    body = json.loads(encode_request("m", request, cache=cache))
    assert listed(OFFICIAL.validate_python(body)) == body


def test_roles_alternate_and_results_come_first():
    """What calls gave and what the user says behind it is one message, the results first, in the order of
    their calls; nothing in it is blank."""
    wire = sent(*CONVERSATION)["messages"]
    assert [message["role"] for message in wire] == ["user", "assistant"] * 4 + ["user"]
    ids = [block["id"] for block in wire[1]["content"] if block["type"] == "tool_use"]
    assert [block["tool_use_id"] for block in wire[2]["content"]] == ids
    assert [block["type"] for block in wire[6]["content"]] == ["tool_result", "text"]
    assert [block["type"] for block in wire[8]["content"]] == ["tool_result", "text"]
    blocks = [block for message in wire for block in message["content"]]
    assert all(block["text"].strip() for block in blocks if block["type"] == "text")


def test_calls_have_unique_ids_and_objects():
    """Ids are unique and in letters that the API takes; arguments that are no object are wrapped into one."""
    blocks = [block for message in sent(*CONVERSATION)["messages"] for block in message["content"]]
    calls = [block for block in blocks if block["type"] == "tool_use"]
    assert len({call["id"] for call in calls}) == len(calls) == 5
    assert all(re.fullmatch("[A-Za-z0-9_-]+", call["id"]) for call in calls)
    assert calls[2]["input"] == {"malformed_arguments": '{"path": '}


def test_a_result_says_that_it_failed():
    """An error and an unknown outcome are marked as errors, the latter with a word for its content."""
    results = [b for m in sent(*CONVERSATION)["messages"] for b in m["content"] if b["type"] == "tool_result"]
    assert [block.get("is_error", False) for block in results] == [False, False, False, True, True]
    assert results[-1]["content"] == "unknown"


def test_reasoning_goes_back_where_it_stood():
    """Thinking blocks stand unchanged before the text and the call that followed them."""
    messages = turn(1, {}, text="Ah.", native=reasoned("anthropic", "m", THOUGHT, HIDDEN, text=3))
    blocks = sent(user("Hi."), *messages)["messages"][1]["content"]
    assert blocks[:3] == [THOUGHT, HIDDEN, {"type": "text", "text": "Ah."}]
    assert blocks[3]["type"] == "tool_use"


@pytest.mark.parametrize(("provider", "model"), [("gemini", "m"), ("anthropic", "another")])
def test_the_reasoning_of_others_is_left_out(provider, model):
    """What another provider or model reasoned is not sent, text and calls are, and no reasoning is asked for
    in the middle of that turn; of the next one it is."""
    messages = [user("Hi."), *turn(1, {}, text="Ah.", native=reasoned(provider, model, THOUGHT, text=3))]
    thinking = {"type": "enabled", "budget_tokens": 2000}
    body = sent(*messages, thinking=thinking)
    assert [block["type"] for block in body["messages"][1]["content"]] == ["text", "tool_use"]
    assert "thinking" not in body
    assert sent(*messages, user("Go on."), thinking=thinking)["thinking"] == thinking
    assert sent(*messages, assistant("x"), user("Go on."), thinking=thinking)["thinking"] == thinking


def test_a_number_of_tokens_is_always_asked_for():
    """The API wants max_tokens: there is a default, a budget of reasoning comes on top, an option wins."""
    assert sent(user("Hi."))["max_tokens"] == 16_384
    assert sent(user("Hi."), thinking={"type": "enabled", "budget_tokens": 5000})["max_tokens"] == 21_384
    assert sent(user("Hi."), max_tokens=5)["max_tokens"] == 5


@pytest.mark.parametrize("length", range(1, len(CONVERSATION)))
def test_a_conversation_begins_with_its_beginning(length):
    """What was sent before is, but for the marks, a prefix of what is sent now: the prompt cache holds."""
    while CONVERSATION[length].role == "tool":
        length += 1
    before, now = (
        unmarked(sent(*part, cache="5m"))["messages"] for part in (CONVERSATION[:length], CONVERSATION)
    )
    flat = [[(m["role"], block) for m in wire for block in m["content"]] for wire in (before, now)]
    assert flat[1][: len(flat[0])] == flat[0]


@pytest.mark.parametrize("context", ["", "Be brief."])
def test_the_prompt_cache_has_its_marks(context):
    """The context (or the last tool) and the ends of the user's last two messages are marked, no other."""
    body = sent(*CONVERSATION, cache="1h", context=context)
    marked = [*(body["system"] if context else body["tools"])]
    marked += [message["content"][-1] for message in body["messages"] if message["role"] == "user"][-2:]
    assert all(block["cache_control"] == {"type": "ephemeral", "ttl": "1h"} for block in marked)
    assert json.dumps(body).count("cache_control") == len(marked) == 3
    assert "cache_control" not in json.dumps(sent(*CONVERSATION, context=context))


def test_a_forced_call_is_forced_once():
    """A tool_choice that forces a call is taken back once the model has called something, until the next
    prompt; without tools nothing is said."""
    assert sent(user("Hi."), tool_choice="required")["tool_choice"] == {"type": "any"}
    assert sent(user("Hi."), tool_choice="read_file")["tool_choice"] == {"type": "tool", "name": "read_file"}
    assert sent(user("Hi."), *turn(1, {}), tool_choice="required")["tool_choice"] == {"type": "auto"}
    assert "tool_choice" not in sent(user("Hi."), tools=(), tool_choice="required")
    with pytest.raises(ModelRejectedError, match="tool's name"):
        sent(user("Hi."), tool_choice="absent")


def test_files_are_sent_with_the_prompt():
    """Texts go with their name, images and PDF as base64."""
    _, text, image, pdf = sent(CONVERSATION[0])["messages"][0]["content"]
    assert text["text"] == '<file name="a.txt">\nGrüße\n</file>'
    assert image["source"] == {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    assert (pdf["type"], pdf["title"], pdf["source"]["media_type"]) == (
        "document",
        "d.pdf",
        "application/pdf",
    )


def test_files_that_can_not_be_sent_are_rejected():
    """The error says what the provider takes, and names no file."""
    with pytest.raises(ModelRejectedError, match=r"is audio/wav; this provider takes .* PDF") as caught:
        sent(user("Hi.", attached("secret", "audio/wav")), files={"secret": PNG})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("option", ["messages", "stream", "system", "tools"])
def test_options_leave_the_loop_alone(option):
    """What the loop depends on can't be set by an option; other options reach the body as they are."""
    with pytest.raises(ModelRejectedError, match=f"may not set {option}"):
        encode_request("m", ModelRequest("", [user("Hi.")], [TOOL], FILES, {option: []}))
    assert sent(user("Hi."), top_k=3, metadata={"user_id": "u"})["metadata"] == {"user_id": "u"}
