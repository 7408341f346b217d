"""Odd functions as tools, odd schemas, and arguments that no model should send."""

from __future__ import annotations

import functools
import json
from typing import Annotated, Any, Literal

import pytest
from bad_input import LONG_TEXTS, OBJECTS, STRANGE, TEXTS, VALUES, cases, only_typed
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from thoughtgear import Limits, Tool, tool
from thoughtgear.adapters.memory import MemoryAdapter
from thoughtgear.docstrings import parse_docstring
from thoughtgear.errors import ConfigurationError, ToolInputError
from thoughtgear.memory import Memory
from thoughtgear.prompts import Prompt
from thoughtgear.protocols import RunFilter
from thoughtgear.tools import ToolBox, ToolContext, cut, result_text, wire_name


class Point(BaseModel):
    x: int
    y: float = 0.0


HINTS: tuple[Any, ...] = (
    int,
    str,
    bool,
    float,
    bytes,
    list[int],
    dict[str, float],
    tuple[int, str],
    Literal["a", 1, None],
    int | None,
    Annotated[int, Field(gt=0, description="A number.")],
    Point,
    list[Point],
    Any,
    object,
    ToolContext,
    "int",
    "no_such_name",
    complex,
    type(None),
    5,
    "(",
)
_EMPTY = object()


def _function(hints: list[Any], defaults: list[Any], doc: str) -> Any:
    def function(**given: Any) -> str:
        return json.dumps(sorted(given))

    import inspect

    kinds = inspect.Parameter
    parameters = [
        kinds(
            f"p{number}",
            kinds.KEYWORD_ONLY,
            annotation=hint,
            default=kinds.empty if default is _EMPTY else default,
        )
        for number, (hint, default) in enumerate(zip(hints, defaults, strict=False))
    ]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__doc__ = doc
    return function


FUNCTIONS = st.builds(
    _function,
    st.lists(st.sampled_from(HINTS), max_size=4),
    st.lists(st.one_of(st.just(_EMPTY), STRANGE), min_size=4, max_size=4),
    st.one_of(TEXTS, st.sampled_from(("Do.\n\nArgs:\n  p0: x\n  p1 (int): y", ":param p0: x\n:type"))),
)
ARGUMENTS = st.one_of(
    LONG_TEXTS,
    OBJECTS,
    st.dictionaries(st.sampled_from(("p0", "p1", "p2", "p3", "ctx", "self")), VALUES, max_size=4),
    st.sampled_from(
        ("[" * 5000, '{"a":' * 3000, "1" * 5000, '{"p0": 1e999}', '{"p0": NaN}', "nul", "[]", "5")
    ),
)


@cases(60, function=FUNCTIONS, arguments=ARGUMENTS)
async def test_a_function_is_a_tool_or_refused(function: Any, arguments: Any) -> None:
    """Any signature makes a tool whose schema is JSON, or a configuration error; arguments fit or are refused
    with a short text for the model."""
    with only_typed():
        made = tool(function)
        json.dumps([made.parameters, made.spec().description], allow_nan=False)
        try:
            fit = made.validate(arguments)
        except ToolInputError as exc:
            if len(str(exc)) > 5000:
                raise AssertionError("too long for a model") from exc
        else:
            context = ToolContext(run_id="r", call_id="1.0", memory=Memory(MemoryAdapter(), "run:r"))
            assert await made.call(fit, context)


SCHEMA_WORDS = st.sampled_from(
    (
        "type",
        "properties",
        "required",
        "items",
        "enum",
        "additionalProperties",
        "$ref",
        "anyOf",
        "description",
    )
)
SCHEMA_VALUES = st.one_of(
    VALUES,
    st.sampled_from(("object", "string", "array", "integer", "null", ["string", "null"], [[]], [], {})),
)
SCHEMAS = st.recursive(
    st.dictionaries(SCHEMA_WORDS, SCHEMA_VALUES, max_size=4),
    lambda inner: st.dictionaries(
        SCHEMA_WORDS, st.one_of(SCHEMA_VALUES, inner, st.dictionaries(TEXTS, inner, max_size=2)), max_size=4
    ),
    max_leaves=6,
)


