"""How a call ended that nobody saw the end of: what `reconcile` or a person says about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Done:
    """The call took effect; `result` is what it would have returned."""

    result: Any = None


@dataclass(frozen=True)
class Void:
    """The call took no effect, and under its idempotency key it never will: the key was cancelled, or is
    refused from now on. "Not seen so far" is not this: the request may still be on its way."""

    reason: str = ""


Outcome = Done | Void | None
"""None: nobody can tell."""

Reconcile = Callable[[str], Outcome | Awaitable[Outcome]]
"""Asks the outside what became of the call with this idempotency key, and settles it."""
