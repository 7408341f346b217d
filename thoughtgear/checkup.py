"""What `thoughtgear doctor` does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.text import Text
from temporalio.service import RPCError

from thoughtgear import config
from thoughtgear.desk import load_handlers
from thoughtgear.doctor.findings import Diagnosis, Finding
from thoughtgear.doctor.mending import EndWorkflow, Mended
from thoughtgear.doctor.scan import Doctor
from thoughtgear.errors import ConfigurationError, ThoughtgearError
from thoughtgear.executors.members import member
from thoughtgear.executors.temporal import TemporalExecutor
from thoughtgear.place import Output, Place, open_named_store
from thoughtgear.progress import bar
from thoughtgear.protocols import OrmAdapter
from thoughtgear.render import clean, count, print_json

if TYPE_CHECKING:
    from temporalio.client import Client

_NAMED_BY = ("TEMPORAL_ADDRESS", "TEMPORAL_PROFILE", "TEMPORAL_CONFIG_FILE")


async def doctor(
    place: Place, output: Output, *, repair: bool = False, end_workflow: EndWorkflow | None = None
) -> int:
    """Look at a store and its Temporal server, say what is wrong, and mend what can be mended. Returns 0
    where nothing is wrong, or nothing any more."""
    store, executor = _opened(place)
    try:
        client, problem = await _connect(place, executor)
        queue = (
            executor.task_queue if executor else config.Settings.load(task_queue=place.task_queue).task_queue
        )
        with bar(output) as watcher:
            looking = Doctor(store, client, task_queue=queue, watcher=watcher)
            diagnosis = await looking.scan()
        if problem is not None:
            _note_absence(diagnosis, problem, place)
        mended = [await _mend(looking, each, end_workflow) for each in diagnosis.findings if repair]
    finally:
        await store.aclose()
    _tell(place, output, diagnosis, mended)
    return 0 if all(each.done for each in mended) and len(mended) == len(diagnosis.findings) else 1


def _opened(place: Place) -> tuple[OrmAdapter, TemporalExecutor | None]:
    """The store, and the target's own way to Temporal where nothing else was asked for."""
    if place.target is None:
        return open_named_store(place), None
    handler = load_handlers(place)[0]
    own = member(handler.executor, TemporalExecutor)
    asked = place.address or place.namespace or place.task_queue
    return handler.store, None if asked else own


async def _connect(
    place: Place, executor: TemporalExecutor | None
) -> tuple[Client | None, ConfigurationError | None]:
    try:
        if executor is not None:
            return await _answering(await executor.client()), None
        return await config.connect(address=place.address, namespace=place.namespace), None
    except ConfigurationError as exc:
        return None, exc


async def _answering(client: Client) -> Client:
    """Return the client, which may not have connected yet. Raises `ConfigurationError`."""
    try:
        await client.service_client.check_health(timeout=timedelta(seconds=config.CONNECT_SECONDS))
    except (RPCError, RuntimeError):  # `from None`: the SDK's text may quote request metadata
        address = client.service_client.config.target_host
        raise ConfigurationError(f"No Temporal server answers at {address}.") from None
    return client


def _note_absence(diagnosis: Diagnosis, problem: ConfigurationError, place: Place) -> None:
    """A server that does not answer is a fault where somebody relies on it."""
    named = place.address or place.namespace or any(os.environ.get(name) for name in _NAMED_BY)
    if diagnosis.on_temporal or named:
        runs = f" It drives {count(diagnosis.on_temporal, 'run')}." if diagnosis.on_temporal else ""
        diagnosis.findings.insert(0, Finding("temporal", f"{problem}{runs}"))
        diagnosis.unchecked.append("Workflows, workers and search attributes: Temporal does not answer.")
    else:
        diagnosis.unchecked.append(f"Temporal: {problem}")


async def _mend(looking: Doctor, finding: Finding, end_workflow: EndWorkflow | None) -> Mended:
    try:
        return await looking.repair(finding, end_workflow=end_workflow)
    except ThoughtgearError as exc:
        return Mended(False, str(exc))


def _tell(place: Place, output: Output, diagnosis: Diagnosis, mended: Sequence[Mended]) -> None:
    if output.as_json:
        print_json(_record(place, diagnosis, mended))
        return
    for number, finding in enumerate(diagnosis.findings):
        _show(place, output, finding, mended[number] if mended else None)
    for line in diagnosis.unchecked:
        output.err.print(f"Not checked: {line}", soft_wrap=True, markup=False, highlight=False)
    found = count(len(diagnosis.findings), "finding") if diagnosis.findings else "nothing is wrong"
    output.err.print(f"Looked at {count(diagnosis.runs, 'unfinished run')}: {found}.", highlight=False)


def _record(place: Place, diagnosis: Diagnosis, mended: Sequence[Mended]) -> dict[str, object]:
    rows = [
        asdict(each) | {"what": place.upgraded(each.what), "command": _command(place, each)}
        for each in diagnosis.findings
    ]
    for row, done in zip(rows, mended, strict=False):
        row["mended"], row["said"] = done.done, done.said
    return {
        "healthy": diagnosis.healthy,
        "findings": rows,
        "unchecked": diagnosis.unchecked,
        "runs": diagnosis.runs,
    }


def _show(place: Place, output: Output, finding: Finding, mended: Mended | None) -> None:
    """Print a finding: what kind and which run, what is wrong, what to do. Lines are not broken, so that a
    command can be taken from them."""
    where = finding.run_id or finding.workflow_id or ""
    what = clean(place.upgraded(finding.what))
    lines = [Text.assemble((f"{finding.kind:<18}", "yellow"), where), Text(f"  {what}")]
    if mended is not None:
        mark, colour = ("✓", "green") if mended.done else ("✗", "red")
        lines.append(Text.assemble((f"  {mark} ", colour), mended.said))
    if mended is None or not mended.done:
        lines += [Text(f"  → {todo}") for todo in [_todo(place, finding)] if todo]
    output.out.print(Text("\n").join(lines), soft_wrap=True)


def _todo(place: Place, finding: Finding) -> str:
    command = _command(place, finding)
    return f"{finding.todo}: {command}" if command and finding.todo else finding.todo or command or ""


def _command(place: Place, finding: Finding) -> str | None:
    if finding.command is None:
        return None
    words = finding.command
    if words == "worker":
        where = Place(
            db=place.db, address=place.address, namespace=place.namespace, task_queue=place.task_queue
        )
        return where.again(f"worker {place.target or 'TARGET'}")
    if words.startswith("run "):
        return Place(
            target=place.target or "TARGET",
            db=place.db,
            address=place.address if "-x temporal" in words else None,
            namespace=place.namespace if "-x temporal" in words else None,
            task_queue=place.task_queue if "-x temporal" in words else None,
        ).again(words)
    return place.stored.again(words)
