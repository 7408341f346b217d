"""What a worker does beside its work: it finishes what dead clients and operators left half done.

A client that dies between the durable prompt and its schedule leaves a run that nothing drives; a workflow
that is terminated leaves a run that looks alive. Every worker looks now and then, at random times, so that
many workers don't look at once; a repair that two of them do is done once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from temporalio.client import Client

from thoughtgear import live
from thoughtgear.batches import find_run
from thoughtgear.doctor import Doctor, Finding
from thoughtgear.doctor.scan import SETTLED
from thoughtgear.handler import PromptHandler
from thoughtgear.protocols import OrmAdapter

EVERY = timedelta(minutes=5)

log = logging.getLogger("thoughtgear")


class Reconciler:
    """Schedules runs of these handlers that were never begun and have no workflow, or were retried and have
    none that goes on; ends those whose workflow was ended by somebody else; removes the growing text of runs
    that are over. The rest is left to `thoughtgear doctor`. What has changed within `settled` is
    left alone.
    """

    def __init__(
        self,
        handlers: Iterable[PromptHandler],
        client: Client,
        task_queue: str,
        *,
        settled: timedelta = SETTLED,
    ) -> None:
        stores: dict[int, tuple[OrmAdapter, set[str]]] = {}
        for handler in handlers:
            stores.setdefault(id(handler.store), (handler.store, set()))[1].add(handler.name)
        self._doctors = [
            (
                store,
                Doctor(store, client, task_queue=task_queue, settled=settled, closely=False, handlers=names),
            )
            for store, names in stores.values()
        ]

    async def look(self) -> int:
        """Look once, and mend. Returns how many runs were mended. A store or server that is away is logged:
        the next look may find it."""
        for store, _ in self._doctors:
            await _sweep(store)
        return sum([await self._look(store, doctor) for store, doctor in self._doctors])

    @asynccontextmanager
    async def running(self, every: timedelta) -> AsyncIterator[None]:
        """Look again and again while the context is open, about so often."""
        looking = asyncio.create_task(self._for_ever(every.total_seconds()))
        try:
            yield
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking

    async def _for_ever(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds * random.uniform(0.5, 1.5))  # noqa: S311  spreads the workers
            await self.look()

    async def _look(self, store: OrmAdapter, doctor: Doctor) -> int:
        try:
            diagnosis = await doctor.scan()
        except Exception as exc:  # a store or codec may raise anything; the next look comes
            log.warning("The reconciler could not look (%s); it tries again.", type(exc).__name__)
            return 0
        away = [finding.kind for finding in diagnosis.findings if finding.kind in ("store", "temporal")]
        if away or diagnosis.unchecked:
            log.warning("The reconciler could not look at everything (%s).", ", ".join(away) or "Temporal")
        return sum([await _mend(store, doctor, finding) for finding in diagnosis.findings])


async def _sweep(store: OrmAdapter) -> None:
    """Remove the growing text of runs whose worker died right after their end."""
    try:
        await live.sweep(store)
    except Exception as exc:  # a store may raise anything; the next look comes
        log.warning("The reconciler could not remove text of runs that are over (%s).", type(exc).__name__)


async def _left_half_done(store: OrmAdapter, finding: Finding) -> bool:
    """Whether a worker may mend it unasked. A begun run without a workflow may be another server's."""
    if finding.repair in ("release", "end workflow", None) or finding.run_id is None:
        return False
    if finding.kind != "no workflow":
        return True
    state = await find_run(store, finding.run_id)
    return state is not None and not state.claim.epoch


async def _mend(store: OrmAdapter, doctor: Doctor, finding: Finding) -> bool:
    try:
        if not await _left_half_done(store, finding):
            return False
        mended = await doctor.repair(finding)
    except Exception as exc:  # one run that can't be mended keeps no other from it
        log.warning("The reconciler could not mend run %s (%s).", finding.run_id, type(exc).__name__)
        return False
    if mended.done:
        log.info("reconciled run %s (%s): %s", finding.run_id, finding.kind, mended.said)
    return mended.done
