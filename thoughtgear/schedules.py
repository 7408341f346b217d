"""Recurring prompts by Temporal Schedules: each firing starts a run by value.

A schedule holds its prompt, so that the text is in Temporal; a client with a codec encrypts it. A schedule is
Temporal's own: its tools show, pause and delete one by the same name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionExecution,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionResult,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleDescription,
    ScheduleIntervalSpec,
    ScheduleListActionStartWorkflow,
    ScheduleListDescription,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
)
from temporalio.service import RPCError, RPCStatusCode

from thoughtgear.codec import require_codec
from thoughtgear.errors import (
    CodecError,
    InvalidInputError,
    ScheduleExistsError,
    ScheduleNotFoundError,
)
from thoughtgear.ids import check_label, request_id_of, run_id_for
from thoughtgear.loop import Limits
from thoughtgear.payloads import TASK_QUEUE, WORKFLOW, RunInput, restored, sparse
from thoughtgear.prompts import Prompt

Overlap = Literal["skip", "buffer-one", "buffer-all", "cancel-other", "allow-all"]

OVERLAPS: dict[Overlap, ScheduleOverlapPolicy] = {
    "skip": ScheduleOverlapPolicy.SKIP,
    "buffer-one": ScheduleOverlapPolicy.BUFFER_ONE,
    "buffer-all": ScheduleOverlapPolicy.BUFFER_ALL,
    "cancel-other": ScheduleOverlapPolicy.CANCEL_OTHER,
    "allow-all": ScheduleOverlapPolicy.ALLOW_ALL,
}
"""What a firing does while the run before goes on. Temporal's `terminate other` is left out: the store would
not learn of the end."""

CATCH_UP = timedelta(hours=1)
"""A firing that the server was away for is made up for within this time."""

RPC = timedelta(seconds=10)

_COMMENT = re.compile(r"(?:^|\s)#")

LONGEST = timedelta(days=3653)
"""The longest interval."""


@dataclass(frozen=True)
class Firing:
    """A run that a schedule started: when, under which workflow id, and its id in the store."""

    workflow_id: str
    run_id: str | None = None
    at: datetime | None = None


@dataclass(frozen=True)
class RunSchedule:
    """A schedule. A list has the first five facts; the prompt is None where this client lacks its key.

    `unreadable` says why this client can't read what the schedule starts: a worker with the same keys can't
    either, and the runs wait for one that can. `when` is its cron expression, or `every …`; `next` are the
    times of the next firings. `runs` are those that it started last, `running` those that go on; `fired` and
    `skipped` count since it was created.
    """

    name: str
    when: str
    paused: bool
    note: str
    next: list[datetime]
    handler: str | None = None
    prompt: str | None = None
    task_queue: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    overlap: str | None = None
    fired: int = 0
    skipped: int = 0
    runs: tuple[Firing, ...] = ()
    running: tuple[Firing, ...] = ()
    unreadable: str | None = None


async def create_schedule(
    client: Client,
    name: str,
    prompt: str,
    *,
    cron: str | None = None,
    every: timedelta | None = None,
    timezone: str | None = None,
    handler: str = "default",
    task_queue: str = TASK_QUEUE,
    overlap: Overlap = "skip",
    session_id: str | None = None,
    user_id: str | None = None,
    metadata: dict[str, Any] | None = None,
    paused: bool = False,
) -> None:
    """Have a handler's workers run this prompt at the times of `cron`, five to seven fields in `timezone`
    (default: UTC), or `every` so often.

    The server checks the times; times that never come are refused. Raises `InvalidInputError`,
    `ScheduleExistsError`, `ConfigurationError` where encryption is required and the client has no codec, and
    `RPCError` where the server can't be reached; it may have the schedule all the same.
    """
    require_codec(client)
    check_label(name, "schedule name")
    check_label(task_queue, "task queue")
    given = _given(prompt, handler, session_id, user_id, metadata)
    action = ScheduleActionStartWorkflow(
        WORKFLOW,
        sparse(given),
        id=f"thoughtgear-{name}",  # the server adds the time of the firing
        task_queue=task_queue,
        static_summary=f"thoughtgear · {handler}",
        static_details=f"A run of the handler `{handler}`, started by the schedule `{name}`.",
    )
    policy = SchedulePolicy(overlap=_policy(overlap), catchup_window=CATCH_UP)
    schedule = Schedule(action, _spec(cron, every, timezone), policy, ScheduleState(paused=paused))
    with _told(name):
        handle = await client.create_schedule(name, schedule, rpc_timeout=RPC)
        info = (await handle.describe(rpc_timeout=RPC)).info
        if not info.next_action_times and not info.num_actions:
            await handle.delete(rpc_timeout=RPC)
            raise InvalidInputError("The schedule would never fire: its times do not come.")


async def list_schedules(client: Client) -> list[RunSchedule]:
    """Return the namespace's schedules that start runs, by name. A list may be a second behind."""
    found = []
    async for each in await client.list_schedules(rpc_timeout=RPC):
        started = each.schedule and each.schedule.action
        if isinstance(started, ScheduleListActionStartWorkflow) and started.workflow == WORKFLOW:
            found.append(_listed(each))
    return sorted(found, key=lambda schedule: schedule.name)


