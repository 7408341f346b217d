"""What tools promise: their context, how they run, their names and results."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from thoughtgear.adapters.memory import MemoryAdapter
from thoughtgear.errors import ConfigurationError
from thoughtgear.memory import Memory
from thoughtgear.tools import Tool, ToolBox, ToolContext, cut, result_text, tool, wire_name

if TYPE_CHECKING:
    from collections.abc import Mapping as OnlyForTypeCheckers


class Place(BaseModel):
    """A place on earth."""

    title: str
    latitude: float


@dataclass
class Point:
    x: int
    y: int


class Opaque:
    """Nothing that JSON could hold."""


@pytest.fixture
def ctx():
    return ToolContext(run_id="r1", call_id="3.0", memory=Memory(MemoryAdapter(), "run:r1"))


@tool
async def forecast(city: str, days: int = 3) -> str:
    """Tell the weather."""
    return f"{city} {days}"


# The context


async def test_context_is_injected_and_hidden(ctx):
    """A parameter annotated with the context, in any spelling, gets it and is not in the schema."""

    @tool
    def plain(a: int, where: ToolContext):
        return where

    @tool
    async def optional(a: int, *, c: Optional[ToolContext] = None):  # noqa: UP045  (this spelling is tested)
        return c

    @tool
    def annotated(c: Annotated[ToolContext | None, "x"], a: int):
        return c

    for one in (plain, optional, annotated):
        assert list(one.parameters["properties"]) == ["a"]
        assert await one.call(one.validate({"a": 1}), ctx) is ctx


async def test_context_imported_for_type_checkers_only(ctx):
    """The context is known by its name even where its import is under TYPE_CHECKING."""
    namespace: dict[str, Any] = {}
    exec("from __future__ import annotations\ndef f(x: ToolContext): return x.call_id", namespace)
    assert await tool(namespace["f"]).call({}, ctx) == "3.0"


def test_idempotency_key(ctx):
    """The key follows from run and call alone, so that every try of a call has the same."""
    again = ToolContext(run_id="r1", call_id="3.0", memory=ctx.memory, attempt=2)
    assert ctx.idempotency_key == again.idempotency_key == "r1:3.0"


def test_context_repr(ctx):
    """The context's repr shows the call, not the metadata or the memory."""
    ctx.metadata = {"token": "s3cret"}
    assert "3.0" in repr(ctx)
    assert "s3cret" not in repr(ctx)
    assert "emory" not in repr(ctx)


async def test_heartbeat_from_a_thread():
    """A heartbeat from a thread arrives in the event loop's thread with its details."""
    beats: list[tuple[Any, ...]] = []
    arrived = asyncio.Event()

    def beat(*details):
        beats.append((threading.current_thread() is threading.main_thread(), *details))
        arrived.set()

    ctx = ToolContext(run_id="r1", call_id="1.0", memory=Memory(MemoryAdapter(), "run:r1"), beat=beat)
    await asyncio.to_thread(ctx.heartbeat, "half", 0.5)
    await arrived.wait()
    assert beats == [(True, "half", 0.5)]


def test_heartbeat_after_the_loop():
    """A thread that outlived its run may go on beating without an error."""

    async def make():
        return ToolContext(run_id="r1", call_id="1.0", memory=Memory(MemoryAdapter(), "run:r1"))

    asyncio.run(make()).heartbeat("late")


# What can't be a tool


def no_hint(a): ...
def star(*rest: int): ...
def keywords(**rest: int): ...
def positional(a: int, /): ...
def unresolvable(a: int, table: OnlyForTypeCheckers[str, int]): ...
def opaque(a: int, thing: Opaque): ...
def called(thing: Any = Field(default=1)): ...  # noqa: B008  (what is refused)
def two(a: ToolContext, b: ToolContext): ...


@pytest.mark.parametrize(
    ("function", "parameter"),
    [
        (no_hint, "a"),
        (star, "rest"),
        (keywords, "rest"),
        (positional, "a"),
        (unresolvable, "table"),
        (opaque, "thing"),
        (called, "thing"),
        (two, "b"),
    ],
)
def test_unfit_functions(function, parameter):
    """A function that can't be a tool is refused with its name and the parameter's."""
    with pytest.raises(ConfigurationError, match=rf"{function.__name__}.*\b{parameter}\b"):
        tool(function)


def generator():
    yield 1


async def async_generator():
    yield 1


@pytest.mark.parametrize("function", [generator, async_generator])
def test_generators(function):
    """A generator function is refused: its value is no result."""
    with pytest.raises(ConfigurationError, match="generator"):
        tool(function)


@pytest.mark.parametrize(
    "options",
    [
        {"policy": "twice"},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"name": " "},
        {"cache": timedelta(0)},
        {"cache": timedelta(seconds=-1)},
        {"cache": 60},
        {"version": ""},
        {"version": 2},
    ],
)
def test_bad_settings(options):
    """A setting that can't work is an error at construction."""
    (name,) = options
    with pytest.raises(ConfigurationError, match=name):
        tool(**options)(lambda: None)


def test_an_effect_is_not_cached():
    """A tool that is at_most_once and cached is refused, made either way: its effect would be left out."""
    options: dict[str, Any] = {"policy": "at_most_once", "cache": timedelta(hours=1)}
    with pytest.raises(ConfigurationError, match="effect"):
        tool(**options)(lambda: None)
    with pytest.raises(ConfigurationError, match="effect"):
        Tool("pay", "Pay.", "", {}, lambda: None, **options)


# Running


