"""The growing reply leaves nothing behind, whoever still writes."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest
from hooked_store import HookedStore

from thoughtgear import live
from thoughtgear.errors import StoreError
from thoughtgear.handler import PromptHandler
from thoughtgear.models import RunState
from thoughtgear.providers.scripted import ScriptedProvider
from thoughtgear.testing import FaultyStore, append


async def write(writer: live.LiveWriter, piece: str) -> None:
    """Have a piece written now, and not a moment later beside the reply."""
    writer.add(piece, wanted=False)
    await writer.flush()


async def streamed_run(store: Any) -> tuple[PromptHandler, RunState]:
    handler = PromptHandler(model=ScriptedProvider("echo"), orm=store)
    return handler, await handler.create_run("q", stream=True)


async def text_of(store: Any, run: RunState) -> str | None:
    found = await live.read(store, run.run_id)
    return found.text if found else None


@pytest.mark.parametrize("end", ["close", "delete", "close and delete"])
@pytest.mark.parametrize("wrote", [True, False], ids=["wrote before", "writes first now"])
async def test_a_late_writer_brings_nothing_back(store: FaultyStore, end: str, wrote: bool) -> None:
    """After the end or the deletion of its run a writer leaves no text, whether it wrote before or not."""
    handler, run = await streamed_run(store)
    writer = live.LiveWriter(store, run.run_id, 1, 0)
    if wrote:
        await write(writer, "one ")
        assert await text_of(store, run) == "one "
    if "close" in end:
        await handler.close_run(run.run_id, "cancelled")
    if "delete" in end:
        await store.delete_run(run.run_id)
        await live.forget(store, run.run_id)
    for piece in ("two ", "three "):
        await write(writer, piece)
        assert await text_of(store, run) is None


async def test_an_end_between_look_and_write(store: FaultyStore) -> None:
    """A run that ends after its writer looked and before it writes leaves no text."""
    hooked = HookedStore(store)
    handler, run = await streamed_run(store)

    async def end_first(real: Any, *args: Any, **options: Any) -> Any:
        hooked.hooks = {}
        await handler.close_run(run.run_id, "cancelled")
        return await real(*args, **options)

    hooked.hooks = {"put_document": end_first}
    await write(live.LiveWriter(hooked, run.run_id, 1, 0), "late")
    assert not hooked.hooks
    assert await text_of(store, run) is None


async def test_forgetting_while_someone_writes(store: FaultyStore) -> None:
    """A write between the look and the delete of `forget` is deleted, too."""
    hooked = HookedStore(store)
    _, run = await streamed_run(store)
    writer = live.LiveWriter(store, run.run_id, 1, 0)
    await write(writer, "one ")

    async def write_first(real: Any, *args: Any, **options: Any) -> Any:
        hooked.hooks = {}
        await write(writer, "two ")
        return await real(*args, **options)

    hooked.hooks = {"put_document": write_first}
    await live.forget(hooked, run.run_id)
    assert not hooked.hooks
    assert await text_of(store, run) is None


async def test_an_older_attempt_stops(store: FaultyStore) -> None:
    """Once a newer attempt has written, an older one writes no more."""
    _, run = await streamed_run(store)
    older, newer = (live.LiveWriter(store, run.run_id, 1, version) for version in (1, 2))
    await write(older, "old")
    await write(newer, "new")
    await write(older, "older")
    assert await text_of(store, run) == "new"
    await write(newer, "er")
    assert await text_of(store, run) == "newer"


async def test_what_a_killed_process_left_is_swept(store: FaultyStore) -> None:
    """The text of a run that is over or gone is removed, however it was left; that of one that goes on, or
    that can't be read, stays."""
    hooked, runs = HookedStore(store), []
    for _ in range(4):
        _, run = await streamed_run(store)
        await write(live.LiveWriter(store, run.run_id, 1, 0), "text")
        runs.append(run)
    over, gone, _going, damaged = runs
    await append(store, (await store.load_run(over.run_id)).model_copy(update={"status": "done"}))
    await store.delete_run(gone.run_id)

    async def load(real: Any, run_id: str) -> Any:
        if run_id == damaged.run_id:
            raise StoreError("It is damaged.")
        return await real(run_id)

    hooked.hooks = {"load_run": load}
    assert await live.sweep(hooked) == 2
    assert [await text_of(store, run) for run in runs] == [None, None, "text", "text"]
    assert await live.sweep(hooked) == 0


async def test_a_store_that_fails_in_its_way(store: FaultyStore, caplog: pytest.LogCaptureFixture) -> None:
    """An adapter whose documents raise what no store should costs a run nothing but its growing text: the
    writer stops after the first time, and says so once."""
    hooked, asked, errors = HookedStore(store), 0, []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))

    async def fail(*_: Any, **__: Any) -> Any:
        nonlocal asked
        asked += 1
        raise TypeError("unexpected")

    hooked.hooks = {"put_document": fail}
    writer = live.LiveWriter(hooked, "run", 1, 0)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            writer.add("piece ")
            assert writer._writing is not None
            await asyncio.wait((writer._writing,))
    await writer.aclose()
    del writer
    gc.collect()
    assert (asked, len(caplog.records), errors) == (1, 1, [])


async def test_an_end_that_can_not_be_swept_is_an_end(store: FaultyStore) -> None:
    """A run whose text can't be removed, whatever the adapter raises, ends as any other."""
    hooked = HookedStore(store)

    async def fail(*_: Any, **__: Any) -> Any:
        raise TypeError("unexpected")

    hooked.hooks = {"get_document": fail}
    handler = PromptHandler(model=ScriptedProvider(replies=["Done."]), orm=hooked)
    run = await handler.create_run("q", stream=True)
    assert (await handler.run_iteration(run.run_id, 1)).status == "done"
