"""The doctor before a real server: what it finds, what it leaves alone, and what its repairs do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode
from world import BARE, World

from thoughtgear import PromptHandler, control, tool
from thoughtgear.doctor import Doctor, Finding
from thoughtgear.errors import ModelUnavailableError
from thoughtgear.models import Claim, Driver, now
from thoughtgear.providers.scripted import call
from thoughtgear.testing import append, new_run

AT_ONCE = {"settled": timedelta(0)}
"""Judges what has changed just now, too."""

SECONDS = 20.0


def doctor_of(world: World, handler: PromptHandler, **options: Any) -> Doctor:
    return Doctor(handler.store, world.client, task_queue=world.queue, **{**AT_ONCE, **options})


async def findings(doctor: Doctor, *leaving_out: str) -> list[Finding]:
    found = (await doctor.scan()).findings
    return [finding for finding in found if finding.kind not in leaving_out]


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """Return what the condition gives, once it gives something."""
    async with asyncio.timeout(SECONDS):
        while not (given := await condition()):
            await asyncio.sleep(0.02)
        return given


async def until_listed(world: World, count: int = 1) -> None:
    """Return when the server lists so many open workflows: it does so a moment after their start."""
    query = f"TaskQueue = '{world.queue}' AND ExecutionStatus = 'Running'"

    async def listed() -> bool:
        return len([each async for each in world.client.list_workflows(query)]) == count

    await until(listed)


async def status_of(world: World, run_id: str) -> WorkflowExecutionStatus | None:
    return (await world.workflow(run_id).describe()).status


async def test_what_goes_on_is_no_finding(world: World) -> None:
    """With a worker, search attributes, a run at its model, one that waits for it and later both being over,
    nothing is found."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(request: Any) -> str:
        begun.set()
        await go.wait()
        return "Done."

    handler = world.handler([slow, "Done."])
    async with world.worker(handler):
        first = await handler.handle_prompt("one", session_id="s")
        await begun.wait()
        second = await handler.handle_prompt("two", session_id="s")
        diagnosis = await doctor_of(world, handler).scan()
        go.set()
        await handler.wait(second.run_id)
        await until(lambda: ended(world, first.run_id))
        await until(lambda: ended(world, second.run_id))
        after = await doctor_of(world, handler).scan()
    assert (diagnosis.findings, diagnosis.unchecked) == ([], [])
    assert (diagnosis.runs, diagnosis.on_temporal) == (2, 2)
    assert (after.findings, after.runs) == ([], 0)


async def ended(world: World, run_id: str) -> bool:
    return await status_of(world, run_id) != WorkflowExecutionStatus.RUNNING


async def test_a_run_that_was_never_scheduled_is_scheduled(world: World) -> None:
    """A run of the Temporal executor without a workflow is found; the repair schedules it, and a worker
    drives it to its end; a second repair changes nothing."""
    handler = world.handler(["Done."])
    run = await handler.create_run("Hello")
    doctor = doctor_of(world, handler)
    (found,) = await findings(doctor, "no worker")
    before = await doctor_of(world, handler, settled=timedelta(seconds=60)).scan()
    mended = await doctor.repair(found)
    again = await doctor.repair(found)
    async with world.worker(handler):
        ended = await handler.wait(run.run_id)
    assert (found.kind, found.run_id, found.repair) == ("no workflow", run.run_id, "schedule")
    assert not [each for each in before.findings if each.run_id]
    assert mended.done
    assert again.done
    assert ended.status == "done"
    assert world.replies_bought() == 1


async def test_a_run_whose_workflow_was_lost_goes_on(world: World) -> None:
    """A run that was begun and whose workflow the server has lost is scheduled again, and goes on where the
    store stands."""
    asked = asyncio.Event()

    async def never(request: Any) -> str:
        asked.set()
        await asyncio.Event().wait()
        return ""

    @tool
    def look() -> str:
        """Look."""
        return "seen"

    handler = world.handler([[call("look")], never], tools=[look])
    async with world.worker(handler):
        run = await handler.handle_prompt("Hello")
        await asked.wait()
    await lose(world, run.run_id)
    doctor = doctor_of(world, handler)
    found = await until(lambda: first_of(doctor, "no workflow"))
    await doctor.repair(found)
    other = world.handler([[call("look")], "Done."], tools=[look])
    async with world.worker(other):
        ended = await other.wait(run.run_id)
    assert found.repair == "schedule"
    assert (ended.status, ended.model_replies) == ("done", 2)


async def first_of(doctor: Doctor, kind: str) -> Finding | None:
    return next((finding for finding in (await doctor.scan()).findings if finding.kind == kind), None)