class Shop:
    """Has methods that are tools."""

    def __init__(self, name: str) -> None:
        self.name = name

    def order(self, item: str) -> str:
        """Order."""
        return f"{item} from {self.name}"

    async def __call__(self, item: str) -> str:
        return self.order(item)


async def test_methods(ctx):
    """A bound method and an object with an async `__call__` are tools."""
    order = tool(Shop("x").order)
    assert (order.key, order.description, order.is_async) == ("order", "Order.", False)
    assert await order.call({"item": "tea"}, ctx) == "tea from x"
    buy = tool(name="buy")(Shop("y"))
    assert buy.is_async
    assert await buy.call({"item": "tea"}, ctx) == "tea from y"


def test_method_decorated_in_its_class():
    """Decorating an unbound method says what to do instead."""
    with pytest.raises(ConfigurationError, match=r"Shop.order, parameter self.*bound method"):
        tool(Shop.order)


async def test_binding(ctx):
    """A bound plain call runs wherever the caller likes, and raises what the function raises."""

    @tool
    def divide(a: int, b: int) -> float:
        return a / b

    assert not divide.is_async
    assert await asyncio.to_thread(divide.bind(divide.validate({"a": "1", "b": 2}), ctx)) == 0.5
    with pytest.raises(ZeroDivisionError):
        divide.bind({"a": 1, "b": 0}, ctx)()


async def test_a_tool_is_still_its_function():
    """Calling a decorated function calls the function."""
    assert await forecast("Bern", days=1) == "Bern 1"


def test_settings_arrive():
    """The decorator's arguments are the tool's settings; without them a tool is idempotent and parallel."""

    @tool(name="pay now", description="Pay.", policy="at_most_once", timeout=5, parallel=False)
    def pay(): ...

    assert (pay.key, pay.name, pay.description) == ("pay now", "pay_now", "Pay.")
    assert (pay.policy, pay.timeout, pay.parallel) == ("at_most_once", 5, False)
    assert (forecast.policy, forecast.timeout, forecast.parallel) == ("idempotent", 300, True)


# Names


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("look", "look"),
        ("look_up-2", "look_up-2"),
        ("files.read v2", "files_read_v2"),
        ("2nd", "_2nd"),
        ("-x", "_-x"),
        ("größe", "gr__e"),
    ],
)
def test_wire_names(name, wire):
    """A name becomes one that every provider takes, and one that is safe stays as it is."""
    assert wire_name(name) == wire


@given(st.text(min_size=1, max_size=200))
def test_wire_names_are_safe_and_stable(name):
    """Any name becomes 1 to 64 safe characters, and making it safe twice changes nothing more."""
    wire = wire_name(name)
    assert 1 <= len(wire) <= 64
    assert set(wire) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
    assert wire_name(wire) == wire


def test_long_names_stay_apart():
    """Long names that differ at their end, and names in other scripts, do not clash."""
    names = ["x" * 100 + "a", "x" * 100 + "b", "天気", "時間"]
    assert len({wire_name(name) for name in names}) == 4


def test_toolbox():
    """A toolbox keeps the order, decorates functions, and finds a tool by the name the model uses."""

    def first(a: int): ...

    second = Tool("files.read", "Read.", "", {}, lambda: None)
    box = ToolBox([first, second, forecast])
    assert [spec.name for spec in box.specs()] == ["first", "files_read", "forecast"]
    assert box.find("files_read") is second
    assert box.find("files.read") is second
    assert box.find("nothing") is None
    assert len(box) == 3


def test_clash():
    """Two tools of one wire name are an error that names both."""
    make = partial(Tool, description="", content="", parameters={}, handler=lambda: None)
    with pytest.raises(ConfigurationError, match=r"'a\.b' and 'a b'"):
        ToolBox([make("a.b"), make("a b")])


def test_things_that_are_no_function():
    """A name in the list of tools is a clear error."""
    with pytest.raises(ConfigurationError, match="'forecast' is no tool"):
        ToolBox(["forecast"])


# Results


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is: ä", "as it is: ä"),
        (None, ""),
        (3, "3"),
        (True, "true"),
        ({"ä": [1, None]}, '{"ä":[1,null]}'),
        (Place(title="x", latitude=1), '{"title":"x","latitude":1.0}'),
        ([Point(1, 2)], '[{"x":1,"y":2}]'),
        ({"when": date(2026, 1, 2)}, '{"when":"2026-01-02"}'),
        (b"text", "text"),
        (b"\xff\xfe\x00", "[3 bytes of binary data]"),
        (ValueError("x"), "x"),
        ("\ud800", "?"),
    ],
)
def test_result_text(value, text):
    """Every value has a text for the model, which is always valid Unicode."""
    assert result_text(value) == text


def test_short_texts_are_not_cut():
    """A text of exactly the limit stays whole."""
    assert cut("é" * 50, 100) == "é" * 50


def test_cut_says_how_much():
    """A cut text begins as the whole one and says how many of its bytes are missing."""
    whole = "".join(f"line {n}\n" for n in range(1000))
    short = cut(whole, 500)
    head, _, note = short.rpartition("\n[Cut: ")
    assert whole.startswith(head)
    assert note.startswith(f"{len(whole) - len(head)} of {len(whole)} bytes")


@given(st.text(), st.integers(min_value=100, max_value=300))
def test_cut_keeps_the_limit(text, limit):
    """With its note a cut text stays within the limit, and no character is broken."""
    short = cut(text * 50, limit)
    assert len(short.encode()) <= limit
    assert "\ufffd" not in short or "\ufffd" in text
