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


def members_of(executor: Executor, kind: type[E]) -> list[E]:
    """Those of a kind, in their order."""
    return [each for each in members(executor) if isinstance(each, kind)]


def member(executor: Executor, kind: type[E]) -> E | None:
    """The first one of a kind, or None."""
    return next(iter(members_of(executor, kind)), None)