@cases(
    43,
    schema=st.one_of(SCHEMAS, STRANGE),
    name=st.one_of(TEXTS, STRANGE),
    text=st.one_of(TEXTS, STRANGE),
    arguments=ARGUMENTS,
)
def test_a_schema_is_a_tool_or_refused(schema: Any, name: Any, text: Any, arguments: Any) -> None:
    """Any JSON Schema, name and description make a tool, or a configuration error; arguments fit or don't."""
    with only_typed():
        made = Tool(name, text, "", schema, lambda **given: "x")
        assert wire_name(name).isascii()
        json.dumps([made.parameters, made.spec().description], ensure_ascii=False).encode()
        made.validate(arguments)


@cases(
    17,
    given=st.dictionaries(
        st.sampled_from(("timeout", "policy", "cache", "version", "on_unknown", "reconcile")),
        STRANGE,
        max_size=2,
    ),
)
def test_options_are_taken_or_refused(given: Any) -> None:
    """Options of any type are taken or a configuration error."""
    with only_typed():
        tool(**given)(_function([], [], "Do."))


class Loud:
    def __str__(self) -> str:
        raise RuntimeError("no")


@cases(17, value=st.one_of(STRANGE, LONG_TEXTS), limit=st.integers(0, 300))
def test_any_result_is_a_bounded_text(value: Any, limit: int) -> None:
    """What a tool returns becomes Unicode text within the limit, or the note alone."""
    shown = cut(result_text(value), limit)
    assert len(shown.encode()) <= max(limit, 120)


@cases(
    13,
    text=st.one_of(
        LONG_TEXTS,
        st.builds(
            "\n".join,
            st.lists(st.sampled_from((":param x:", "Args:", "  x: y", " x (:", ":", "")), max_size=6),
        ),
    ),
)
def test_any_docstring_is_read(text: str) -> None:
    """A docstring never raises, and its parameters have texts."""
    found = parse_docstring(text)
    assert all(isinstance(each, str) for each in found.parameters.values())


class Odd:
    def method(self, x: int) -> int:
        return x

    def __call__(self, x: int) -> int:
        return x


@pytest.mark.parametrize(
    "function",
    [
        print,
        len,
        int,
        type,
        Odd,
        Odd.method,
        Odd().method,
        Odd(),
        lambda x: x,
        functools.partial(pow, 2),
        5,
        None,
        "f",
        abs,
        dict,
        object(),
    ],
)
def test_odd_callables_are_tools_or_refused(function: Any) -> None:
    """A builtin, a class, a method, a partial or no function at all: a tool or a configuration error."""
    with only_typed():
        ToolBox([function])


@pytest.mark.parametrize("options", [{"timeout": "5"}, {"timeout": None}, {"timeout": float("nan")}])
def test_a_timeout_is_a_number(options: Any) -> None:
    """A time-out that is no number of seconds is a configuration error."""
    with pytest.raises(ConfigurationError, match="timeout"):
        tool(**options)(_function([], [], "Do."))


@pytest.mark.parametrize(
    "schema",
    [{"required": 5, "properties": {"a": {}}}, {"properties": {5: {}}}, {"properties": {"a": {"enum": 5}}}],
)
def test_a_schema_that_is_none_is_refused(schema: Any) -> None:
    """A schema that can't be checked is a configuration error, when the tool is made."""
    with pytest.raises(ConfigurationError):
        Tool("t", "Do.", "", schema, lambda **given: "x")


def test_a_description_that_no_model_can_be_sent_is_refused() -> None:
    """A lone surrogate in a description would fail each request; it fails the tool."""
    with pytest.raises(ConfigurationError, match="Unicode"):
        Tool("t", "\ud800", "", {}, lambda: "x")


@pytest.mark.parametrize("levels", [190, 990, 5000])
async def test_values_that_nest_too_deep_are_refused(levels: int) -> None:
    """A value that no parser reads is a typed error wherever one can be given: never a `RecursionError`."""
    deep: dict[str, Any] = {}
    for _ in range(levels):
        deep = {"properties": deep}
    with only_typed():
        Tool("t", "Do.", "", deep, lambda **given: "x")
    with only_typed():
        tool(_function([Any], [_EMPTY], "Do.")).validate(deep)
    with only_typed():
        await Memory(MemoryAdapter(), "user:a").put("k", deep)
    with only_typed():
        RunFilter(metadata=deep)
    with only_typed():
        Prompt("x", metadata=deep).check(Limits())
