"""The growing reply leaves nothing behind, whoever still writes."""

from __future__ import annotations

from typing import Any

import pytest
from hooked_store import HookedStore

from thoughtgear import live
from thoughtgear.handler import PromptHandler
from thoughtgear.models import RunState
from thoughtgear.providers.scripted import ScriptedProvider
from thoughtgear.testing import FaultyStore


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
