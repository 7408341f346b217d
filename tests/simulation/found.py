"""Experiments that broke a promise once, each with what was wrong. `just simulate` prints them like this."""

from __future__ import annotations

FOUND = {
    "mail-local#1448@10:slow~11,24:again,51:die,64:again,98:die,111:stop": (
        "Clocks 6 s apart, where a claim of 10 s has 5.7 s left at its renewal: more than the world may do."
    ),
    "small-local@13:refuse,14:freeze~45": (
        "The time of a tool began before the commit that it is started: after a long wait for the store it "
        "was begun with no time left, and its end unknown."
    ),
    "fail-temporal#13@37:die,47:stale": (
        "An old attempt that a worker starts when it thaws took over from a later one "
        "at work, and bought its reply."
    ),
    "limit-local#16301@49:stop": (
        "What a tool had returned was lost: its commit waited for a look when the worker was stopped."
    ),
    "fail-queue#17447@43:lose,45:stop,60:away~0.3,61:stop": (
        "A call that a stopped worker had noted as started, and not begun, was unknown."
    ),
    "small-local@19:freeze~45,22:again": (
        "A worker that thawed in its commit went on under a claim that was over: two bought the next reply."
    ),
}
