"""Logs of the standard library's `logging`, under the logger `thoughtgear`, with the run's id on them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any

from thoughtgear.errors import ConfigurationError, ThoughtgearError, ToolInputError

LOGGER = "thoughtgear"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class RunLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose records carry `run_id` and `iteration`, besides what a call gives as `extra`."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, {**kwargs, "extra": {**(self.extra or {}), **(kwargs.get("extra") or {})}}


def run_logger(run_id: str, iteration: int | None = None) -> RunLogger:
    """Return the logger of a run; `iteration` counts from 1."""
    return RunLogger(logging.getLogger(LOGGER), {"run_id": run_id, "iteration": iteration})


class Unsaid(Exception):  # noqa: N818 - it is never raised
    """Stands for an exception in a log: its class name and its stack. Of the message there is only what is
    the library's own. `said` is the exception itself."""

    def __init__(self, said: BaseException) -> None:
        ours = isinstance(said, ThoughtgearError) and not isinstance(said, ToolInputError)
        super().__init__(str(said) if ours else "(its message shows at DEBUG)")
        self.said = said


def loggable(exc: BaseException) -> BaseException:
    """Return what a log may show of an exception: at DEBUG all of it, else no message of foreign code, nor
    of its causes: they quote prompts, replies, arguments and keys."""
    if logging.getLogger(LOGGER).isEnabledFor(logging.DEBUG):
        return exc
    return _unsaid(exc, set())


def _unsaid(exc: BaseException, seen: set[int]) -> BaseException:
    seen.add(id(exc))
    shown: Unsaid = type(type(exc).__name__, (Unsaid,), {"__module__": type(exc).__module__})(exc)
    context = None if exc.__suppress_context__ else exc.__context__
    if exc.__cause__ is not None and id(exc.__cause__) not in seen:
        shown.__cause__ = _unsaid(exc.__cause__, seen)
    elif context is not None and id(context) not in seen:
        shown.__context__ = _unsaid(context, seen)
    return shown.with_traceback(exc.__traceback__)


def configure(as_json: bool = False, level: int | str = "INFO") -> None:
    """Write logs to stderr, one line each: for people, or as JSON. `level` is that of our own logger;
    other libraries show from WARNING on. A second call replaces the first. Raises `ConfigurationError`."""
    chosen = level.upper() if isinstance(level, str) else level
    try:
        logging.getLogger(LOGGER).setLevel(chosen)
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(f"{level!r} is no log level; try DEBUG, INFO, WARNING or ERROR.") from exc
    root = logging.getLogger()
    for handler in [one for one in root.handlers if one.get_name() == LOGGER]:
        root.removeHandler(handler)
    handler = logging.StreamHandler()
    handler.set_name(LOGGER)
    handler.setFormatter(JsonFormatter() if as_json else LineFormatter())
    root.addHandler(handler)


class LineFormatter(logging.Formatter):
    """One line for people; an exception's stack follows it."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [_time(record).strftime("%H:%M:%S"), f"{record.levelname:<7}", one_line(record.getMessage())]
        parts += [f"{name}={value}" for name, value in _run(record).items()]
        line = " ".join(parts)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and where known run_id, iteration,
    exc_type and stack. A stack shows source lines, never the values of variables."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_run(record),
        }
        if record.exc_info and record.exc_info[0]:
            line["exc_type"] = record.exc_info[0].__name__
            line["stack"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _run(record: logging.LogRecord) -> dict[str, Any]:
    found = {name: getattr(record, name, None) for name in ("run_id", "iteration")}
    return {name: value for name, value in found.items() if value is not None}


def one_line(text: str) -> str:
    """Control characters could forge a line, or drive the terminal."""
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)
