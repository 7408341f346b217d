"""What may go wrong, and where: every fault by name, and the points at which it can happen."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """A fault at the `at`-th point that an experiment passes; `kind` None is any that can happen there.
    `seconds` is how long it lasts, where it lasts; None: as long as its kind does by default."""

    at: int
    kind: str | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        lasts = "" if self.seconds is None else f"~{self.seconds:g}"
        return f"{self.at}:{self.kind or 'any'}{lasts}"


def read_fault(text: str) -> Fault:
    """Read what `str` of a fault has made."""
    at, _, kind = text.partition(":")
    kind, _, seconds = kind.partition("~")
    return Fault(int(at), None if kind == "any" else kind, float(seconds) if seconds else None)


ANYWHERE = {
    "die": "the process is killed",
    "freeze": "the process stands still, and goes on later as a zombie",
    "thaw": "every process that stands still goes on now",
    "stop": "the process is asked to end: everything in it is cancelled",
    "slow": "this step takes long",
    "again": "the same schedule arrives once more",
    "stale": "an older attempt is started long after its time",
}

ELSEWHERE = {
    "refuse": "an error, and nothing has happened",
    "lose": "it has happened, and its acknowledgement is lost",
    "late": "an error, and the write lands later",
    "away": "the store is away for all, for a while",
    "retry": "the provider asks to be tried again later",
    "bug": "an error that is no error of the library, with a secret in its text",
    "doubt": "the tool can't tell whether it took effect",
    "hang": "the tool gives no sign of life",
}

KINDS = {**ANYWHERE, **ELSEWHERE}

READS = ("load_run", "get_history", "get_document")
WRITES = ("save_run", "put_document")

_MORE: dict[str, tuple[str, ...]] = {
    **{f"{name}:before": ("refuse", "away") for name in READS},
    **{f"{name}:after": () for name in READS},
    **{f"{name}:before": ("refuse", "away", "late") for name in WRITES},
    **{f"{name}:after": ("lose", "away") for name in WRITES},
    "model:before": ("refuse", "retry", "bug"),
    "model:after": ("refuse",),
    "tool:before": ("doubt", "hang"),
    "tool:after": ("doubt", "hang"),
    "reconcile:before": ("bug", "hang"),
    "reconcile:after": ("bug", "hang"),
    "schedule:before": ("refuse",),
    "schedule:after": ("lose",),
    "report:before": ("lose",),
}

POINTS: dict[str, tuple[str, ...]] = {point: (*ANYWHERE, *more) for point, more in _MORE.items()}
"""Every point of the code under test at which it awaits something outside, and what may happen there.

`report` is the way of a finished attempt's result to its driver, `schedule` that of a run to its executor.
"""

LASTS = {"freeze": 45.0, "slow": 3.0, "away": 20.0, "late": 0.5, "hang": 60.0, "retry": 5.0}
"""Seconds that a fault lasts in the schedules that are enumerated."""

VARIED = {
    "freeze": (0.7, 5.0, 10.6, 11.5, 33.0, 70.0),
    "slow": (0.3, 1.6, 11.0, 33.0, 70.0),
    "away": (0.3, 3.0, 8.0, 40.0),
    "late": (0.01, 0.06, 0.3, 2.0, 15.0),
    "hang": (45.0, 90.0),
    "retry": (0.0, 2.0, 90.0),
}
"""Seconds that it lasts in random schedules: around every deadline of the library."""

LISTED = {(point, kind) for point, kinds in POINTS.items() for kind in kinds}
"""What has to have fired by the end of a whole search."""
