"""A worker that is asked to stop hands over: what fits into its grace time is finished, the rest goes on
elsewhere."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from histories import chain, of_type
from proofs.agent import BEFORE_MODEL, DURING_LOOK, DURING_TOOL
from proofs.case import Case
from proofs.faults import Fault, release


@pytest.mark.parametrize("point", [BEFORE_MODEL, DURING_TOOL])
async def test_what_fits_into_the_grace_time_is_finished(case: Case, point: str) -> None:
    """After SIGTERM a worker takes no more work and finishes its model call or tool; another one goes on."""
    stopping = case.process(Fault("hold", point, 1))
    await case.ask()
    await case.until(lambda: case.ledger.notes("fault"))
    stopping.signal(signal.SIGTERM)
    async with case.worker():
        await case.until(lambda: case.ledger.notes("stopping"))
        release(case.ledger)
        assert await stopping.ended() == 0
        await case.over()
    ended = await case.check()
    assert ended["1.0"] == "ok"
    assert {note["pid"] for note in case.ledger.notes("reply", number=1)} == {stopping.pid}
    assert stopping.pid not in {note["pid"] for note in case.ledger.notes("reply", number=2)}


@pytest.mark.parametrize("point", [BEFORE_MODEL, DURING_TOOL, DURING_LOOK])
async def test_what_does_not_fit_goes_on_elsewhere_at_once(case: Case, point: str) -> None:
    """A step that outlasts the grace time is cut short. Another worker is given it at once, by the failure
    that the stopping one reports: no claim and no heartbeat has to run out first."""
    case.job = replace(case.job, grace=0.5)
    stopping = case.process(Fault("hold", point, 1))
    await case.ask()
    await case.until(lambda: case.ledger.notes("fault"))
    stopping.signal(signal.SIGTERM)
    assert await stopping.ended() == 0
    state = await case.handler().get_run(case.run_id)
    assert not state.claim.live()
    async with case.worker():
        await case.over()
    ended = await case.check(unknown=["1.0"] if point == DURING_TOOL else [])
    assert ended["1.0"] == ("unknown" if point == DURING_TOOL else "ok")
    [events, *_] = await chain(case.client.get_workflow_handle(f"thoughtgear-{case.run_id}"))
    first = of_type(events, "ACTIVITY_TASK_STARTED")[0].activity_task_started_event_attributes
    assert first.attempt == 2
    assert not first.last_failure.HasField("timeout_failure_info")
