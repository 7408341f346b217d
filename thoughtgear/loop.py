"""The decisions of the loop as pure functions, shared by handler, workflow and local executor."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, fields
from typing import Literal

from thoughtgear.errors import ConfigurationError
from thoughtgear.models import OVER, RunError, RunState, Status, now
from thoughtgear.payloads import IterationResult


@dataclass(frozen=True)
class Limits:
    """When a run stops by itself, and what is too large. Times in seconds, sizes in bytes.

    A run that reaches `iterations`, `tokens` (input and output together), `cost` (in US dollars, of the
    replies whose price is known), `seconds` (since its first iteration began, without what it waited for a
    person) or `lost_replies` (that began and broke off, in a row: a provider may charge for them) fails with
    that reason; an answer that is already there still counts. Each is a number of 0 or more, and finite; only
    the times and `cost` may have a fraction. Raises `ConfigurationError` for what is none.
    """

    iterations: int = 100
    tokens: int = 2_000_000
    seconds: float = 24 * 3600.0
    lost_replies: int = 30
    model_seconds: float = 600.0
    prompt_bytes: int = 1_000_000
    file_bytes: int = 20_000_000
    files: int = 20
    reply_bytes: int = 4_000_000
    tool_calls: int = 64
    tool_result_bytes: int = 50_000
    inbox: int = 100
    metadata_bytes: int = 16_000
    cost: float | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            limit = getattr(self, each.name)
            if limit is None and each.name == "cost":
                continue
            kinds = (int, float) if "float" in str(each.type) else (int,)
            if isinstance(limit, bool) or not isinstance(limit, kinds) or not 0 <= limit < math.inf:
                what = "finite number" if float in kinds else "whole number"
                raise ConfigurationError(f"Limits({each.name}=…) is a {what} of 0 or more.")


@dataclass(frozen=True)
class Verdict:
    """What a run is after a complete turn."""

    status: Status
    error: RunError | None = None


def judge(state: RunState, *, answered: bool, limits: Limits) -> Verdict:
    """Decide after a complete turn. `answered`: the model's last reply asked for no tool.

    Done needs an empty inbox: a message that came meanwhile is answered before the run ends.
    """
    if answered and not state.mail:
        return Verdict("done")
    over = limit_reached(state, limits)
    return Verdict("failed", over) if over else Verdict("running")


def go_on(state: RunState) -> None:
    """Set a draft running: its clock ticks from the first time on, but not while it waits for a person."""
    state.status = "running"
    state.started_at = state.started_at or now()
    if state.paused_at is not None:
        state.paused_seconds += (now() - state.paused_at).total_seconds()
        state.paused_at = None


def reopened(state: RunState) -> bool:
    """Whether a run was retried, and nobody has gone on with it since: its clock has not begun."""
    return state.status == "running" and state.started_at is None


def pause(state: RunState) -> None:
    """Have a draft wait for a person."""
    state.status = "waiting"
    state.paused_at = state.paused_at or now()


def limit_reached(state: RunState, limits: Limits) -> RunError | None:
    """Return why the run must not buy another reply, or None."""
    used = {
        "iterations": state.iteration,
        "tokens": state.usage.total_tokens,
        "cost": state.bill.spent,
        "seconds": seconds_of(state),
        "lost_replies": state.lost_replies,
    }
    for name, value in used.items():
        limit = getattr(limits, name)
        if limit is not None and value >= limit:
            what = "US dollars" if name == "cost" else name.replace("_", " ")
            return RunError(
                type="LimitExceededError",
                message=f"The run reached its limit of {limit:g} {what}; Limits({name}=…) raises it.",
            )
    return None


def seconds_of(state: RunState) -> float:
    """How long the run has gone on, on the clock that `Limits.seconds` bounds."""
    return (now() - (state.started_at or now())).total_seconds() - state.paused_seconds


@dataclass(frozen=True)
class Step:
    """What a driver does next: run `iteration`, after `seconds`; or stop, the run being over."""

    kind: Literal["iterate", "wait", "stop"]
    iteration: int
    seconds: float = 0.0


def next_step(result: IterationResult) -> Step:
    """Decide what a driver does after an iteration reported `result`."""
    if result.status in OVER:
        return Step("stop", result.iteration)
    if result.status in ("waiting", "in_progress"):
        return Step("wait", result.iteration, max(result.wait, 0.05))
    return Step("iterate", result.iteration)


RETRY_FIRST, RETRY_FACTOR, RETRY_MOST = 1.0, 2.0, 60.0
"""The backoff: seconds before the second attempt, what each further one multiplies them by, and their end."""

RETRY_AFTER_MOST = 3600.0
"""Seconds that a provider's Retry-After is honoured; then it is asked again, and may say so again."""

SPREAD = 0.1
"""What of a Retry-After is added by chance at the most, where that is more than the backoff."""


def retry_delay(attempt: int, retry_after: float | None = None) -> float:
    """Seconds before attempt `attempt + 1`: exponential backoff, or what the provider asks for and a bit.

    Chance spreads what failed at the same moment: half of the backoff is left to it, and all that comes on
    top of a Retry-After. As this grows with the attempts, a crowd thins out until its provider can serve it.
    """
    backoff = min(RETRY_FIRST * RETRY_FACTOR ** min(attempt - 1, 10), RETRY_MOST)
    if retry_after is None:
        return backoff * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
    asked = min(max(0.0, retry_after), RETRY_AFTER_MOST)
    return asked + random.uniform(0.0, max(backoff, asked * SPREAD))  # noqa: S311
