"""Code that is not ours: what a handler's owner wrote is called so that it can't take the worker along."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from thoughtgear.errors import ConfigurationError

P = ParamSpec("P")
T = TypeVar("T")


async def contained(
    what: str, function: Callable[P, T | Awaitable[T]], *args: P.args, **options: P.kwargs
) -> T:
    """Call a function, plain or async, and return what it returns.

    `SystemExit` would end the worker and all its runs; a cancellation that nobody asked for would leave the
    run with nobody to drive it. Both come out as `ConfigurationError`, anything else as it is.
    """
    try:
        made = function(*args, **options)
        return await made if inspect.isawaitable(made) else made
    except SystemExit as exc:
        raise ConfigurationError(f"{what} raised SystemExit; it has to raise an Exception.") from exc
    except asyncio.CancelledError as exc:
        if being_cancelled():
            raise
        raise ConfigurationError(f"{what} raised CancelledError, and nobody had cancelled it.") from exc


def being_cancelled() -> bool:
    """Whether somebody has cancelled the current task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
