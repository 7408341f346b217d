"""What a scan finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from thoughtgear.models import RunError

Kind = Literal[
    "store",
    "temporal",
    "stuck claim",
    "damaged",
    "search attributes",
    "no worker",
    "no workflow",
    "workflow ended",
    "failing",
    "not driven",
    "no run",
    "run is over",
]
"""What is wrong: with the store or the server, with a run (its claim keeps everybody off, its record can't be
read), with one that is not over (its workflow is absent, has ended or fails again and again; nothing drives
it), or with a workflow (its run is absent, or over)."""

Repair = Literal["release", "schedule", "close", "end workflow"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: `what`, and in `todo` what a person can do, with the `command` for it less its
    first word and its place. `repair` is what `Doctor.repair` does about it, if anything; to `close` a run is
    to end it with `status` and `error`.
    """

    kind: Kind
    what: str
    todo: str = ""
    command: str | None = None
    run_id: str | None = None
    workflow_id: str | None = None
    repair: Repair | None = None
    status: Literal["failed", "cancelled"] | None = None
    error: RunError | None = None


@dataclass
class Diagnosis:
    """What a scan found, and what it could not look at and why. `runs` and `workflows` count those that go
    on, `on_temporal` the runs of these that Temporal drives."""

    findings: list[Finding] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    runs: int = 0
    on_temporal: int = 0
    workflows: int = 0

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong, as far as could be looked."""
        return not self.findings
