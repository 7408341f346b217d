"""What the model reads of a tool's arguments, and how what it sends is checked."""

from __future__ import annotations

import enum
import json
from contextlib import suppress
from datetime import date
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, Field

from thoughtgear.adapters.memory import MemoryAdapter
from thoughtgear.errors import ConfigurationError, InvalidInputError, ToolInputError
from thoughtgear.memory import Memory
from thoughtgear.tools import Tool, ToolContext, tool


class Place(BaseModel):
    """A place on earth."""

    title: str
    latitude: float


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


class Unit(enum.Enum):
    C = "celsius"
    F = "fahrenheit"


class Opaque:
    """Nothing that JSON could hold."""


@tool
async def forecast(city: str, days: int = 3, place: Place | None = None, unit: Unit = Unit.C) -> str:
    """Tell the weather.

    Only for the coming week.

    Args:
        city (str, optional): the town,
            country: too
        days: how many days
        place: where exactly

    Returns:
        city: this is not about the parameter
    """
    return f"{city} {days} {unit}"


# The schema


def test_schema_of_a_function():
    """Hints, defaults and the docstring give a small schema without titles and references."""
    place = {
        "type": "object",
        "description": "A place on earth.",
        "properties": {"title": {"type": "string"}, "latitude": {"type": "number"}},
        "required": ["title", "latitude"],
    }
    assert forecast.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "the town, country: too"},
            "days": {"type": "integer", "description": "how many days", "default": 3},
            "place": {"anyOf": [place, {"type": "null"}], "description": "where exactly"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
        },
        "required": ["city"],
        "additionalProperties": False,
    }


def test_description_is_the_first_part():
    """The model reads the docstring up to its first section."""
    assert forecast.spec().description == "Tell the weather.\n\nOnly for the coming week."


def test_sphinx_docstring():
    """Descriptions of Sphinx fields arrive, continued lines joined, other fields left out."""

    @tool
    def look(path: str, depth: int = 1):
        """Look at :meth:`files`.

        :param path: where
            to look
        :type path: str
        :param int depth: how deep
        :returns: what is there
        """

    properties = look.parameters["properties"]
    assert look.description == "Look at :meth:`files`."
    assert (properties["path"]["description"], properties["depth"]["description"]) == (
        "where to look",
        "how deep",
    )


def test_field_description_stands():
    """A description in the hint is kept over the docstring's."""

    @tool
    def look(path: Annotated[str, Field(description="from the hint", max_length=5)]):
        """Look.

        Args:
            path: from the docstring
        """

    assert look.parameters["properties"]["path"] == {
        "type": "string",
        "description": "from the hint",
        "maxLength": 5,
    }


def test_values_in_a_schema_stay_whole():
    """A default is a value: what looks like a title in it is not dropped."""

    @tool
    def store(place: dict[str, str] = {"title": "x"}): ...  # noqa: B006  (never changed)

    assert store.parameters["properties"]["place"]["default"] == {"title": "x"}


def test_recursive_type_keeps_its_definition():
    """A type that holds itself is the one case with a reference."""

    @tool
    def plant(tree: Tree): ...

    assert plant.parameters["properties"]["tree"] == {"$ref": "#/$defs/Tree"}
    assert "title" not in plant.parameters["$defs"]["Tree"]
    assert (
        plant.validate({"tree": {"name": "a", "children": [{"name": "b"}]}})["tree"].children[0].name == "b"
    )


def test_names_that_models_reserve():
    """Parameters may be called as pydantic's own attributes, or like a schema's keyword."""

    @tool
    def odd(json: str, model_config: int, _x: int, title: str, copy: bool = False): ...

    given = {"json": "a", "model_config": 1, "_x": 2, "title": "t"}
    assert list(odd.parameters["properties"]) == ["json", "model_config", "_x", "title", "copy"]
    assert odd.validate(given) == given


def test_no_parameters():
    """A function without parameters has an empty closed schema, and nothing as arguments is fine."""

    @tool
    def now(): ...

    assert now.parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    assert now.validate("") == now.validate("null") == now.validate({}) == {}


# The check of the arguments


def test_arguments_are_coerced():
    """Arguments become what the hints say; a number in quotes is a number."""
    text = '{"city": "Bern", "days": "5", "place": {"title": "x", "latitude": 1}, "unit": "fahrenheit"}'
    wanted = {"city": "Bern", "days": 5, "place": Place(title="x", latitude=1), "unit": Unit.F}
    assert forecast.validate(text) == forecast.validate(json.loads(text)) == wanted


def test_json_types():
    """Dates, tuples and sets are taken from their JSON forms."""

    @tool
    def plan(when: date, span: tuple[int, int], tags: set[str]): ...

    given = {"when": "2026-01-02", "span": [1, 2], "tags": ["a", "a"]}
    assert plan.validate(given) == {"when": date(2026, 1, 2), "span": (1, 2), "tags": {"a"}}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ('{"city": 1', ["Invalid JSON", "line 1 column"]),
        ("[1]", ["should be an object", "[1]"]),
        ({}, ["- city: required, but missing"]),
        ({"city": "a", "days": "soon"}, ["- days: ", "integer", "'soon'"]),
        ({"city": "a", "town": 1}, ["- 'town': no such argument", "city, days, place, unit"]),
        ({"city": "a", "place": {"title": "x", "latitude": "n"}}, ["- place.latitude: ", "'n'"]),
        ({"days": "soon", "x": 1}, ["- city: ", "- days: ", "- 'x': "]),
        ({"city": "\ud800"}, ["Invalid arguments for forecast"]),
    ],
)
def test_bad_arguments(arguments, words):
    """The error names the tool, every field and its problem, in words for the model."""
    with pytest.raises(ToolInputError) as caught:
        forecast.validate(arguments)
    assert isinstance(caught.value, InvalidInputError)
    assert str(caught.value).startswith("Invalid arguments for forecast")
    assert [word for word in words if word not in str(caught.value)] == []