async def lose(world: World, run_id: str) -> None:
    """Have the server forget a workflow."""
    await world.client.workflow_service.delete_workflow_execution(
        DeleteWorkflowExecutionRequest(
            namespace=world.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=f"thoughtgear-{run_id}"),
        )
    )

    async def gone() -> bool:
        try:
            await world.workflow(run_id).describe()
        except RPCError as exc:
            return exc.status == RPCStatusCode.NOT_FOUND
        return False

    await until(gone)


async def test_a_stuck_claim_of_a_waiting_workflow_is_released(world: World) -> None:
    """A workflow that waits for a claim of a wrong clock goes on when the doctor has released that; without a
    worker the repair says that there is none."""
    handler = world.handler(["Done."])
    far = now().timestamp() + 10 * 365 * 86400
    run = new_run(
        status="running",
        claim=Claim(epoch=3, owner="elsewhere/1", driver="temporal", deadline=far),
        driver=Driver(executor="temporal"),
    )
    await append(handler.store, run, "Hello")
    doctor = doctor_of(world, handler)
    (found,) = await findings(doctor, "no worker")
    assert (found.kind, found.repair) == ("stuck claim", "release")
    async with world.worker(handler):
        await handler.executor.schedule_next_iteration(run.run_id)
        await until(lambda: waits_for_a_time(world, run.run_id))
        mended = await doctor.repair(found)
        ended = await handler.wait(run.run_id)
    assert mended.said.startswith("The claim is released. Scheduled in the task queue")
    assert (ended.status, ended.claim.epoch) == ("done", 5)


async def waits_for_a_time(world: World, run_id: str) -> bool:
    """Whether the workflow has begun to wait for a timer."""
    history = await world.workflow(run_id).fetch_history()
    return any(event.HasField("timer_started_event_attributes") for event in history.events)


async def test_a_repair_without_a_worker_says_so(world: World) -> None:
    """Scheduling, waking and cancelling a workflow in a task queue that nobody polls is told with what is
    missing."""
    handler = world.handler(["Done."])
    run = await handler.create_run("Hello")
    doctor = doctor_of(world, handler)
    (found,) = await findings(doctor, "no worker")
    scheduled = await doctor.repair(found)
    await handler.close_run(run.run_id, "cancelled")
    woken = await doctor.repair(found)
    await start(world, "absent")
    stray = Finding("no run", "", run_id="absent", workflow_id="thoughtgear-absent", repair="end workflow")
    cancelled = await doctor.repair(stray, end_workflow="cancel")
    for mended in (scheduled, woken, cancelled):
        assert mended.said.endswith(", once a worker polls it: none does.")
    async with world.worker(handler):
        await until(lambda: ended(world, run.run_id))
        run = await handler.create_run("Hello")
        (found,) = await findings(doctor)
        assert (await doctor.repair(found)).said == f"Scheduled in the task queue {world.queue!r}."


async def test_what_may_have_been_ended_on_purpose_takes_a_person(world: World) -> None:
    """A run that was begun and has been silent for longer than the server keeps workflows is found, and not
    scheduled: how its workflow ended is not known."""
    handler = world.handler(["Done."])
    old = now() - timedelta(days=400)
    run = new_run(
        status="running",
        created_at=old,
        updated_at=old,
        claim=Claim(epoch=1, driver="temporal"),
        driver=Driver(executor="temporal"),
    )
    await append(handler.store, run, "Hello")
    doctor = doctor_of(world, handler)
    (found,) = await findings(doctor, "no worker")
    mended = await doctor.repair(found)
    assert (found.kind, found.repair) == ("no workflow", None)
    assert found.command == f"run --continue {run.run_id} -x temporal"
    assert not mended.done
    with pytest.raises(RPCError):
        await world.workflow(run.run_id).describe()


async def terminate(world: World, handler: PromptHandler, run_id: str) -> None:
    await handler.executor.schedule_next_iteration(run_id)
    await world.workflow(run_id).terminate(reason="it ran away")


async def time_out(world: World, handler: PromptHandler, run_id: str) -> None:
    await start(world, run_id, execution_timeout=timedelta(seconds=1))


async def fail(world: World, handler: PromptHandler, run_id: str) -> None:
    async with world.worker(handler):
        await start(world, run_id, stray="field")
        await until(lambda: ended(world, run_id))


async def cancel_elsewhere(world: World, handler: PromptHandler, run_id: str) -> None:
    """A cancel that a worker of another store carries out."""
    await handler.executor.schedule_next_iteration(run_id)
    await world.workflow(run_id).cancel()
    other = world.handler(["Done."], db=f"sqlite:///{world.folder}/other.db")
    async with world.worker(other):
        await until(lambda: ended(world, run_id))