async def get_schedule(client: Client, name: str) -> RunSchedule:
    """Return all of a schedule. Raises `ScheduleNotFoundError`, also for one that starts something else."""
    with _told(name):
        described = await client.get_schedule_handle(name).describe(rpc_timeout=RPC)
    action = described.schedule.action
    if not isinstance(action, ScheduleActionStartWorkflow) or action.workflow != WORKFLOW:
        raise ScheduleNotFoundError(f"The schedule {name!r} starts no run of thoughtgear.")
    return await _described(client, described, action)


async def pause_schedule(client: Client, name: str, note: str = "") -> None:
    """Have it fire no more; a run that goes on is left alone. Raises `ScheduleNotFoundError`."""
    await get_schedule(client, name)
    with _told(name):
        await client.get_schedule_handle(name).pause(note=note or "paused", rpc_timeout=RPC)


async def resume_schedule(client: Client, name: str, note: str = "") -> None:
    """Have it fire again (Temporal: unpause). Raises `ScheduleNotFoundError`."""
    await get_schedule(client, name)
    with _told(name):
        await client.get_schedule_handle(name).unpause(note=note or "resumed", rpc_timeout=RPC)


async def trigger_schedule(client: Client, name: str, overlap: Overlap | None = None) -> None:
    """Have it fire now, also while paused. While a run of it goes on, `overlap` (default: its own) says what
    becomes of that. Raises `ScheduleNotFoundError`."""
    await get_schedule(client, name)
    policy = None if overlap is None else _policy(overlap)
    with _told(name):
        await client.get_schedule_handle(name).trigger(overlap=policy, rpc_timeout=RPC)


