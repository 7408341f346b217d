"""Names and URL schemes → the module that has the adapter or provider, loaded on first use."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

from thoughtgear.errors import ConfigurationError
from thoughtgear.protocols import Executor, ModelProvider, OrmAdapter

ADAPTERS = {
    "memory": "thoughtgear.adapters.memory:MemoryAdapter",
    "sqlite": "thoughtgear.adapters.sql:SqlAdapter",
    "postgresql": "thoughtgear.adapters.postgres:PostgresAdapter",
    "postgres": "thoughtgear.adapters.postgres:PostgresAdapter",
    "files": "thoughtgear.adapters.files:FilesAdapter",
    "mongodb": "thoughtgear.adapters.mongodb:MongoAdapter",
    "s3": "thoughtgear.adapters.s3:S3Adapter",
}
"""URL scheme → a class with `from_url(url)` and `from_dict(settings)`."""

PASSING = ("memory",)
"""Of these, those that end with their process. The others are made by their first use, unless the option
`create` says otherwise."""

PROVIDERS = {
    "anthropic": "thoughtgear.providers.anthropic:AnthropicProvider",
    "bedrock": "thoughtgear.providers.bedrock:BedrockProvider",
    "gemini": "thoughtgear.providers.gemini:GeminiProvider",
    "openai": "thoughtgear.providers.openai:OpenAIProvider",
    "scripted": "thoughtgear.providers.scripted:ScriptedProvider",
}
"""Provider name → a class whose keyword arguments are the keys of the settings dict, less `provider`."""

FALLBACK = "thoughtgear.providers.fallback:FallbackModel"

EXECUTORS = {
    "local": "thoughtgear.executors.local:LocalExecutor",
    "lambda": "thoughtgear.executors.lambda_:from_environment",
    "sqs": "thoughtgear.executors.sqs:from_environment",
    "temporal": "thoughtgear.executors.temporal:TemporalExecutor",
}

EXTRAS = {
    "watchfiles": "server",
    "asyncpg": "postgres",
    "pymongo": "mongodb",
    "boto3": "s3",
    "botocore": "s3",
    "thoughtgear.providers.bedrock": "bedrock",
    "cryptography": "codec",
    "starlette": "codec-server",
    "uvicorn": "codec-server",
}
"""Module → the extra that brings it, or that brings all it needs."""

NO_MODEL = "scripted:echo"
"""The model of a handler that only looks at runs, or ends them: it is never asked."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,19}")

DEFAULT_DB = "sqlite:///thoughtgear.db"


def load(target: str) -> Any:
    """Import `module:attribute`. Raises `ConfigurationError`, with the extra to install where that helps."""
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as exc:
        extra = EXTRAS.get(exc.name or "")
        if extra is None:
            raise
        extra = EXTRAS.get(module, extra)
        raise ConfigurationError(
            f"{exc.name} is not installed; run: pip install 'thoughtgear[{extra}]'"
        ) from exc


def lookup(table: Mapping[str, str], name: str, what: str) -> Any:
    """Load the entry of that name. Raises `ConfigurationError` that lists the known ones."""
    if not isinstance(name, str) or name not in table:
        # What is no plain name may be a key, or hold a password.
        shown = repr(name) if isinstance(name, str) and _NAME.fullmatch(name) else "This"
        raise ConfigurationError(f"{shown} is no {what}; known: {', '.join(sorted(table))}")
    return load(table[name])


def given_store(db: str | Mapping[str, Any] | None, orm: OrmAdapter | None) -> OrmAdapter:
    """Return `orm`, or the store that `db` names. Raises `ConfigurationError` where both are given."""
    if db is not None and orm is not None:
        raise ConfigurationError("Give db= or orm=, not both.")
    return orm or open_store(db)


def open_store(db: str | Mapping[str, Any] | None = None, *, create: bool = True) -> OrmAdapter:
    """Make a store from a URL, a dict with a `type` or the JSON of one, or `THOUGHTGEAR_DB` (default: SQLite
    in this folder). Without `create` it has to be there, unless its own option `create` says otherwise.
    Raises `ConfigurationError`, which repeats no secret."""
    db = db or os.environ.get("THOUGHTGEAR_DB") or DEFAULT_DB
    if isinstance(db, str) and is_dict(db):
        db = _read_dict(db)
    return _from_url(db, create) if isinstance(db, str) else _from_dict(db, create)


