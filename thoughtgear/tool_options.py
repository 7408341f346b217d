"""How a tool may be run: the options of `@tool` and `Tool`, and what is checked of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypedDict, get_args

from thoughtgear.errors import ConfigurationError
from thoughtgear.models import OnUnknown, ToolPolicy
from thoughtgear.outcomes import Reconcile


class ToolOptions(TypedDict, total=False):
    """The options by keyword; `ToolRules` says what they mean and has the defaults."""

    policy: ToolPolicy
    timeout: float
    parallel: bool
    cache: timedelta | None
    version: str
    on_unknown: OnUnknown
    reconcile: Reconcile | None


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


@dataclass(frozen=True, kw_only=True)
class ToolRules:
    """How a tool is run.

    `policy`: an `idempotent` tool may run again after a crash, with the same idempotency key; an
    `at_most_once` tool never. `timeout` is in seconds. `parallel`: it may run beside other calls.

    `cache`: for so long a result is used again for the same user, handler and arguments, instead of running
    the tool; only for a tool whose result depends on nothing else. Another `version` of the tool starts
    afresh.

    When nobody saw how a call ended (an `at_most_once` one that was cut off or timed out, or one that raised
    `OutcomeUnknownError`), `reconcile(idempotency_key)` is asked, a plain or async function that settles the
    key outside and returns `Done(result)`, `Void(reason)`, or None. What stays unknown then is a matter of
    `on_unknown`: the model is told, the run waits until a person settles the call, or the run fails.

    `check` raises `ConfigurationError`.
    """

    policy: ToolPolicy = "idempotent"
    timeout: float = 300.0
    parallel: bool = True
    cache: timedelta | None = None
    version: str = "1"
    on_unknown: OnUnknown = "tell_model"
    reconcile: Reconcile | None = None

    def check(self, tool: str) -> None:
        """Raise for the first option that can't work, and say which tool's it is."""
        for holds, rule in self._rules():
            if not holds:
                raise ConfigurationError(f"Tool {tool!r}: {rule}")

    def _rules(self) -> list[tuple[bool, str]]:
        policies, answers = get_args(ToolPolicy), get_args(OnUnknown)
        cache, ask = self.cache, self.reconcile
        lasts = cache is None or (isinstance(cache, timedelta) and cache > timedelta(0))
        return [
            (self.policy in policies, f"policy must be one of {policies}."),
            (_is_time(self.timeout), "timeout must be a positive number of seconds."),
            (lasts, "cache must be a timedelta above zero."),
            (
                cache is None or self.policy != "at_most_once",
                "at_most_once is for effects, and a cached result would leave the effect out; drop cache= or "
                "the policy.",
            ),
            (
                isinstance(self.version, str) and bool(self.version),
                "version must be a text, not empty.",
            ),
            (self.on_unknown in answers, f"on_unknown must be one of {answers}."),
            (ask is None or callable(ask), "reconcile must be a function of an idempotency key."),
        ]