async def start(
    world: World, run_id: str, *, execution_timeout: timedelta | None = None, **fields: Any
) -> None:
    await world.client.start_workflow(
        "RunWorkflow",
        {"run_id": run_id, **fields},
        id=f"thoughtgear-{run_id}",
        task_queue=world.queue,
        execution_timeout=execution_timeout,
    )


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        (terminate, "failed", "Its Temporal workflow was terminated: it ran away."),
        (time_out, "failed", "Its Temporal workflow timed out."),
        (fail, "failed", "Its Temporal workflow failed: InvalidInputError: Unknown fields"),
        (cancel_elsewhere, "cancelled", ""),
    ],
)
async def test_a_run_whose_workflow_ended_ends(world: World, end: Any, status: str, said: str) -> None:
    """A run that is not over and whose workflow was terminated, timed out, failed or was cancelled is found;
    the repair ends it with that reason, and nothing makes it go on again."""
    handler = world.handler(["Never said."])
    run = await handler.create_run("Hello")
    await end(world, handler, run.run_id)
    await until(lambda: ended(world, run.run_id))
    doctor = doctor_of(world, handler)
    (found,) = await findings(doctor, "no worker")
    mended = await doctor.repair(found)
    async with world.worker(handler):
        after = await findings(doctor, "no worker")  # it may not have asked yet
        stored = await handler.get_run(run.run_id)
        again = await doctor.repair(found)
    assert (found.kind, found.repair, found.run_id) == ("workflow ended", "close", run.run_id)
    assert mended.done
    assert again.done
    assert after == []
    assert stored.status == status
    assert said in (stored.error.message if stored.error else "")
    assert (stored.error.type if stored.error else None) in ("WorkflowEndedError", None)
    assert await ended(world, run.run_id)
    assert world.replies_bought() == 0


async def test_a_store_that_was_set_back_takes_a_person(world: World) -> None:
    """A run that is not over in the store although its workflow has completed is found, and left as it is."""
    handler = world.handler(["Done."])
    async with world.worker(handler):
        run = await handler.handle_prompt("Hello", wait=True)
        await until(lambda: ended(world, run.run_id))
    before = world.handler(["Done."], db=f"sqlite:///{world.folder}/before.db")
    await append(before.store, new_run(run.run_id, driver=Driver(executor="temporal")), "Hello")
    doctor = doctor_of(world, before)
    (found,) = await findings(doctor, "no worker")
    mended = await doctor.repair(found)
    assert (found.kind, found.repair, found.run_id) == ("workflow ended", None, run.run_id)
    assert "may have been set back" in found.what
    assert not mended.done
    assert (await before.get_run(run.run_id)).status == "pending"


async def test_a_workflow_that_goes_on_again_is_not_closed(world: World) -> None:
    """Between the scan and the repair the run was scheduled anew: the repair leaves it alone."""
    handler = world.handler(["Done."])
    run = await handler.create_run("Hello")
    await terminate(world, handler, run.run_id)
    doctor = doctor_of(world, handler)
    (found,) = await findings(doctor, "no worker")
    await handler.executor.schedule_next_iteration(run.run_id)
    mended = await doctor.repair(found)
    assert mended.done
    assert mended.said == "Its workflow goes on again."
    assert (await handler.get_run(run.run_id)).status == "pending"


async def test_a_retry_that_was_not_scheduled_is_scheduled(world: World) -> None:
    """A run whose retry died before its workflow was started again is found, goes on by the repair, and is
    not ended by a repair that knows only of the workflow before."""
    handler = world.handler(["Done."])
    run = await handler.create_run("Hello")
    await terminate(world, handler, run.run_id)
    doctor = doctor_of(world, handler)
    (before,) = await findings(doctor, "no worker")
    await doctor.repair(before)
    await control.reopen_run(handler._agent, run.run_id, Driver(executor="temporal"))
    (found,) = await findings(doctor, "no worker")
    late = await doctor.repair(before)
    mended = await doctor.repair(found)
    async with world.worker(handler):
        state = await handler.wait(run.run_id, SECONDS)
    assert (before.repair, found.kind, found.repair) == ("close", "not driven", "schedule")
    assert (late.said, mended.done) == ("The run is running.", True)
    assert (state.status, world.replies_bought()) == ("done", 1)


