"""What the provider sends to generateContent."""

import json

import pytest
from conversations import CONVERSATION, PNG, asked, attached, turn, user
from google.genai import types

from thoughtgear.errors import ModelRejectedError
from thoughtgear.models import Native, ReplyPart
from thoughtgear.providers.gemini_request import UNSIGNED, encode_request

SIGNED = Native(
    provider="gemini",
    model="gemini-3-pro",
    parts=[
        ReplyPart(letters=3),
        ReplyPart(call=0, own={"thoughtSignature": "c2lnbmVk", "id": "fc_1"}),
        ReplyPart(call=1),
    ],
)


def sent(*messages, model="gemini-3-pro", **more) -> dict:
    return json.loads(encode_request(model, asked(*messages, **more)))


def dumped(kind, value) -> dict:
    """The value as the official type has it."""
    made = kind.model_validate_json(json.dumps(value))
    return json.loads(made.model_dump_json(by_alias=True, exclude_none=True))


@pytest.mark.parametrize("choice", ["auto", "none", "required", "read_file", {"mode": "VALIDATED"}])
@pytest.mark.parametrize("model", ["gemini-2.5-flash", "gemini-3-pro"])
def test_the_official_types_accept_what_is_sent(model, choice):
    """The types of the `google-genai` package, which allow no unknown field, validate the whole body."""
    options = {"temperature": 0, "thinkingConfig": {"includeThoughts": True}, "tool_choice": choice}
    messages = [*CONVERSATION, *turn(3, {}, {}, text="So.", native=SIGNED)]
    body = sent(*messages, model=model, context="Be brief.", labels={"a": "b"}, **options)
    for content in body["contents"]:
        assert dumped(types.Content, content) == content
    for name, kind in {
        "systemInstruction": types.Content,
        "generationConfig": types.GenerationConfig,
        "toolConfig": types.ToolConfig,
    }.items():
        assert dumped(kind, body.pop(name))
    [tools] = body.pop("tools")
    assert dumped(types.Tool, tools) == tools
    assert set(body) == {"contents", "labels"}


def test_what_calls_gave_follows_them_in_order():
    """A content of function responses stands right behind the calls, one for each, in their order; errors are
    errors; nothing is blank."""
    contents = sent(*CONVERSATION)["contents"]
    roles = [content["role"] for content in contents]
    assert roles == [
        "user",
        "model",
        "user",
        "model",
        "user",
        "model",
        "user",
        "user",
        "model",
        "user",
        "user",
    ]
    asked_for = [part["functionCall"]["args"] for part in contents[1]["parts"] if "functionCall" in part]
    assert asked_for == [{"path": "a"}, {"path": "b"}, {"malformed_arguments": '{"path": '}]
    given = [part["functionResponse"]["response"] for part in contents[2]["parts"]]
    assert given == [{"output": f"result 1.{n}"} for n in range(3)]
    assert contents[6]["parts"][0]["functionResponse"]["response"] == {"error": "no such file"}
    assert contents[9]["parts"][0]["functionResponse"]["response"] == {"error": "unknown"}
    assert all(part.get("text", "x").strip() for content in contents for part in content["parts"])


def test_signatures_and_ids_go_back_where_they_stood():
    """A signature stands by its part again; an id that the model gave is in the call and in its response."""
    said, given = sent(user("Hi."), *turn(1, {}, {}, text="So.", native=SIGNED))["contents"][1:]
    assert said["parts"][0] == {"text": "So."}
    assert said["parts"][1]["thoughtSignature"] == "c2lnbmVk"
    assert said["parts"][1]["functionCall"]["id"] == given["parts"][0]["functionResponse"]["id"] == "fc_1"
    assert "thoughtSignature" not in said["parts"][2]
    assert "id" not in said["parts"][2]["functionCall"]


@pytest.mark.parametrize(("model", "signature"), [("gemini-3.1-flash", UNSIGNED), ("gemini-2.5-pro", None)])
def test_calls_of_others_are_sent_as_calls_of_others(model, signature):
    """The signature of another model is left out; a model that refuses calls without one is told so, once."""
    said = sent(user("Hi."), *turn(1, {}, {}, text="So.", native=SIGNED), model=model)["contents"][1]
    assert [part.get("thoughtSignature") for part in said["parts"]] == [None, signature, None]
    assert "fc_1" not in json.dumps(said)


def test_a_signature_without_text_goes_back_too():
    """The signature that ends a reply stands on an empty part, and goes back on one."""
    native = SIGNED.model_copy(
        update={"parts": [ReplyPart(letters=3), ReplyPart(own={"thoughtSignature": "ZW5k"})]}
    )
    said = sent(user("Hi."), *turn(1, text="So.", native=native))["contents"][1]
    assert said["parts"] == [{"text": "So."}, {"text": "", "thoughtSignature": "ZW5k"}]


def test_options_find_their_place():
    """Options of the body go there, all others into its generationConfig; None takes one out."""
    body = sent(
        user("Hi."), temperature=0, topK=None, generationConfig={"seed": 1}, cachedContent="x", tools=()
    )
    assert body["generationConfig"] == {"temperature": 0, "seed": 1}
    assert body["cachedContent"] == "x"
    assert "tools" not in body
    with pytest.raises(ModelRejectedError, match="may not set contents"):
        sent(user("Hi."), contents=[])


def test_a_forced_call_is_forced_once():
    """A tool_choice that forces a call is taken back once the model has called something."""
    first = sent(user("Hi."), tool_choice="read_file")["toolConfig"]["functionCallingConfig"]
    assert first == {"mode": "ANY", "allowedFunctionNames": ["read_file"]}
    then = sent(user("Hi."), *turn(1, {}), tool_choice="read_file")["toolConfig"]["functionCallingConfig"]
    assert then == {"mode": "AUTO"}


@pytest.mark.parametrize("kind", ["application/pdf", "audio/wav", "video/mp4", "image/heic"])
def test_files_are_sent_with_the_prompt(kind):
    """Documents, sound and films go as inline data."""
    part = sent(user("Hi.", attached("c", kind)))["contents"][0]["parts"][1]
    assert part == {"inlineData": {"mimeType": kind, "data": "iVBORw0KGgo="}}


def test_files_that_can_not_be_sent_are_rejected():
    """The error says what the provider takes, and names no file."""
    with pytest.raises(ModelRejectedError, match="is image/gif; this provider takes") as caught:
        sent(user("Hi.", attached("secret", "image/gif")), files={"secret": PNG})
    assert "secret" not in str(caught.value)