def test_errors_are_short():
    """Long values are cut and many problems counted: the model pays for the text."""
    arguments = {"city": "a", "days": "9" * 10_000, "y" * 10_000: 1} | {f"x{n}": n for n in range(100)}
    with pytest.raises(ToolInputError) as caught:
        forecast.validate(arguments)
    assert len(str(caught.value)) < 2_000
    assert "and 92 more" in str(caught.value)


def fail(value):
    raise KeyError(value)


def test_a_raising_validator():
    """Whatever a hint's own validator raises is an error of the arguments, and hides its cause from logs."""

    @tool
    def look(path: Annotated[str, AfterValidator(fail)]): ...

    with pytest.raises(ToolInputError, match="KeyError") as caught:
        look.validate({"path": "private"})
    assert "private" not in str(caught.value)
    assert caught.value.__suppress_context__


@given(st.text() | st.dictionaries(st.text(), st.integers() | st.text() | st.none()))
@settings(max_examples=50, deadline=None)
def test_any_arguments_are_taken_or_refused(arguments):
    """Whatever a model sends either fits or is a ToolInputError, no other error."""
    with suppress(ToolInputError):
        assert "city" in forecast.validate(arguments)


# The plain form

SCHEMA = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "pattern": "^/"},
        "depth": {"type": ["integer", "null"]},
        "kind": {"enum": ["file", "folder"]},
        "rows": {
            "type": "array",
            "items": {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]},
        },
    },
    "required": ["path"],
}


def look(path, depth=None, kind="file", rows=(), ctx=None):
    return path, depth, ctx.call_id


async def test_plain_form():
    """Five positional arguments make a tool: the content follows the description, ctx is given."""
    ctx = ToolContext(run_id="r1", call_id="3.0", memory=Memory(MemoryAdapter(), "run:r1"))
    one = Tool("look.up", "Look something up.", "Paths are absolute.", SCHEMA, look)
    spec = one.spec()
    assert (spec.name, spec.description) == ("look_up", "Look something up.\n\nPaths are absolute.")
    assert spec.parameters == {**SCHEMA, "additionalProperties": False}
    assert await one.call(one.validate({"path": "/a", "depth": "2"}), ctx) == ("/a", 2, "3.0")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "path: required"),
        ({"path": 1}, "path: Input should be a valid string"),
        ({"path": "a", "depth": "x"}, "depth"),
        ({"path": "a", "kind": "link"}, "kind: Input should be 'file' or 'folder'"),
        ({"path": "a", "rows": [{"n": 1}, {}]}, "rows.1.n: required"),
        ({"path": "a", "more": 1}, "'more': no such argument"),
    ],
)
def test_plain_form_checks(arguments, words):
    """Of a JSON Schema, names, types, enums, items and nested properties are checked."""
    with pytest.raises(ToolInputError, match=words):
        Tool("look", "", "", SCHEMA, look).validate(arguments)


def test_plain_form_leaves_the_rest():
    """What the check does not know (a pattern, an unknown type) is left to the handler."""
    one = Tool(
        "f", "", "", {"properties": {"a": {"type": "string", "pattern": "^/"}, "b": True}}, lambda **kw: kw
    )
    assert one.validate({"a": "x", "b": [1]}) == {"a": "x", "b": [1]}


def test_open_schema():
    """Unknown names pass where the schema allows them."""
    one = Tool("f", "", "", {"type": "object", "additionalProperties": True}, lambda **given: given)
    assert one.validate({"a": 1}) == {"a": 1}


def test_plain_form_with_a_model():
    """A pydantic model's fields are the keywords, its defaults are filled in."""

    class Query(BaseModel):
        text: str
        top: int = 3
        kind: Literal["a", "b"] = "a"

    one = Tool("search", "Search.", "", Query, lambda text, top, kind: (text, top))
    assert one.parameters["required"] == ["text"]
    assert one.validate({"text": "x"}) == {"text": "x", "top": 3, "kind": "a"}


def test_the_given_schema_is_copied():
    """Changing the caller's dict later does not change the tool."""
    given = {"type": "object", "properties": {}}
    one = Tool("f", "", "", given, lambda: None)
    given["properties"]["x"] = {}
    assert one.parameters["properties"] == {}


@pytest.mark.parametrize(
    ("parameters", "handler", "words"),
    [
        ({"type": "array"}, look, "type object"),
        ({"properties": []}, look, "type object"),
        ({"default": Opaque()}, look, "not a JSON Schema"),
        ("string", look, "JSON Schema or a pydantic model"),
        ({"properties": {}}, look, "needs path"),
        ({"properties": {"path": {}, "colour": {}}}, look, "no parameter colour"),
        ({"properties": {}}, "look", "must be a function"),
    ],
)
def test_unfit_plain_forms(parameters, handler, words):
    """A schema that is none, or that the handler does not fit, is an error at construction."""
    with pytest.raises(ConfigurationError, match=words):
        Tool("look", "", "", parameters, handler)
