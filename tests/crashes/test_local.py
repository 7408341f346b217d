"""The windows of an iteration under the local executor: a process dies, and the next one finishes the run."""

from __future__ import annotations

from pathlib import Path

import pytest
from places import STORES, url_of
from proofs.agent import (
    AFTER_COMMIT,
    AFTER_EFFECT,
    AFTER_REPLY,
    BEFORE_EFFECT,
    BEFORE_MODEL,
    BEFORE_TOOLS,
    DURING_LOOK,
    DURING_TOOL,
    STARTED,
    Agent,
    ledger_of,
    prompt,
)
from proofs.faults import EXIT_CODE, Fault
from proofs.violations import Ended, secrets, violations
from proofs.workers import Job, WorkerProcess, work_locally

from thoughtgear.registry import open_store

STEPS = 1

WINDOWS = {
    # window: (iteration, replies lost, payments, how the payment may stand in the transcript)
    BEFORE_MODEL: (1, 0, 1, {"ok"}),
    AFTER_REPLY: (1, 1, 1, {"ok"}),
    BEFORE_TOOLS: (1, 0, 1, {"ok"}),
    STARTED: (1, 0, 0, {"unknown"}),
    BEFORE_EFFECT: (1, 0, 0, {"unknown"}),
    DURING_TOOL: (1, 0, 1, {"unknown"}),
    DURING_LOOK: (1, 0, 1, {"unknown", "ok"}),  # the payment's result may be saved by then
    AFTER_EFFECT: (1, 0, 1, {"unknown"}),
    AFTER_COMMIT: (1, 0, 1, {"ok"}),
    f"{AFTER_COMMIT}, of the answer": (2, 0, 1, {"ok"}),
}

EVERY_DAY = ("sqlite",)


@pytest.fixture(
    params=[pytest.param(name, marks=[] if name in EVERY_DAY else pytest.mark.long) for name in STORES]
)
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Job:
    """Work on each store that outlives a process."""
    return Job(url_of(request.param, tmp_path, request), tmp_path)


@pytest.mark.parametrize("window", WINDOWS)
async def test_crash_window(job: Job, window: str) -> None:
    """After a death at this window the run ends as it must: no saved reply bought again, at most one payment,
    one result per call, and `unknown` exactly where nobody can know."""
    iteration, lost, paid, outcomes = WINDOWS[window]
    ledger = ledger_of(job.folder)
    text = prompt(job.folder.name, STEPS)
    async with Agent(ledger).handler(open_store(job.url)) as handler:
        run = await handler.create_run(text)
    point = window.removesuffix(", of the answer")
    assert (
        await WorkerProcess(job.striking(Fault("die", point, iteration)), work_locally).ended() == EXIT_CODE
    )
    assert len(ledger.notes("fault", point=point)) == 1
    assert await WorkerProcess(job, work_locally).ended() == 0

    store = open_store(job.url)
    state, history = await store.load_run(run.run_id), await store.get_history(run.run_id)
    await store.aclose()
    unknown = ["1.0"] if "unknown" in outcomes else []
    ended = Ended(text, STEPS, state, history, lost=lost, unknown=unknown)
    assert await violations(ended, ledger) + secrets([job.log.read_text()]) == []
    assert (
        next(m.tool_result.status for m in history if m.tool_result and m.tool_result.name == "pay")
        in outcomes
    )
    assert len(ledger.notes("effect", tool="pay")) == paid
    assert len(ledger.notes("reply")) == 2 + lost
