"""What `thoughtgear worker` does: connect, work, and stop gracefully on SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta

from temporalio.worker import Worker

from thoughtgear import config, logs
from thoughtgear.desk import load_handlers
from thoughtgear.errors import ConfigurationError, StoreUnavailableError
from thoughtgear.handler import PromptHandler
from thoughtgear.place import Place
from thoughtgear.signals import stop_signals
from thoughtgear.worker import build_worker

log = logging.getLogger("thoughtgear")


async def serve(place: Place, *, grace: float, log_json: bool | None, debug: bool) -> int:
    """Work until a signal comes; a second one doesn't wait for what is running. Raises `ConfigurationError`
    and, where the store's tables are of another version, `SchemaVersionError`."""
    level = "DEBUG" if debug else None
    settings = config.Settings.load(
        db=place.db, task_queue=place.task_queue, log_json=log_json, log_level=level
    )
    logs.configure(settings.log_json, settings.log_level)
    handlers = load_handlers(place)
    try:
        for handler in handlers:
            await _open(handler)
        client = await config.connect(address=place.address, namespace=place.namespace)
        worker = build_worker(
            client, handlers, settings.task_queue, graceful_shutdown_timeout=timedelta(seconds=grace)
        )
        stop = stop_signals()
        where = f"{client.service_client.config.target_host}, namespace {client.namespace}"
        log.info("working for %s, queue %s", where, settings.task_queue)
        for handler in handlers:
            log.info("handler %s: model %s, store %s", handler.name, handler.model.model, handler.store)
        await _work_until(stop, worker)
    finally:
        for handler in handlers:
            await handler.aclose()
    return 0


async def _open(handler: PromptHandler) -> None:
    """See at the start what would fail every iteration. A store that is away may come back."""
    with suppress(StoreUnavailableError):
        await handler.store.get_document("memory", "none")


async def _work_until(stop: asyncio.Queue[int], worker: Worker) -> None:
    working = asyncio.create_task(worker.run())
    asked = asyncio.create_task(stop.get())
    await asyncio.wait((working, asked), return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        log.info("stopping: running iterations may finish")
        again = asyncio.create_task(stop.get())
        shutting = asyncio.create_task(worker.shutdown())
        await asyncio.wait((shutting, again), return_when=asyncio.FIRST_COMPLETED)
        if not shutting.done():
            log.warning("stopping at once")
            working.cancel()
        again.cancel()
    asked.cancel()
    try:
        with suppress(asyncio.CancelledError):
            await working
    except RuntimeError as exc:  # the SDK's word for a worker that can't work, such as an unknown namespace
        raise ConfigurationError(f"The worker can't work: {exc}.") from exc
    log.info("stopped")