def _from_url(url: str, create: bool) -> OrmAdapter:
    scheme = url.partition(":")[0].partition("+")[0]
    if not create and scheme not in PASSING and not _has_create(url):
        url += f"{'&' if '?' in url else '?'}create=false"
    store: OrmAdapter = lookup(ADAPTERS, scheme, "store").from_url(url)
    return store


def _from_dict(db: Mapping[str, Any], create: bool) -> OrmAdapter:
    settings = _settings(db, "A store")
    kind = settings.pop("type", "")
    if not create and kind not in PASSING and not _has_create(str(settings.get("url"))):
        settings.setdefault("create", False)
    store: OrmAdapter = lookup(ADAPTERS, kind, "store").from_dict(settings)
    return store


def _has_create(url: str) -> bool:
    return "create" in parse_qs(url.partition("?")[2])


def is_dict(db: str) -> bool:
    """Whether this is to be the JSON of a store's dict: no URL begins so."""
    return db.lstrip().startswith("{")


def _read_dict(text: str) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError):  # `from None`: it holds the text, where a password may stand
        raise ConfigurationError(
            "This store's JSON can't be read. It is a dict with a type, such as "
            '{"type": "sqlite", "path": "runs.db"}; a URL does, too.'
        ) from None
    return read


def open_model(model: str | Mapping[str, Any] | ModelProvider | None = None) -> ModelProvider:
    """Make a provider from `provider:name`, a dict, or `THOUGHTGEAR_MODEL`; an object is taken as it is."""
    model = model or os.environ.get("THOUGHTGEAR_MODEL")
    if model is None:
        raise ConfigurationError('No model: pass model="openai:gpt-4o-mini" or set THOUGHTGEAR_MODEL.')
    if isinstance(model, str):
        provider, _, name = model.partition(":")
        model = {"provider": provider, "name": name} if name else {"provider": provider}
    if isinstance(model, Mapping):
        settings = _settings(model, "A model")
        provider = lookup(PROVIDERS, settings.pop("provider", ""), "provider")
        _check_settings(provider, settings)
        made: ModelProvider = provider(**settings)
        return made
    return model


def open_models(
    model: str | Mapping[str, Any] | ModelProvider | None,
    fallback: Sequence[str | Mapping[str, Any] | ModelProvider] = (),
) -> ModelProvider:
    """Make a provider that asks `model` and, when that is out, those of `fallback` in turn."""
    first = open_model(model)
    if isinstance(fallback, str | Mapping) or not isinstance(fallback, Sequence):
        raise ConfigurationError("fallback is a list of models, each named as model= is.")
    if not fallback:
        return first
    made: ModelProvider = load(FALLBACK)([first, *map(open_model, fallback)])
    return made


def _settings(given: Mapping[str, Any], what: str) -> dict[str, Any]:
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise ConfigurationError(f"{what} is named by a text, or by a dict whose keys are texts.")
    return dict(given)


def _check_settings(provider: Any, settings: Mapping[str, Any]) -> None:
    known = list(_parameters(provider))
    unknown = sorted(settings.keys() - set(known))
    if unknown:
        raise ConfigurationError(
            f"{provider.__name__} has no setting {unknown[0]!r}; it has {', '.join(known)}."
        )


def _parameters(provider: Any) -> Iterator[str]:
    """The settings of a class, and those of its parents that it passes on."""
    for kind in provider.__mro__:
        if "__init__" in vars(kind):
            given = list(inspect.signature(kind.__init__).parameters.values())[1:]
            yield from (each.name for each in given if each.kind is not each.VAR_KEYWORD)
            if not any(each.kind is each.VAR_KEYWORD for each in given):
                return


def open_executor(executor: str | Executor | None = None) -> Executor:
    """Make an executor by name (default `local`); an object is taken as it is."""
    if executor is None or isinstance(executor, str):
        made: Executor = lookup(EXECUTORS, executor or "local", "executor")()
        return made
    return executor
