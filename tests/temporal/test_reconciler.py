"""The reconciler of a worker: runs that a dead client left, and workflows that somebody has ended."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.worker import Worker
from world import World

from thoughtgear import PromptHandler, ThoughtgearPlugin, live
from thoughtgear.errors import StoreUnavailableError
from thoughtgear.models import Claim, Driver
from thoughtgear.reconciler import Reconciler
from thoughtgear.testing import append, new_run

AT_ONCE = timedelta(0)

CLIENT = """
import asyncio, os, sys
from temporalio.client import Client
from thoughtgear import PromptHandler
from thoughtgear.executors.temporal import TemporalExecutor
from thoughtgear.providers.scripted import ScriptedProvider

db, address, queue = sys.argv[1:]

async def die(*_, **__):
    os.kill(os.getpid(), 9)

async def main():
    TemporalExecutor.schedule_next_iteration = die
    client = await Client.connect(address)
    executor = TemporalExecutor(client, queue)
    handler = PromptHandler(model=ScriptedProvider(replies=[""]), db=db, executor=executor)
    await handler.handle_prompt("Hello", request_id="once")

asyncio.run(main())
"""
"""A client that is killed when the prompt is durable and its workflow not yet asked for."""


def reconciler_of(world: World, *handlers: PromptHandler) -> Reconciler:
    return Reconciler(handlers, world.client, world.queue, settled=AT_ONCE)


async def killed_client(world: World) -> int:
    address = world.client.service_client.config.target_host
    words = (sys.executable, "-c", CLIENT, world.db, address, world.queue)
    return await (await asyncio.create_subprocess_exec(*words)).wait()


async def test_a_worker_finishes_what_a_killed_client_left(world: World, monkeypatch: pytest.MonkeyPatch):
    """A prompt whose client got SIGKILL before it was scheduled is answered by a worker by itself, once, and
    the same request afterwards is that run."""
    monkeypatch.setattr(Reconciler.__init__, "__kwdefaults__", {"settled": AT_ONCE})
    assert await killed_client(world) == -signal.SIGKILL
    handler = world.handler(["Done."])
    (left,) = (await handler.store.list_runs()).runs
    async with world.worker(handler, reconcile_every=timedelta(seconds=0.2)):
        ended = await handler.wait(left.run_id, timeout=20)
        again = await handler.handle_prompt("Hello", request_id="once", wait=True)
    assert (left.status, left.claim.epoch) == ("pending", 0)
    assert (ended.status, ended.output) == ("done", "Done.")
    assert again.run_id == left.run_id
    assert world.replies_bought() == 1


async def test_growing_text_goes_with_its_run(world: World):
    """A look of a worker removes the growing text that another one, killed right after a run's end, left."""
    handler = world.handler([])
    store = handler.store
    await append(store, new_run("ended", status="done"))
    await store.put_document("cache", f"{live.LIVE}ended", b"{}", tag=None)
    await reconciler_of(world, handler).look()
    assert await store.get_document("cache", f"{live.LIVE}ended") is None


async def test_plugins_of_client_and_worker_share_the_looking(
    world: World, server: str, monkeypatch: pytest.MonkeyPatch
):
    """Where the client's plugin and the worker's name a handler, one of the two looks after its runs."""
    looked: asyncio.Queue[list[str]] = asyncio.Queue()
    real = Reconciler.__init__

    def noted(self: Reconciler, handlers: Any, *args: Any) -> None:
        looked.put_nowait([handler.name for handler in handlers])
        real(self, handlers, *args)

    monkeypatch.setattr(Reconciler, "__init__", noted)
    both, own = world.handler([], name="both"), world.handler([], name="own")
    client = await Client.connect(server, plugins=[ThoughtgearPlugin([both])])
    async with Worker(client, task_queue=world.queue, plugins=[ThoughtgearPlugin([both, own])]):
        async with asyncio.timeout(10):
            first, second = await looked.get(), await looked.get()
    assert sorted([first, second]) == [["both"], ["own"]]
    assert looked.empty()


