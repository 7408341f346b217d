"""The arguments of a tool: their JSON Schema, and the check of what the model sends.

They come from a function's type hints and docstring, from a JSON Schema, or from a pydantic model.
The check is pydantic's in JSON mode, not strict: `"5"` is taken for an integer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import from_json, to_json, to_jsonable_python
from typing_extensions import TypedDict

from thoughtgear.docstrings import parse_docstring
from thoughtgear.errors import ConfigurationError, ToolInputError

VALUE_CHARACTERS = 80
PROBLEMS = 10


@dataclass(frozen=True)
class Arguments:
    """What a tool takes: `schema` is sent to the model, `adapter` checks what comes back.

    `keywords` are the names that the function is called with, `context` is the parameter that the tool's
    context is given to, if there is one.
    """

    schema: dict[str, Any]
    adapter: TypeAdapter[Any]
    keywords: frozenset[str]
    context: str | None = None

    def check(self, tool: str, arguments: Mapping[str, Any] | str) -> dict[str, Any]:
        """Return keyword arguments. Raises `ToolInputError` with a text that the model can act on."""
        try:
            found = self.adapter.validate_json(_json(arguments))
        except ValidationError as exc:
            raise ToolInputError(self._explain(tool, exc)) from None
        except Exception as exc:  # a validator of the tool's own types may raise anything
            raise ToolInputError(f"Invalid arguments for {tool}: {type(exc).__name__}.") from None
        return dict(found)

    def _explain(self, tool: str, exc: ValidationError) -> str:
        errors = exc.errors(include_url=False, include_context=False)
        lines = [f"- {self._problem(error)}" for error in errors[:PROBLEMS]]
        if len(errors) > PROBLEMS:
            lines.append(f"- and {len(errors) - PROBLEMS} more")
        return "\n".join([f"Invalid arguments for {tool}:", *lines])

    def _problem(self, error: Mapping[str, Any]) -> str:
        path = ".".join(str(part) for part in error["loc"])
        if error["type"] == "missing":
            return f"{path}: required, but missing"
        if error["type"] == "extra_forbidden" and len(error["loc"]) == 1:
            known = ", ".join(self.schema["properties"]) or "none"
            return f"{_short(path)}: no such argument; known: {known}"
        where = f"{path}: " if path else ""
        return f"{where}{error['msg']} (got {_short(error['input'])})"


def _json(arguments: Mapping[str, Any] | str) -> str:
    """Models send nothing, or `null`, for a tool without arguments: that is an empty object."""
    if not isinstance(arguments, str):
        return to_json(arguments).decode()
    if arguments.strip() in ("", "null"):
        return "{}"
    return arguments.encode("utf-8", "replace").decode()


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    cut = text if len(text) <= VALUE_CHARACTERS else text[:VALUE_CHARACTERS] + "…"
    return repr(cut) if isinstance(value, str) else cut


# From a function


def of_function(function: Callable[..., Any], label: str, context_type: type) -> Arguments:
    """Read type hints and docstring. `label` names the function in errors, a parameter annotated with
    `context_type` is left out of the schema. Raises `ConfigurationError`."""
    namespace = {context_type.__name__: context_type, **_namespace(function)}
    fields: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    context = None
    for parameter in _signature(function, label).parameters.values():
        hint = _hint(parameter, label, namespace)
        if _is_context(hint, context_type):
            if context:
                raise ConfigurationError(f"{label}: {context} and {parameter.name} are both the context.")
            context = parameter.name
            continue
        optional = parameter.default is not parameter.empty
        fields[parameter.name] = NotRequired[hint] if optional else Required[hint]
        if optional and parameter.default is not None:
            defaults[parameter.name] = parameter.default
    adapter, schema = _build(fields, label)
    _annotate(schema, parse_docstring(inspect.getdoc(function) or "").parameters, defaults)
    return Arguments(tidy(schema), adapter, frozenset(fields), context)


def _signature(function: Callable[..., Any], label: str) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError, NameError) as exc:
        raise ConfigurationError(f"{label}: its parameters can't be read: {exc}") from exc


def _namespace(function: Callable[..., Any]) -> Mapping[str, Any]:
    inner = inspect.unwrap(getattr(function, "__func__", function))
    found: Mapping[str, Any] = getattr(inner, "__globals__", None) or getattr(
        type(inner).__call__, "__globals__", {}
    )
    return found


def _hint(parameter: inspect.Parameter, label: str, namespace: Mapping[str, Any]) -> Any:
    """Return the resolved type hint of a parameter that can be passed by name."""
    where = f"{label}, parameter {parameter.name}"
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise ConfigurationError(
            f"{where}: a tool takes named parameters only, this one is {parameter.kind.description}."
        )
    if parameter.annotation is parameter.empty:
        more = " Decorate the bound method." if parameter.name in ("self", "cls") else ""
        raise ConfigurationError(f"{where}: it has no type hint.{more}")
    if isinstance(parameter.default, FieldInfo):
        raise ConfigurationError(f"{where}: write Annotated[…, Field(…)] and a plain default.")
    holder = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        return get_type_hints(holder, dict(namespace), include_extras=True)[parameter.name]
    except Exception as exc:
        raise ConfigurationError(
            f"{where}: the type hint {parameter.annotation!r} can't be resolved ({exc}); "
            "its names must be importable from the function's module."
        ) from exc


def _is_context(hint: Any, context_type: type) -> bool:
    if get_origin(hint) is Annotated:
        return _is_context(get_args(hint)[0], context_type)
    if get_origin(hint) in (Union, UnionType):
        return any(_is_context(member, context_type) for member in get_args(hint))
    return isinstance(hint, type) and issubclass(hint, context_type)


def _build(fields: Mapping[str, Any], label: str) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    try:
        adapter = TypeAdapter[Any](_typed_dict(fields, extra="forbid"))
        return adapter, adapter.json_schema()
    except Exception as exc:
        name = next((name for name, hint in fields.items() if not _describable(hint)), None)
        where = f"{label}, parameter {name}" if name else label
        raise ConfigurationError(f"{where}: its type has no JSON Schema: {exc}") from exc


def _typed_dict(fields: Mapping[str, Any], extra: Literal["allow", "forbid"]) -> Any:
    """A TypedDict takes any name: a model's fields must not be called `json` or `_x`."""
    make: Any = TypedDict
    made = make("Arguments", dict(fields))
    made.__pydantic_config__ = ConfigDict(extra=extra)
    return made