@pytest.mark.parametrize(
    ("how", "ends"),
    [
        (None, WorkflowExecutionStatus.RUNNING),
        ("cancel", WorkflowExecutionStatus.CANCELED),
        ("terminate", WorkflowExecutionStatus.TERMINATED),
    ],
)
async def test_a_workflow_without_a_run_is_ended_only_when_told_how(
    world: World, how: Any, ends: WorkflowExecutionStatus
) -> None:
    """An open workflow whose run is not in the store is found; it goes on unless the repair is told to cancel
    or terminate it."""
    handler = world.handler(["Done."])
    run = await handler.create_run("Hello")
    await handler.executor.schedule_next_iteration(run.run_id)
    await handler.store.delete_run(run.run_id)
    doctor = doctor_of(world, handler)
    await until_listed(world)
    (found,) = await findings(doctor, "no worker")
    mended = await doctor.repair(found, end_workflow=how)
    if how == "cancel":
        async with world.worker(handler):
            await until(lambda: ended(world, run.run_id))
    assert (found.kind, found.run_id, found.repair) == ("no run", run.run_id, "end workflow")
    assert mended.done == (how is not None)
    assert await status_of(world, run.run_id) == ends


async def test_a_workflow_by_value_is_known_by_what_it_did(world: World) -> None:
    """A workflow that came by value and was not begun is no finding; one that was begun is known by its run,
    and found when that is deleted; other queues' are not looked at."""
    asked = asyncio.Event()

    async def never(request: Any) -> str:
        asked.set()
        await asyncio.Event().wait()
        return ""

    handler = world.handler(never)
    names = [f"by-value-{uuid4().hex}" for _ in range(2)]
    handle = await world.client.start_workflow(
        "RunWorkflow", {"prompt": "Hello"}, id=names[0], task_queue=world.queue
    )
    await world.client.start_workflow(
        "RunWorkflow", {"run_id": "elsewhere"}, id=names[1], task_queue=f"{world.queue}-other"
    )
    doctor = doctor_of(world, handler)
    await until_listed(world)
    waiting = await findings(doctor, "no worker")
    async with world.worker(handler):
        await asked.wait()
        begun = await findings(doctor)
        (run,) = (await handler.store.list_runs()).runs
        await handler.store.delete_run(run.run_id)
        (found,) = await findings(doctor)
    for name in names:
        await world.client.get_workflow_handle(name).terminate()
    assert (waiting, begun) == ([], [])
    assert run.driver.workflow_id == handle.id
    assert (found.kind, found.run_id, found.workflow_id) == ("no run", run.run_id, handle.id)


async def test_a_workflow_whose_run_is_over_is_woken(world: World) -> None:
    """A workflow that goes on although its run was ended in the store is found, and ends when it is woken."""
    handler = world.handler(["Never said."])
    run = await handler.create_run("Hello")
    await handler.executor.schedule_next_iteration(run.run_id)
    await handler.close_run(run.run_id, "failed")
    doctor = doctor_of(world, handler)
    await until_listed(world)
    (found,) = await findings(doctor, "no worker")
    mended = await doctor.repair(found)
    async with world.worker(handler):
        await until(lambda: ended(world, run.run_id))
        again = await doctor.repair(found)
    assert (found.kind, found.repair) == ("run is over", "schedule")
    assert mended.done
    assert again.done
    assert await status_of(world, run.run_id) == WorkflowExecutionStatus.COMPLETED
    assert world.replies_bought() == 0


async def test_what_fails_again_and_again_is_told(world: World) -> None:
    """A run whose iteration is tried in vain is found with the attempt and its last failure, and needs no
    repair but that of its cause."""
    up = asyncio.Event()

    def down(request: Any) -> str:
        if not up.is_set():
            raise ModelUnavailableError("The provider is down.", retry_after=0.05)
        return "Done."

    handler = world.handler(down)
    doctor = doctor_of(world, handler)
    async with world.worker(handler):
        run = await handler.handle_prompt("Hello")
        found = await until(lambda: first_of(doctor, "failing"))
        mended = await doctor.repair(found)
        up.set()
        ended = await handler.wait(run.run_id)
    assert found.run_id == run.run_id
    assert "ModelUnavailableError: The provider is down." in found.what
    assert not mended.done
    assert ended.status == "done"


async def test_a_server_that_lacks_something_is_told(world: World, server: str) -> None:
    """No worker, no search attributes and no such namespace are findings, each with what to do."""
    handler = world.handler(["Done."])
    bare = await Client.connect(server, namespace=BARE)
    lacking = await Doctor(handler.store, bare, task_queue=world.queue).scan()
    nowhere = await Client.connect(server, namespace="nowhere")
    absent = await Doctor(handler.store, nowhere, task_queue=world.queue).scan()
    assert [finding.kind for finding in lacking.findings] == ["no worker", "search attributes"]
    assert lacking.findings[0].command == "worker"
    assert "search-attribute create --name ThoughtgearStatus --type Keyword" in lacking.findings[1].todo
    assert [finding.what for finding in absent.findings] == [
        "The Temporal server has no namespace 'nowhere'."
    ]