async def test_what_settles_just_now_is_left_alone(world: World):
    """A run that was stored a moment ago may be about to be scheduled by its client."""
    handler = world.handler(["Done."])
    await handler.create_run("Hello")
    assert await Reconciler([handler], world.client, world.queue).look() == 0
    assert await reconciler_of(world, handler).look() == 1


async def test_a_stuck_claim_is_left_to_the_doctor(world: World):
    """A worker does not release a claim whose deadline seems far ahead: its clock may be the wrong one."""
    handler = world.handler(["Done."])
    claim = Claim(epoch=3, owner="elsewhere/1", driver="temporal", deadline=1e12)
    run = new_run(status="running", claim=claim, driver=Driver(executor="temporal"))
    await append(handler.store, run, "Hello")
    assert await reconciler_of(world, handler).look() == 0
    assert (await handler.get_run(run.run_id)).claim == claim


async def test_runs_of_others_are_left_alone(world: World):
    """Neither a run of a handler that this worker lacks, nor one that a local process drives, nor one that
    was begun elsewhere and has no workflow here is scheduled."""
    handler = world.handler(["Done."])
    other = world.handler(["Done."], name="other")
    run = await other.create_run("Hello")
    await append(handler.store, new_run("local", driver=Driver(executor="local")), "a")
    begun = await handler.create_run("Hello")
    await handler.store.save_run(
        begun.model_copy(
            update={"version": begun.version + 1, "claim": begun.claim.model_copy(update={"epoch": 1})}
        ),
        [],
    )
    assert await reconciler_of(world, handler).look() == 0
    assert await reconciler_of(world, other).look() == 1
    assert (await world.workflow(run.run_id).describe()).id.endswith(run.run_id)


async def test_a_terminated_workflow_ends_its_run(world: World):
    """A run whose workflow an operator terminated is failed, with the operator's words."""
    handler = world.handler(["Done."])
    run = await handler.handle_prompt("Hello")
    await world.workflow(run.run_id).terminate(reason="budget")
    assert await reconciler_of(world, handler).look() == 1
    state = await handler.get_run(run.run_id)
    assert state.status == "failed"
    assert state.error is not None
    assert "was terminated: budget" in state.error.message


async def test_a_store_that_is_away_stops_no_reconciler(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A store that does not answer is logged without its text, and the next look mends."""
    handler = world.handler(["Done."])
    await handler.create_run("Hello")
    looking = reconciler_of(world, handler)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "thoughtgear"):

        async def away(*_: object, **__: object) -> None:
            raise StoreUnavailableError("secret")

        patch.setattr(handler.store, "list_runs", away)
        assert await looking.look() == 0
    assert "secret" not in caplog.text
    assert "The reconciler could not look at everything (store)." in caplog.text
    assert await looking.look() == 1


async def test_an_error_that_nobody_expects_stops_no_reconciler(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A store that raises anything is logged by the error's name alone; the next look mends, and the worker
    ends without that error."""
    handler = world.handler(["Done."])
    run = await handler.create_run("Hello")
    looking, struck = reconciler_of(world, handler), asyncio.Event()
    real = handler.store.list_runs

    async def broken(*words: Any, **options: Any) -> Any:
        if struck.is_set():
            return await real(*words, **options)
        struck.set()
        raise ValueError("secret")

    monkeypatch.setattr(handler.store, "list_runs", broken)
    with caplog.at_level(logging.INFO, "thoughtgear"):
        async with world.worker(handler, reconcile_every=None), looking.running(timedelta(seconds=0.1)):
            ended = await handler.wait(run.run_id, timeout=20)
    assert struck.is_set()
    assert ended.status == "done"
    assert "The reconciler could not look (ValueError)" in caplog.text
    assert "secret" not in caplog.text
