"""Tools: functions that the model may call, and what such a function is told about its run."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, overload

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json
from typing_extensions import Unpack

from thoughtgear import schema
from thoughtgear.docstrings import parse_docstring
from thoughtgear.errors import ConfigurationError, InvalidInputError
from thoughtgear.memory import Memory, Scope, scope_of
from thoughtgear.protocols import ToolSpec
from thoughtgear.tool_options import ToolOptions, ToolRules

NAME_LENGTH = 64


def _no_beat(*details: Any) -> None:
    """Nobody listens."""


@dataclass(kw_only=True)
class ToolContext:
    """What a tool may know of its call. A parameter annotated with this class receives it.

    `idempotency_key` is the same however often the call is tried: give it to the system that you change.
    `attempt` counts the tries of the iteration, from 1. `beat` is what `heartbeat` calls; it is called in
    the event loop that made the context. `memory` is the user's, else the session's, else the run's own;
    plain functions use `memory.sync`.
    """

    run_id: str
    call_id: str
    memory: Memory = field(repr=False)
    session_id: str | None = None
    user_id: str | None = None
    iteration: int = 1
    attempt: int = 1
    idempotency_key: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    beat: Callable[..., None] = field(default=_no_beat, repr=False)

    def __post_init__(self) -> None:
        self.idempotency_key = self.idempotency_key or idempotency_key(self.run_id, self.call_id)
        self._loop: asyncio.AbstractEventLoop | None = None
        with suppress(RuntimeError):
            self._loop = asyncio.get_running_loop()

    def memory_of(self, scope: Scope) -> Memory:
        """Return what is remembered for the run's user or session, or for the run itself. Raises
        `InvalidInputError`, whose message is for the model, where the run has none."""
        name = scope_of(self, scope)
        if name is None:
            raise InvalidInputError(f"This memory is a {scope}'s, and this run has no {scope}.")
        return self.memory.at(name)

    def heartbeat(self, *details: Any) -> None:
        """Say that the tool is alive and how far it is. Works from any thread; after the end of the run
        it does nothing."""
        if self._loop is None:
            self.beat(*details)
            return
        with suppress(RuntimeError):  # the loop is closed: the run went on elsewhere
            self._loop.call_soon_threadsafe(self.beat, *details)


def idempotency_key(run_id: str, call_id: str) -> str:
    """The key of a call: the same whoever runs it, however often."""
    return f"{run_id}:{call_id}"


class Tool:
    """A function that the model may call.

    `key` is its name, `content` is added to the description that the model reads, `parameters` is a JSON
    Schema of type object or a pydantic model, `handler` is a plain or async function that takes the
    arguments by name. Of a JSON Schema, `type`, `enum`, `items`, `properties`, `required` and
    `additionalProperties` are checked (absent: unknown names are refused). The handler gets the
    `ToolContext` in the parameter annotated so, or called `ctx`.

    `options` are those of `ToolRules`. Calling the tool calls the function. Raises `ConfigurationError`.
    """

    def __init__(
        self,
        key: str,
        description: str,
        content: str,
        parameters: Mapping[str, Any] | type[BaseModel],
        handler: Callable[..., Any],
        **options: Unpack[ToolOptions],
    ) -> None:
        if not isinstance(key, str):
            raise ConfigurationError("The key of a tool is its name, a text.")
        if not callable(handler):
            raise ConfigurationError(f"Tool {key!r}: handler must be a function.")
        if isinstance(parameters, type) and issubclass(parameters, BaseModel):
            arguments = schema.of_model(parameters, f"Tool {key!r}")
        elif isinstance(parameters, Mapping):
            arguments = schema.of_schema(parameters, f"Tool {key!r}")
        else:
            raise ConfigurationError(f"Tool {key!r}: parameters must be a JSON Schema or a pydantic model.")
        arguments = schema.for_handler(arguments, handler, f"Tool {key!r}", ToolContext)
        self._set(key, description, content, handler, arguments, ToolRules(**options))

    @classmethod
    def from_function(
        cls,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        **options: Unpack[ToolOptions],
    ) -> Tool:
        """Make a tool of a function with type hints; see `tool`."""
        key = name or str(getattr(function, "__name__", ""))
        label = str(getattr(function, "__qualname__", key))
        if not callable(function):
            raise ConfigurationError(f"{function!r} is no tool and no function.")
        arguments = schema.of_function(function, label, ToolContext)
        if description is None:
            description = parse_docstring(inspect.getdoc(function) or "").description
        made = cls.__new__(cls)
        made._set(key, description, "", function, arguments, ToolRules(**options))
        return made

    def _set(
        self,
        key: str,
        description: str,
        content: str,
        handler: Callable[..., Any],
        arguments: schema.Arguments,
        rules: ToolRules,
    ) -> None:
        if not isinstance(key, str) or not key.strip():
            raise ConfigurationError(f"{handler!r}: a tool needs a name.")
        if not all(_is_unicode(text) for text in (key, description, content)):
            raise ConfigurationError(f"Tool {key!a}: name, description and content are Unicode texts.")
        try:
            json.dumps(arguments.schema, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as exc:
            raise ConfigurationError(f"Tool {key!r}: a default or its schema is no JSON.") from exc
        if _yields(handler):
            raise ConfigurationError(f"Tool {key!r}: a generator can't be a tool; return the result.")
        self.key, self.description, self.content, self.handler = key, description, content, handler
        rules.check(key)
        self.policy, self.timeout, self.parallel = rules.policy, rules.timeout, rules.parallel
        self.cache, self.version = rules.cache, rules.version
        self.on_unknown, self.reconcile = rules.on_unknown, rules.reconcile
        self.name = wire_name(key)
        self.is_async = _is_async(handler)
        self._arguments = arguments

    @property
    def parameters(self) -> dict[str, Any]:
        """The JSON Schema of the arguments."""
        return self._arguments.schema

    def spec(self) -> ToolSpec:
        """The tool as the model sees it."""
        text = "\n\n".join(part.strip() for part in (self.description, self.content) if part.strip())
        return ToolSpec(self.name, text or self.key, self.parameters)

    def validate(self, arguments: Mapping[str, Any] | str) -> dict[str, Any]:
        """Return the arguments as keywords for the function; a text must be a JSON object, and an empty
        one is one without arguments. Coerces as pydantic does when not strict (`"5"` is an integer).
        Raises `ToolInputError`, whose message is for the model and quotes values, cut short."""
        return self._arguments.check(self.name, arguments)

    def bind(self, arguments: Mapping[str, Any], ctx: ToolContext) -> Callable[[], Any]:
        """Return the call itself, for validated arguments: a plain function belongs in a thread."""
        given = dict(arguments)
        if self._arguments.context:
            given[self._arguments.context] = ctx
        return lambda: self.handler(**given)

    async def call(self, arguments: Mapping[str, Any], ctx: ToolContext) -> Any:
        """Run the function with validated arguments. A plain one (`is_async` is false) runs right here
        and blocks the event loop: run `bind(…)` in a thread instead."""
        value = self.bind(arguments, ctx)()
        return await value if inspect.isawaitable(value) else value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.handler(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Tool({self.key!r}, policy={self.policy!r}, timeout={self.timeout:g})"


def _is_unicode(text: Any) -> bool:
    return isinstance(text, str) and text == text.encode(errors="replace").decode()


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _yields(function: Callable[..., Any]) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    **options: Unpack[ToolOptions],
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    **options: Unpack[ToolOptions],
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a tool of an async or plain function, as `@tool` or `@tool(policy="at_most_once")`.

    The JSON Schema comes from the type hints, the descriptions from the docstring (Google or Sphinx
    style). For a method, decorate the bound one: `tool(shop.order)`. See `ToolRules` for the options.
    Raises `ConfigurationError`, naming function and parameter.
    """

    def make(target: Callable[..., Any]) -> Tool:
        return Tool.from_function(target, name=name, description=description, **options)

    return make if function is None else make(function)


