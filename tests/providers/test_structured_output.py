"""How each provider is told what the final answer has to be, as the official types validate it."""

import json
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from conversations import TOOL, assistant, listed, turn, user
from google.genai import types
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, TypeAdapter, create_model

from thoughtgear.models import Message
from thoughtgear.protocols import ModelRequest
from thoughtgear.providers import anthropic_request, gemini_request, openai_request, responses_request
from thoughtgear.providers.bedrock_request import converse_arguments
from thoughtgear.structured import OutputType


class Invoice(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int


SPEC = OutputType(Invoice).spec
CLOSED = {"name": "Invoice", "schema": SPEC.schema, "strict": True}


def request(*tools) -> ModelRequest:
    return ModelRequest("Be brief.", [user("Hi.")], tools, output=SPEC)


def test_the_responses_api_is_held_to_the_schema():
    """The format stands in the body, with tools, too, and the context says nothing of it."""
    body = json.loads(responses_request.encode_request("m", request(TOOL)))
    assert listed(TypeAdapter(ResponseCreateParamsStreaming).validate_python(body)) == body
    assert body["text"]["format"] == {"type": "json_schema", **CLOSED}
    assert body["instructions"] == "Be brief."


@pytest.mark.parametrize("tools", [(), (TOOL,)])
def test_chat_completions_are_held_to_the_schema_where_there_are_no_tools(tools):
    """Small servers that hold a model to a schema let it call nothing: with tools it is told instead."""
    body = json.loads(openai_request.encode_request("m", request(*tools)))
    assert listed(TypeAdapter(CompletionCreateParamsStreaming).validate_python(body)) == body
    told = body["messages"][0]["content"]
    assert (told == "Be brief.", "response_format" in body) == ((False, False) if tools else (True, True))
    assert tools or body["response_format"]["json_schema"] == CLOSED
    assert not tools or SPEC.instruction in told


@pytest.mark.parametrize("tools", [(), (TOOL,)])
def test_gemini_is_held_to_the_schema_where_there_are_no_tools(tools):
    """The schema stands in the generationConfig; with tools it is told instead."""
    body = json.loads(gemini_request.encode_request("m", request(*tools)))
    told = body["systemInstruction"]["parts"][0]["text"]
    if tools:
        assert SPEC.instruction in told
        assert "generationConfig" not in body
    else:
        config = types.GenerationConfig.model_validate_json(json.dumps(body["generationConfig"]))
        assert (config.response_mime_type, config.response_json_schema) == ("application/json", SPEC.schema)
        assert told == "Be brief."


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["part"]


class Open(BaseModel):
    a: int


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["whole"]


HELD = [int, list[str], Part, Part | None, list[Part], Literal["a", "b"], datetime, UUID]
NOT_HELD = [Any, dict[str, int], Open, tuple[int, str], set[int], AnyUrl, list[Any]]
NOT_HELD += [Annotated[Part | Whole, Field(discriminator="kind")], Annotated[str, Field(max_length=3)]]
NOT_HELD += [Annotated[str, Field(pattern="(?i)a")]]


@pytest.mark.parametrize(("field", "strict"), [(f, True) for f in HELD] + [(f, False) for f in NOT_HELD])
def test_a_schema_is_strict_where_openai_takes_it_strictly(field, strict):
    """A keyword, pattern or value that strict schemas may not hold makes a schema one that is not strict: the
    request would be refused."""
    model = create_model("M", __config__=ConfigDict(extra="forbid"), field=(field, ...))
    assert OutputType(model).spec.closed == strict
    defaulted = create_model("M", __config__=ConfigDict(extra="forbid"), field=(field, None))
    assert not OutputType(defaulted).spec.closed


def test_an_answer_that_is_sent_back_forces_no_second_call():
    """A tool_choice that forces a call counts from a prompt on, and what a final answer is sent back with is
    none: no tool is run again for it. What somebody says to the run is one."""
    back = Message(seq=3, role="user", text="This answer does not fit.", iteration=2)
    said = [user("Hi."), *turn(1, {}), assistant("five"), back]
    for message, forced in ((back, "auto"), (back.model_copy(update={"request_id": "r"}), "required")):
        asked_for = ModelRequest("", [*said[:-1], message], [TOOL], {}, {"tool_choice": "required"})
        assert json.loads(openai_request.encode_request("m", asked_for))["tool_choice"] == forced


def test_claude_and_converse_are_told():
    """The context ends with what the answer has to be."""
    body = json.loads(anthropic_request.encode_request("m", request(TOOL)))
    assert listed(TypeAdapter(MessageCreateParamsStreaming).validate_python(body)) == body
    arguments = converse_arguments("m", request(TOOL))
    for told in (body["system"][0]["text"], arguments["system"][0]["text"]):
        assert told == f"Be brief.\n\n{SPEC.instruction}"
    assert converse_arguments("m", ModelRequest("", [user("Hi.")], output=SPEC))["system"]
