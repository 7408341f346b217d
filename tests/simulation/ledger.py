"""What truly happened: appended to by the fake model, the fake tools, the store and the clients; never by
the library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from simulation.process import Process
from thoughtgear.models import RunState

MARK = "§"
"""Every prompt, reply, argument and result has this letter: where it is, there is text of the user's."""

SECRET = "hunter2"
"""A key and a password at once."""


class Effect(NamedTuple):
    """A tool took effect in the world outside."""

    key: str
    tool: str
    process: Process
    attempt: str
    at: float


class Reply(NamedTuple):
    """A reply that the provider has written and billed: the `number`-th of the run that begins with `prompt`,
    from 0."""

    name: str
    prompt: str
    number: int
    process: Process
    asked: float
    at: float


class Write(NamedTuple):
    """A commit that the store has made."""

    state: RunState
    process: Process
    attempt: str
    at: float


class Sent(NamedTuple):
    """What a client sent; `acknowledged` is whether its call returned."""

    kind: Literal["prompt", "message", "cancel", "settle"]
    request_id: str
    text: str
    run_id: str


class Strike(NamedTuple):
    """A fault that fired. It lasted `until` then, if it was one that lasts."""

    kind: str
    point: str
    process: Process
    at: float
    until: float


@dataclass
class Ledger:
    """The truth of one experiment, in the order of what happened."""

    effects: list[Effect] = field(default_factory=list)
    returned: set[str] = field(default_factory=set)
    voided: set[str] = field(default_factory=set)
    replies: list[Reply] = field(default_factory=list)
    writes: dict[str, list[Write]] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    acknowledged: list[Sent] = field(default_factory=list)
    strikes: list[Strike] = field(default_factory=list)
    history: list[Any] = field(default_factory=list)
    wrongs: list[str] = field(default_factory=list)
