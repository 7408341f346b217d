"""How each provider is told what the final answer has to be, as the official types validate it."""

import json
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from anthropic import transform_schema
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from botocore.validate import ParamValidator
from conversations import TOOL, assistant, listed, turn, user
from google.genai import types
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, TypeAdapter, create_model
from test_bedrock import SHAPE

from thoughtgear.models import Message
from thoughtgear.protocols import ModelRequest
from thoughtgear.providers import anthropic_request, gemini_request, openai_request, responses_request
from thoughtgear.providers.bedrock_request import converse_arguments
from thoughtgear.providers.held_schema import held as held_to
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


def test_a_reference_keeps_its_description():
    """What a field says beside the reference to its model is sent to Claude, one step above the reference;
    where it says nothing, the reference stands alone."""
    described = Annotated[Part, Field(description="The first one.")]
    fields = {"first": (described, ...), "last": (Part, ...)}
    model = create_model("M", __config__=ConfigDict(extra="forbid"), **fields)
    sent = held_to(model.model_json_schema())
    assert sent is not None
    reference = {"$ref": "#/$defs/Part"}
    assert sent["properties"] == {
        "first": {"description": "The first one.", "anyOf": [reference]},
        "last": reference,
    }


def test_an_answer_that_is_sent_back_forces_no_second_call():
    """A tool_choice that forces a call counts from a prompt on, and what a final answer is sent back with is
    none: no tool is run again for it. What somebody says to the run is one."""
    back = Message(seq=3, role="user", text="This answer does not fit.", iteration=2)
    said = [user("Hi."), *turn(1, {}), assistant("five"), back]
    for message, forced in ((back, "auto"), (back.model_copy(update={"request_id": "r"}), "required")):
        asked_for = ModelRequest("", [*said[:-1], message], [TOOL], {}, {"tool_choice": "required"})
        assert json.loads(openai_request.encode_request("m", asked_for))["tool_choice"] == forced


def test_others_are_told_by_the_messages_api_and_converse():
    """The context of a model that is not known to be held to a schema ends with what the answer has to be."""
    body = json.loads(anthropic_request.encode_request("m", request(TOOL)))
    assert listed(TypeAdapter(MessageCreateParamsStreaming).validate_python(body)) == body
    arguments = converse_arguments("m", request(TOOL))
    for told in (body["system"][0]["text"], arguments["system"][0]["text"]):
        assert told == f"Be brief.\n\n{SPEC.instruction}"
    assert converse_arguments("m", ModelRequest("", [user("Hi.")], output=SPEC))["system"]


class Line(BaseModel):
    """A line of an order."""

    count: Annotated[int, Field(ge=1)]
    note: str | None = None


class Order(BaseModel):
    code: Annotated[str, Field(min_length=3)] = Field(description="Its code.")
    lines: list[Line]
    piece: Annotated[Part | Whole, Field(discriminator="kind")]


ORDER = OutputType(Order).spec
HOLDING = "claude-sonnet-4-5-20250929"


def without_bounds(node: Any) -> Any:
    """The official package's schema, but for the words of its descriptions."""
    if isinstance(node, list):
        return [without_bounds(each) for each in node]
    if not isinstance(node, dict):
        return node
    return {name: without_bounds(each) for name, each in node.items() if name != "description"}


@pytest.mark.parametrize("tools", [(), (TOOL,)])
def test_claude_is_held_to_the_schema(tools):
    """Known models are held to the schema as the official package sends it, with tools, too; an option beside
    it stays, and a format of the user's own wins."""
    options = {"output_config": {"effort": "low"}}
    asked_for = ModelRequest("Be brief.", [user("Hi.")], tools, output=ORDER, options=options)
    body = json.loads(anthropic_request.encode_request(HOLDING, asked_for))
    assert listed(TypeAdapter(MessageCreateParamsStreaming).validate_python(body)) == body
    config = body["output_config"]
    assert (config["effort"], config["format"]["type"], body["system"][0]["text"]) == (
        "low",
        "json_schema",
        "Be brief.",
    )
    theirs = transform_schema(ORDER.schema)
    assert without_bounds(config["format"]["schema"]) == without_bounds(theirs)
    assert config["format"]["schema"]["properties"]["code"]["description"] == "Its code. (minLength: 3)"
    own = {"format": {"type": "json_schema", "schema": {}}}
    asked_for = ModelRequest("", [user("Hi.")], tools, output=ORDER, options={"output_config": own})
    assert json.loads(anthropic_request.encode_request(HOLDING, asked_for))["output_config"] == own


@pytest.mark.parametrize("tools", [(), (TOOL,)])
def test_claude_on_bedrock_is_held_to_the_schema(tools):
    """The schema goes as text, as botocore validates it; an option beside it stays."""
    options = {"outputConfig": {"effort": "low"}}
    asked_for = ModelRequest("Be brief.", [user("Hi.")], tools, output=ORDER, options=options)
    arguments = converse_arguments(f"us.anthropic.{HOLDING}-v1:0", asked_for)
    assert ParamValidator().validate(arguments, SHAPE).generate_report() == ""
    config = arguments["outputConfig"]
    definition = config["textFormat"]["structure"]["jsonSchema"]
    assert (definition["name"], config["effort"], arguments["system"][:1]) == (
        "Order",
        "low",
        [{"text": "Be brief."}],
    )
    assert without_bounds(json.loads(definition["schema"])) == without_bounds(transform_schema(ORDER.schema))


@pytest.mark.parametrize(
    ("model", "holds"),
    [("claude-haiku-4-5", True), ("claude-opus-4-6-20260101", True), ("claude-opus-5", True)]
    + [("claude-sonnet-4-20250514", False), ("claude-opus-4-1-20250805", False), ("m", False)]
    + [("claude-3-7-sonnet-20250219", False), ("claude-3-5-sonnet-20241022", False)],
)
def test_models_that_are_not_known_to_be_held_are_told(model, holds):
    """Older models would refuse the field; the setting `json_schema` says otherwise, both ways."""
    for setting, expected in ((None, holds), (True, True), (False, False)):
        body = json.loads(anthropic_request.encode_request(model, request(), json_schema=setting))
        arguments = converse_arguments(f"anthropic.{model}", request(), json_schema=setting)
        assert ("output_config" in body, "outputConfig" in arguments) == (expected, expected)
        assert (SPEC.instruction in body["system"][0]["text"]) == (not expected)
        assert (SPEC.instruction in arguments["system"][0]["text"]) == (not expected)


class Tree(BaseModel):
    below: "list[Tree]"


NO_HOLD = [Any, dict[str, int], tuple[int, str], list[Any], Tree]


@pytest.mark.parametrize("field", NO_HOLD, ids=str)
def test_a_schema_that_nothing_is_held_to_is_told(field):
    """Open objects, tuples, values of any kind and types that hold themselves are told in words."""
    spec = OutputType(create_model("M", field=(field, ...))).spec
    asked_for = ModelRequest("", [user("Hi.")], output=spec)
    body = json.loads(anthropic_request.encode_request(HOLDING, asked_for))
    assert "output_config" not in body
    assert body["system"][0]["text"] == spec.instruction


def test_more_optional_fields_than_the_api_takes_are_told():
    """The API takes 24 fields that may be left out."""
    for number, held in ((24, True), (25, False)):
        model = create_model("M", **{f"f{n}": (int, 0) for n in range(number)})
        asked_for = ModelRequest("", [user("Hi.")], output=OutputType(model).spec)
        assert (b"output_config" in anthropic_request.encode_request(HOLDING, asked_for)) == held
