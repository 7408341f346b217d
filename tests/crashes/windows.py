"""The fourteen windows in which a crash could lose or double something: how each is staged, and what must
come of it. A stage returns how the calls of the run ended, after all checks."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from functools import partial

from histories import chain, of_type
from outage import Outage
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
)
from proofs.case import Case
from proofs.faults import EXIT_CODE, Fault, Gate

from thoughtgear.client import RunClient
from thoughtgear.errors import StoreUnavailableError

Stage = Callable[[Case, Outage | None], Awaitable[None]]

LOSING = {AFTER_REPLY}
"""Where a reply is bought that nobody can save."""

UNKNOWN: dict[str, tuple[set[str], set[int]]] = {
    # point: how the payment may stand in the transcript, and how often it took effect
    BEFORE_EFFECT: ({"unknown"}, {0}),
    STARTED: ({"unknown"}, {0}),
    DURING_TOOL: ({"unknown"}, {1}),
    DURING_LOOK: ({"unknown", "ok"}, {1}),
    AFTER_EFFECT: ({"unknown"}, {1}),
}
PAID: tuple[set[str], set[int]] = ({"ok"}, {1})


async def death(case: Case, outage: Outage | None, point: str) -> None:
    """A worker dies at this point, and another one goes on."""
    worker = case.process(Fault("die", point, case.iteration))
    await case.ask()
    assert await worker.ended() == EXIT_CODE
    [fault] = case.ledger.notes("fault", pid=worker.pid)
    assert fault["point"] == point
    async with case.worker():
        await case.over()
    await check_payment(case, point)


async def check_payment(case: Case, point: str, lost: int | None = None) -> None:
    """Check the run after a fault at this point: how the payment stands, and how often it was made."""
    call_id = f"{case.iteration}.0"
    outcomes, effects = UNKNOWN.get(point, PAID)
    ended = await case.check(
        lost=int(point in LOSING) if lost is None else lost,
        unknown=[call_id] if "unknown" in outcomes else [],
    )
    assert ended[call_id] in outcomes
    assert len(case.ledger.notes("effect", key=f"{case.run_id}:{call_id}")) in effects


async def zombie(case: Case, outage: Outage | None) -> None:
    """A worker freezes, another one does its work, and the frozen one goes on with what it had in hand: right
    after the other's first commit, or while the other is in the next iteration, or (at odd times) after the
    run's end."""
    point = [AFTER_REPLY, BEFORE_EFFECT, BEFORE_MODEL, DURING_TOOL, AFTER_EFFECT][case.time]
    frozen = case.process(Fault("freeze", point, case.iteration))
    await case.ask()
    await case.until(lambda: frozen.frozen)
    gate = Gate(BEFORE_MODEL, case.iteration + 1)
    async with case.worker(gate.at):
        await case.until(lambda: others_commits(case, frozen.pid))
        if case.time:
            await case.until(gate.reached.is_set)
        if case.time % 2:
            gate.open()
            await case.over()
        frozen.signal(signal.SIGCONT)
        await case.until(lambda: case.ledger.notes("thawed", pid=frozen.pid))
        await case.until(lambda: case.ledger.notes("refused", pid=frozen.pid) or late_effect(case, point))
        gate.open()
        await case.over()
    frozen.signal(signal.SIGTERM)
    assert await frozen.ended() == 0
    [thawed] = case.ledger.notes("thawed")
    [fault] = case.ledger.notes("fault")
    meanwhile = [
        note for note in case.ledger.notes("commit") if fault["time"] < note["time"] < thawed["time"]
    ]
    assert any(note["pid"] != frozen.pid for note in meanwhile)
    assert not [note for note in case.ledger.notes("commit", pid=frozen.pid) if note in meanwhile]
    outcomes, _ = UNKNOWN.get(point, PAID)
    await case.check(
        lost=int(point in (AFTER_REPLY, BEFORE_MODEL)),
        unknown=[f"{case.iteration}.0"] if "unknown" in outcomes else [],
    )


def others_commits(case: Case, pid: int) -> bool:
    """Whether another worker has committed to the iteration in which this one is frozen."""
    return any(note["pid"] != pid for note in case.ledger.notes("commit", iteration=case.iteration))


def late_effect(case: Case, point: str) -> bool:
    """Whether the one effect that can't be fenced was had: that of a worker frozen right before it."""
    key = f"{case.run_id}:{case.iteration}.0"
    return point == BEFORE_EFFECT and bool(case.ledger.notes("effect", key=key))


async def lost_acknowledgement(case: Case, outage: Outage | None) -> None:
    """A commit is written, and the store answers an error."""
    points = [BEFORE_TOOLS, STARTED, AFTER_COMMIT, AFTER_COMMIT, STARTED]
    point, number = points[case.time], 4 if case.time == 3 else case.iteration
    lost = []

    async def lose(now: str, iteration: int) -> None:
        if (now, iteration) == (point, number) and not lost:
            lost.append(now)
            raise StoreUnavailableError("The connection was lost.")

    await case.ask()
    async with case.worker(lose):
        await case.over()
    assert lost == [point]
    await case.check()


async def server_restart(case: Case, outage: Outage | None) -> None:
    """The Temporal server is killed while a worker is at this point; at even times the worker goes on while
    the server is away, and reports to nobody."""
    point = [AFTER_COMMIT, BEFORE_MODEL, DURING_TOOL, DURING_LOOK, AFTER_REPLY][case.time]
    await during_outage(case, outage, point)
    await case.check()