async def delete_schedule(client: Client, name: str) -> None:
    """Delete it; its runs stay, and one that goes on goes on. Raises `ScheduleNotFoundError`."""
    await get_schedule(client, name)
    with _told(name):
        await client.get_schedule_handle(name).delete(rpc_timeout=RPC)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Say in our own words what the server says of a schedule."""
    try:
        yield
    except ScheduleAlreadyRunningError:
        raise ScheduleExistsError(
            f"There is a schedule {name!r} already; delete it first, or give another name."
        ) from None
    except RPCError as exc:
        if exc.status == RPCStatusCode.NOT_FOUND:
            raise ScheduleNotFoundError(f"There is no schedule {name!r} in this namespace.") from None
        if exc.status == RPCStatusCode.INVALID_ARGUMENT:
            raise InvalidInputError(f"Temporal refuses the schedule: {exc.message[:300]}.") from None
        raise


def _given(
    prompt: str, handler: str, session_id: str | None, user_id: str | None, metadata: dict[str, Any] | None
) -> RunInput:
    check_label(handler, "handler name")
    Prompt(prompt, session_id=session_id, user_id=user_id, metadata=metadata or {}).check(Limits())
    return RunInput(prompt, handler, None, session_id, user_id, metadata)


def _policy(overlap: Overlap) -> ScheduleOverlapPolicy:
    if not isinstance(overlap, str) or overlap not in OVERLAPS:
        raise InvalidInputError(f"overlap is one of {', '.join(OVERLAPS)}.")
    return OVERLAPS[overlap]


def _spec(cron: str | None, every: timedelta | None, timezone: str | None) -> ScheduleSpec:
    if (cron is None) == (every is None):
        raise InvalidInputError("A schedule has a cron expression or an interval: give one of them.")
    if not isinstance(cron, str | None) or not isinstance(timezone, str | None):
        raise InvalidInputError("A cron expression and a time zone are texts.")
    if every is not None:
        if not isinstance(every, timedelta) or every > LONGEST:
            raise InvalidInputError("An interval is a timedelta of ten years at the most.")
        if timezone is not None:
            raise InvalidInputError("A time zone is of a cron expression; an interval needs none.")
        return ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)])
    text = (cron or "").strip()
    # The server keeps what it made of the expression; a comment is what it shows as it was written.
    times = _COMMENT.split(text, maxsplit=1)[0].strip()
    if "#" in times:
        raise InvalidInputError("Temporal's cron expressions know no # in a field: it would begin a comment.")
    return ScheduleSpec(cron_expressions=[f"{times} # {text}"], time_zone_name=timezone)


def _when(spec: ScheduleSpec) -> str:
    times = [each.comment or "a calendar" for each in spec.calendars] + list(spec.cron_expressions)
    times += [f"every {_span(each.every)}" for each in spec.intervals]
    zone = f" {spec.time_zone_name}" if spec.time_zone_name else ""
    return ", ".join(times) + zone


def _span(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    for unit, size in (("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _listed(listed: ScheduleListDescription) -> RunSchedule:
    schedule, info = listed.schedule, listed.info
    assert schedule is not None  # it was asked for its action
    return RunSchedule(
        name=listed.id,
        when=_when(schedule.spec),
        paused=schedule.state.paused,
        note=schedule.state.note or "",
        next=[] if schedule.state.paused or info is None else list(info.next_action_times),
    )


async def _described(
    client: Client, described: ScheduleDescription, action: ScheduleActionStartWorkflow
) -> RunSchedule:
    schedule, info = described.schedule, described.info
    given, unreadable = await _decoded(client, action)
    overlaps = {policy: name for name, policy in OVERLAPS.items()}
    return RunSchedule(
        name=described.id,
        when=_when(schedule.spec),
        paused=schedule.state.paused,
        note=schedule.state.note or "",
        next=[] if schedule.state.paused else list(info.next_action_times),
        handler=given.handler if given else None,
        prompt=given.prompt if given else None,
        task_queue=action.task_queue,
        session_id=given.session_id if given else None,
        user_id=given.user_id if given else None,
        overlap=overlaps.get(schedule.policy.overlap, schedule.policy.overlap.name.lower().replace("_", "-")),
        fired=info.num_actions,
        skipped=info.num_actions_skipped_overlap,
        runs=tuple(_fired(client, given, each) for each in reversed(info.recent_actions)),
        running=tuple(_going(client, given, each) for each in info.running_actions),
        unreadable=unreadable,
    )


async def _decoded(client: Client, action: ScheduleActionStartWorkflow) -> tuple[RunInput | None, str | None]:
    """The run that it starts, or why this client can't read it: it lacks the key, does not take clear text,
    or somebody else wrote something else."""
    try:
        [given] = await client.data_converter.decode(action.args, [dict])
        return restored(RunInput, given), None
    except CodecError as exc:
        return None, str(exc)
    except (LookupError, ValueError, TypeError, RuntimeError):
        return None, "It is encrypted, and there are no keys here, or it is not of thoughtgear."


def _fired(client: Client, given: RunInput | None, result: ScheduleActionResult) -> Firing:
    return _going(client, given, result.action, result.started_at)


def _going(
    client: Client, given: RunInput | None, started: ScheduleActionExecution, at: datetime | None = None
) -> Firing:
    """A run by value has the id that follows from its workflow's first execution."""
    assert isinstance(started, ScheduleActionExecutionStartWorkflow)
    if given is None:
        return Firing(started.workflow_id, None, at)
    request = request_id_of(client.namespace, started.workflow_id, started.first_execution_run_id)
    return Firing(started.workflow_id, run_id_for(given.handler, given.user_id, request), at)
