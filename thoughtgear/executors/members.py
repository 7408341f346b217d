"""The executors that are in one: those that others wrap, or choose from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from thoughtgear.protocols import Executor

E = TypeVar("E")


def members(executor: Executor) -> Iterator[Executor]:
    """The executors that drive: this one, or those in it."""
    inner = getattr(executor, "members", None)
    if inner is None:
        yield executor
    else:
        for each in inner:
            yield from members(each)


def member(executor: Executor, kind: type[E]) -> E | None:
    """The first one of a kind, or None."""
    return next((each for each in members(executor) if isinstance(each, kind)), None)
