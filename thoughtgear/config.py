"""Settings from the environment and the command line, the connection to Temporal, and targets.

Temporal's own settings (`TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, `TEMPORAL_PROFILE`,
`TEMPORAL_TLS_…`, and its configuration file) are read by `temporalio.envconfig`: a local server and
Temporal Cloud differ by them alone.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

from thoughtgear.environment import one_of, switch
from thoughtgear.errors import ConfigurationError, ThoughtgearError
from thoughtgear.payloads import TASK_QUEUE

if TYPE_CHECKING:
    from temporalio.client import Client

    from thoughtgear.handler import PromptHandler

DEFAULT_ADDRESS = "localhost:7233"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Settings:
    """What a process is told from outside. `db` and `model` of None leave the choice to the handler."""

    db: str | None = field(default=None, repr=False)  # may hold a password
    model: str | None = None
    task_queue: str = TASK_QUEUE
    log_json: bool = False
    log_level: str = "INFO"

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, **given: Any) -> Self:
        """Read `THOUGHTGEAR_DB`, `_MODEL`, `_TASK_QUEUE`, `_LOG_JSON` and `_LOG_LEVEL`.

        `given` is the command line's: it wins where it is not None. An empty variable counts as unset.
        Raises `ConfigurationError` that names the variable.
        """
        environ = os.environ if environ is None else environ
        found: dict[str, Any] = {}
        for name in (each.name for each in fields(cls)):
            variable = f"THOUGHTGEAR_{name.upper()}"
            value = given.pop(name, None)
            if value is None:
                value = environ.get(variable) or None
            if value is not None:
                found[name] = _parse(name, variable, value)
        if given:
            raise TypeError(f"no such setting: {', '.join(given)}")
        return cls(**found)


def _parse(name: str, variable: str, value: Any) -> Any:
    if name == "log_json" and not isinstance(value, bool):
        return switch(variable, str(value))
    if name == "log_level":
        return one_of({each: each for each in LEVELS}, variable, str(value).upper(), ", ".join(LEVELS))
    return value


async def connect(
    *, address: str | None = None, namespace: str | None = None, profile: str | None = None, **options: Any
) -> Client:
    """Connect to Temporal, as the environment says, encryption included; what is given here wins.

    `options` go to `Client.connect` (data converter, plugins, …). Raises `ConfigurationError` that says
    which address did not answer and what to start, within 10 s. It never holds the API key.
    """
    from temporalio.client import Client  # takes a second, and much is done without a server

    from thoughtgear.client import compression_for
    from thoughtgear.codec import converter_from_environment

    options = {"data_converter": converter_from_environment(), **options}
    target: dict[str, Any] = {"target_host": DEFAULT_ADDRESS, **_profile(profile)}
    target |= {"target_host": address} if address else {}
    target |= {"namespace": namespace} if namespace else {}
    options = {"grpc_compression": compression_for(target["target_host"]), **options}
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await Client.connect(**{**target, **options})
    except (RuntimeError, ValueError, TimeoutError) as exc:
        # `from None`: the SDK's text may quote request metadata, where the API key is.
        raise ConfigurationError(_why_not(target["target_host"], exc)) from None


def _profile(profile: str | None) -> Mapping[str, Any]:
    from temporalio.envconfig import ClientConfigProfile

    try:
        return dict(ClientConfigProfile.load(profile).to_client_connect_config())
    except OSError as exc:
        raise ConfigurationError(
            f"Temporal's settings name the file {exc.filename}, which can't be read ({exc.strerror})."
        ) from exc
    except Exception as exc:  # the SDK's ConfigError is no public class
        raise ConfigurationError(
            f"Temporal's settings can't be read ({_line(exc)}); check TEMPORAL_PROFILE and the profile file."
        ) from None


def _why_not(address: str, exc: Exception) -> str:
    said = str(exc)
    if isinstance(exc, ValueError):
        return f"{address!r} is no address of a Temporal server; give it as host:port."
    if "Unauthenticated" in said or "PermissionDenied" in said:
        return (
            f"Temporal at {address} refused the credentials; check TEMPORAL_API_KEY, TLS and the namespace."
        )
    return (
        f"No Temporal server answers at {address}; start one with `thoughtgear dev`, "
        "or set TEMPORAL_ADDRESS to where one runs."
    )


def load_target(target: str) -> list[PromptHandler]:
    """Import the handlers of `module:attribute` or `path/to/file.py:attribute`.

    The attribute is a handler, a list of handlers, or a function without arguments that makes either. The
    current folder (for a path: the file's folder) becomes importable. Raises `ConfigurationError`.
    """
    where, _, attribute = target.rpartition(":")
    if not where:
        where, attribute = target, ""
    module = _import_file(where) if where.endswith(".py") else _import_module(where, Path.cwd())
    if not attribute or not hasattr(module, attribute):
        raise ConfigurationError(_missing(where, attribute, module))
    return _handlers(target, where, getattr(module, attribute))


def _handlers(target: str, where: str, value: Any) -> list[PromptHandler]:
    from thoughtgear.handler import PromptHandler

    if callable(value) and not isinstance(value, PromptHandler):
        value = _guarded(where, value)
    handlers = list(value) if isinstance(value, list | tuple) else [value]
    strangers = [type(each).__name__ for each in handlers if not isinstance(each, PromptHandler)]
    if strangers or not handlers:
        raise ConfigurationError(
            f"{target} gives {', '.join(strangers) or 'an empty list'}; it has to be a PromptHandler, "
            "a list of them, or a function without arguments that returns one."
        )
    return handlers


def _missing(where: str, attribute: str, module: ModuleType) -> str:
    from thoughtgear.handler import PromptHandler

    names = [name for name, value in vars(module).items() if isinstance(value, PromptHandler)]
    problem = f"{where} has no {attribute!r}" if attribute else f"{where} needs an attribute"
    if not names:
        return f"{problem}, and no PromptHandler either; write one there, e.g. handler = PromptHandler(…)."
    return f"{problem}; its handlers: {', '.join(f'{where}:{name}' for name in names)}"


def _import_file(path: str) -> ModuleType:
    file = Path(path).absolute()
    try:
        there = file.is_file()
    except (OSError, ValueError):  # a name that no file can have
        there = False
    if not there:
        raise ConfigurationError(f"There is no file {path}; give a target as path/to/file.py:attribute.")
    module = _import_module(file.stem, file.parent)
    origin = getattr(module, "__file__", None)
    if origin is None or not file.samefile(origin):
        raise ConfigurationError(f"{path} has the name of another module ({file.stem}); rename the file.")
    return module


def _import_module(name: str, folder: Path) -> ModuleType:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        module: ModuleType = _guarded(name, importlib.import_module, name)
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            f"There is no module {name!r} here ({folder}); give a target as module:attribute "
            "or path/to/file.py:attribute."
        ) from exc
    return module


def _guarded(where: str, call: Any, *arguments: Any) -> Any:
    """Call what the user wrote. What it raises becomes one line; the library's own errors pass."""
    try:
        return call(*arguments)
    except ThoughtgearError:
        raise
    except ModuleNotFoundError as exc:
        if exc.name and (where == exc.name or where.startswith(f"{exc.name}.")):
            raise
        raise ConfigurationError(f"{where} needs {exc.name}, which is not installed{_place(exc)}.") from exc
    except (Exception, SystemExit) as exc:  # a script that ends the process has to guard that
        raise ConfigurationError(f"{where} failed with {_line(exc)}{_place(exc)}.") from exc


def _line(exc: BaseException) -> str:
    first = next(iter(str(exc).splitlines()), "")
    return f"{type(exc).__name__}: {first}" if first else type(exc).__name__


def _place(exc: BaseException) -> str:
    """Where it happened, ` (file:line)`: the innermost line that is not of the import machinery."""
    if isinstance(exc, SyntaxError) and exc.filename:
        return f" ({Path(exc.filename).name}:{exc.lineno})"
    frames = [each for each in traceback.extract_tb(exc.__traceback__) if "importlib" not in each.filename]
    ours = [each for each in frames if each.filename != __file__]
    return f" ({Path(ours[-1].filename).name}:{ours[-1].lineno})" if ours else ""