async def database_restart(case: Case, outage: Outage | None) -> None:
    """The store's server is killed while a worker is at this point; at even times the worker finds it away.
    A store without a server has a disk that refuses to be written to for a while."""
    if outage is None:
        await full_disk(case)
    else:
        point = [AFTER_REPLY, BEFORE_MODEL, DURING_TOOL, DURING_LOOK, AFTER_EFFECT][case.time]
        await during_outage(case, outage, point)
        # A store that is away for longer than a commit tries costs the attempt.
        lost = point == AFTER_REPLY
        await case.check(lost=int(lost), unknown=() if lost else [f"{case.iteration}.0"])


async def during_outage(case: Case, outage: Outage | None, point: str) -> None:
    """Have a run reach a point, the server die, and the run end."""
    assert outage is not None
    gate = Gate(point, case.iteration)
    await case.ask()
    async with case.worker(gate.at):
        await case.until(gate.reached.is_set)
        async with outage.during():
            if case.time % 2 == 0:
                gate.open()
                await asyncio.sleep(0.5)  # the worker meets the dead server
        gate.open()
        await case.over()
    assert outage.kills == 1


async def full_disk(case: Case) -> None:
    """The disk of a worker's process refuses every write for a while."""
    point = [AFTER_REPLY, AFTER_REPLY, AFTER_EFFECT, AFTER_EFFECT, AFTER_EFFECT][case.time]
    worker = case.process(Fault("fill", point, case.iteration))
    await case.ask()
    await case.over()
    worker.signal(signal.SIGTERM)
    assert await worker.ended() == 0
    assert case.ledger.notes("unavailable")
    lost = point == AFTER_REPLY
    await case.check(lost=int(lost), unknown=() if lost else [f"{case.iteration}.0"])


async def schedule_twice(case: Case, outage: Outage | None) -> None:
    """The same schedule arrives again and again: while the run goes on, and after its end."""
    point = [BEFORE_MODEL, AFTER_REPLY, DURING_TOOL, DURING_LOOK, AFTER_COMMIT][case.time]
    gate = Gate(point, case.iteration)
    await case.ask()
    async with case.worker(gate.at) as handler:
        await case.until(gate.reached.is_set)
        others = [case.handler() for _ in range(3)]
        schedules = [other.executor.schedule_next_iteration(case.run_id) for other in others * 3]
        await asyncio.gather(*schedules)
        gate.open()
        state = await case.over()
        executions = await chain(case.client.get_workflow_handle(f"thoughtgear-{case.run_id}"))
        signalled = [
            event for events in executions for event in of_type(events, "WORKFLOW_EXECUTION_SIGNALED")
        ]
        assert len(signalled) == 1 + len(schedules)
        await handler.executor.schedule_next_iteration(case.run_id)
        await case.client.get_workflow_handle(f"thoughtgear-{case.run_id}").result()
        assert await case.over() == state
    for other in others:
        await other.aclose()
    await case.check()


async def continue_as_new(case: Case, outage: Outage | None) -> None:
    """Messages are sent, by signal and by the store, right when an iteration ends, also when the workflow
    continues as new with them in flight."""
    by_signal: list[str] = []
    by_store: list[str] = []
    client = RunClient(case.client, case.job.queue)

    async def send(point: str, iteration: int) -> None:
        # As the last thing before the completion that lets the workflow continue as new.
        if point == AFTER_COMMIT and iteration <= 20:
            by_signal.append(f"signal {iteration}")
            await client.send(case.run_id, by_signal[-1], request_id=by_signal[-1])
            by_store.append(f"store {iteration}")
            await handler.send(case.run_id, by_store[-1], request_id=by_store[-1])

    await case.ask(steps=20)
    async with case.worker(send) as handler:
        await case.over()
        await case.client.get_workflow_handle(f"thoughtgear-{case.run_id}").result()
    executions = await chain(case.client.get_workflow_handle(f"thoughtgear-{case.run_id}"))
    assert len(executions) >= 3
    assert all(of_type(events, "WORKFLOW_EXECUTION_SIGNALED") for events in executions[:-1])
    await case.check(sent=[by_signal, by_store])


async def cancel(case: Case, outage: Outage | None) -> None:
    """A run is cancelled during a tool: what is finished stays, and of a payment that was cut short nobody
    knows."""
    point = [DURING_TOOL, DURING_LOOK, BEFORE_EFFECT, DURING_LOOK, DURING_TOOL][case.time]
    gate = Gate(point, case.iteration)
    await case.ask()
    async with case.worker(gate.at) as handler:
        await case.until(gate.reached.is_set)
        await handler.cancel(case.run_id)
        await case.over()
    ended = await case.check(status="cancelled")
    assert ended[f"{case.iteration}.0"] == ("ok" if point == DURING_LOOK else "unknown")


WINDOWS: dict[str, Stage] = {
    **{
        point: partial(death, point=point)
        for point in (
            BEFORE_MODEL,
            AFTER_REPLY,
            BEFORE_TOOLS,
            BEFORE_EFFECT,
            DURING_TOOL,
            AFTER_EFFECT,
            AFTER_COMMIT,
        )
    },
    "while a zombie of an older attempt still runs": zombie,
    "the commit succeeded but the store answered an error": lost_acknowledgement,
    "the server restarts": server_restart,
    "the database restarts": database_restart,
    "the same schedule arrives twice": schedule_twice,
    "continue-as-new with a signal in flight": continue_as_new,
    "cancel during a tool": cancel,
}
assert len(WINDOWS) == 14