def wire_name(name: str) -> str:
    """Return the name as every provider takes it: up to 64 of `A-Z a-z 0-9 _ -`, not beginning with a
    digit or `-`. What is too long, or has nothing left, gets a hash of the whole."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if not re.search(r"[A-Za-z0-9]", safe):
        return f"tool_{_digest(name)}"
    if safe[0] in "-0123456789":
        safe = f"_{safe}"
    return safe if len(safe) <= NAME_LENGTH else f"{safe[: NAME_LENGTH - 9]}_{_digest(name)}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]


class ToolBox:
    """The tools of a handler, in order, found by the name that the model uses.

    Plain functions are made tools. Raises `ConfigurationError` when two tools have the same wire name.
    """

    def __init__(self, tools: Iterable[Tool | Callable[..., Any]] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        for item in tools:
            one = item if isinstance(item, Tool) else Tool.from_function(item)
            other = self._tools.setdefault(one.name, one)
            if other is not one:
                raise ConfigurationError(
                    f"The tools {other.key!r} and {one.key!r} both go by the name {one.name!r}; rename one."
                )

    def specs(self) -> list[ToolSpec]:
        """The tools as the model sees them."""
        return [one.spec() for one in self]

    def find(self, name: str) -> Tool | None:
        """Return the tool that the model means, or None."""
        return self._tools.get(name) or self._tools.get(wire_name(name))

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)


def result_text(value: Any) -> str:
    """Return a tool's result as text for the model: a text as it is, None as nothing, JSON for what has
    one (pydantic models and dataclasses, too), a note for binary data, else `str(value)`."""
    if value is None:
        return ""
    if isinstance(value, bytes | bytearray):
        return _decoded(bytes(value))
    if not isinstance(value, str):
        try:
            return to_json(value).decode()
        except (PydanticSerializationError, ValueError):
            value = str(value)
    text: str = value
    return text.encode("utf-8", "replace").decode()


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return f"[{len(data)} bytes of binary data]"


def cut(text: str, limit_bytes: int) -> str:
    """Return the text within `limit_bytes` of UTF-8, the note to the model included, that says how much
    is missing. A limit under the note's own 100 bytes leaves the note alone."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit_bytes:
        return data.decode()
    room = max(0, limit_bytes - len(_cut_note(len(data), len(data))))
    head = data[:room].decode("utf-8", "ignore")
    return head + _cut_note(len(data) - len(head.encode()), len(data))


def _cut_note(dropped: int, total: int) -> str:
    return f"\n[Cut: {dropped} of {total} bytes are not shown. Ask for less at a time.]"
