"""Prompts: what is refused, and what a file costs."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest

from thoughtgear import prompts
from thoughtgear.errors import InvalidInputError, RunDeletedError
from thoughtgear.handler import PromptHandler
from thoughtgear.prompts import File
from thoughtgear.providers.scripted import ScriptedProvider
from thoughtgear.testing import FaultyStore


def handler_on(store: FaultyStore) -> PromptHandler:
    return PromptHandler(model=ScriptedProvider("echo"), orm=store)


def nested(levels: int, *, lists: bool = False) -> dict[str, Any]:
    """Metadata of so many levels, its own keys included."""
    value: Any = 1
    for _ in range(levels - 1):
        value = [value] if lists else {"a": value}
    return {"a": value}


@pytest.mark.parametrize("lists", [False, True], ids=["objects", "lists"])
async def test_metadata_nests_twenty_levels(store: FaultyStore, lists: bool) -> None:
    """Metadata of 20 levels comes back as it was; deeper metadata is refused and stores nothing."""
    handler = handler_on(store)
    run = await handler.create_run("q", metadata=nested(20, lists=lists))
    assert (await handler.get_run(run.run_id)).metadata == nested(20, lists=lists)
    for levels in (21, 150, 220):
        with pytest.raises(InvalidInputError, match="20 levels"):
            await handler.create_run("q", metadata=nested(levels, lists=lists))
    assert len((await store.list_runs()).runs) == 1


async def test_request_of_a_deleted_run(store: FaultyStore) -> None:
    """A request id whose run was deleted is refused as that, with or without a session."""
    handler = handler_on(store)
    for session_id in (None, "s"):
        request = {"request_id": f"id-{session_id}", "session_id": session_id}
        run = await handler.create_run("q", **request)
        await store.delete_run(run.run_id)
        with pytest.raises(RunDeletedError, match="new request id"):
            await handler.handle_prompt("q", **request)


async def test_files_are_hashed_once_beside_the_loop(
    store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is hashed once, in a thread, whether it comes as bytes or as a path; every use has that hash."""
    path = tmp_path / "on-disk.txt"
    path.write_bytes(b"on disk" * 1000)
    contents = [b"in memory" * 1000, path.read_bytes()]
    hashed: list[tuple[bytes, int]] = []

    class Hashing:
        @staticmethod
        def sha256(data: bytes) -> Any:
            hashed.append((data, threading.get_ident()))
            return hashlib.sha256(data)

    monkeypatch.setattr(prompts, "hashlib", Hashing)
    run = await handler_on(store).create_run("q", files=[File("in-memory.txt", contents[0]), path])
    of_files = [(data, thread) for data, thread in hashed if data in contents]
    assert [data for data, _ in of_files] == contents
    assert threading.get_ident() not in [thread for _, thread in of_files]
    first = (await store.get_history(run.run_id))[0]
    assert [item.sha256 for item in first.attachments] == [hashlib.sha256(c).hexdigest() for c in contents]
    for item, content in zip(first.attachments, contents, strict=True):
        document = await store.get_document("files", f"{run.run_id}/{item.sha256}")
        assert document is not None
        assert document.value == content