def _describable(hint: Any) -> bool:
    try:
        TypeAdapter(get_args(hint)[0]).json_schema()
    except Exception:
        return False
    return True


def _annotate(schema: dict[str, Any], texts: Mapping[str, str], defaults: Mapping[str, Any]) -> None:
    """Add the docstring's descriptions and the defaults; a `Field(description=…)` stands."""
    for name, node in schema["properties"].items():
        if texts.get(name):
            node.setdefault("description", texts[name])
        if name in defaults and "default" not in node:
            try:
                node["default"] = to_jsonable_python(defaults[name])
            except ValueError:
                continue


# From a JSON Schema or a pydantic model


def of_schema(schema: Mapping[str, Any], label: str) -> Arguments:
    """Take a JSON Schema as it is. Checked are the required and the unknown names (unknown ones are
    refused unless `additionalProperties` allows them), `type`, `enum`, `items` and `properties`; the rest
    of the schema guides the model only. Raises `ConfigurationError`."""
    try:
        copy: dict[str, Any] = deepcopy(dict(schema))
        if from_json(to_json(copy)) != copy:
            raise ValueError("it is not what its JSON says")
    except (TypeError, ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{label}: parameters is not a JSON Schema: {type(exc).__name__}.") from exc
    if copy.setdefault("type", "object") != "object" or not isinstance(copy.get("properties", {}), dict):
        raise ConfigurationError(f"{label}: parameters must be a JSON Schema of type object.")
    copy.setdefault("properties", {})
    copy.setdefault("additionalProperties", False)
    try:
        adapter = TypeAdapter[Any](_type_of(copy))
    except Exception as exc:
        raise ConfigurationError(f"{label}: parameters can't be checked: {type(exc).__name__}.") from exc
    return Arguments(copy, adapter, frozenset(copy["properties"]))


def of_model(model: type[BaseModel], label: str) -> Arguments:
    """Take a pydantic model; its fields are the keyword arguments."""
    adapter = TypeAdapter[Any](model)
    try:
        schema = adapter.json_schema()
    except Exception as exc:
        raise ConfigurationError(f"{label}: {model.__name__} has no JSON Schema: {exc}") from exc
    schema.setdefault("properties", {})
    schema.pop("description", None)
    return Arguments(tidy(schema), adapter, frozenset(model.model_fields))


def for_handler(
    arguments: Arguments, handler: Callable[..., Any], label: str, context_type: type
) -> Arguments:
    """Check that the handler takes the arguments by name, and find its parameter for the context: one
    annotated so, or called `ctx`. Raises `ConfigurationError`."""
    parameters = _signature(handler, label).parameters
    namespace = {context_type.__name__: context_type, **_namespace(handler)}
    context = next((p.name for p in parameters.values() if _wants_context(p, namespace, context_type)), None)
    if context is None and "ctx" in parameters and "ctx" not in arguments.keywords:
        context = "ctx"
    named = {p.name: p for p in parameters.values() if p.kind not in _VARIADIC}
    needed = {name for name, p in named.items() if p.default is p.empty}
    if unfit := sorted(needed - arguments.keywords - {context}):
        raise ConfigurationError(f"{label}: its handler needs {unfit[0]}, which parameters does not have.")
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if not takes_any and (unfit := sorted(arguments.keywords - named.keys())):
        raise ConfigurationError(f"{label}: its handler has no parameter {unfit[0]}.")
    return replace(arguments, context=context)


_VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def _wants_context(parameter: inspect.Parameter, namespace: Mapping[str, Any], context_type: type) -> bool:
    if parameter.annotation is parameter.empty or parameter.kind in _VARIADIC:
        return False
    holder = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        hints = get_type_hints(holder, dict(namespace), include_extras=True)
    except Exception:
        return False  # a hint that only a type checker can resolve is not the context
    return _is_context(hints[parameter.name], context_type)


_SIMPLE = {"string": str, "integer": int, "number": int | float, "boolean": bool, "null": None}


def _type_of(schema: Any) -> Any:
    """The Python type that checks what `of_schema` says is checked."""
    kind = schema.get("type") if isinstance(schema, dict) else None
    if isinstance(kind, list):
        return Union[tuple(_type_of({**schema, "type": one}) for one in kind)] if kind else Any  # noqa: UP007  (dynamic)
    if kind == "object":
        return _object_type(schema)
    if kind == "array":
        return list[_type_of(schema.get("items"))]  # type: ignore[misc]  # a type made at run time
    values = schema.get("enum") if isinstance(schema, dict) else None
    if values and all(isinstance(value, str | int | None) for value in values):
        return Literal[tuple(values)]
    return _SIMPLE.get(str(kind), Any)


def _object_type(schema: Mapping[str, Any]) -> Any:
    properties = schema.get("properties")
    if properties is None:
        return dict[str, Any]
    required = schema.get("required", ())
    fields = {
        name: Required[_type_of(node)] if name in required else NotRequired[_type_of(node)]
        for name, node in properties.items()
    }
    return _typed_dict(fields, extra="allow" if schema.get("additionalProperties", True) else "forbid")


# Small schemas


def tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """Drop titles and put definitions where they are used; a recursive schema keeps its definitions."""
    definitions = schema.pop("$defs", {})
    try:
        made: dict[str, Any] = _tidy(schema, definitions, ())
    except RecursionError:
        made = {**_tidy(schema, None, ()), "$defs": _tidy_all(definitions, None, ())}
    return made


def _tidy_all(nodes: Mapping[str, Any], definitions: Mapping[str, Any] | None, path: tuple[str, ...]) -> Any:
    return {name: _tidy(node, definitions, path) for name, node in nodes.items()}


def _tidy(node: Any, definitions: Mapping[str, Any] | None, path: tuple[str, ...]) -> Any:
    """`definitions` None leaves references alone; `path` is the definitions that we are inside of."""
    if isinstance(node, list):
        return [_tidy(item, definitions, path) for item in node]
    if not isinstance(node, dict):
        return node
    made: dict[str, Any] = {}
    if "$ref" in node and definitions is not None:
        name = node["$ref"].rpartition("/")[2]
        if name in path:
            raise RecursionError(name)
        made = _tidy(definitions[name], definitions, (*path, name))
    for key, value in node.items():
        if key in ("properties", "patternProperties"):
            made[key] = _tidy_all(value, definitions, path)
        elif key in ("default", "const", "enum", "examples"):
            made[key] = value
        elif key != "title" and not (key == "$ref" and definitions is not None):
            made[key] = _tidy(value, definitions, path)
    return made
