"""Files of a prompt, from the handler to the model and to their deletion, on every store."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from thoughtgear import File, PromptHandler
from thoughtgear.errors import RunDeletedError, StoreUnavailableError
from thoughtgear.protocols import ModelRequest
from thoughtgear.providers.scripted import ScriptedProvider

TEXT = "Köln, 4 °C\n".encode()
IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 1000


class Reader(ScriptedProvider):
    """Answers at once, and shows what it was asked."""

    def __init__(self) -> None:
        super().__init__(replies=lambda request: "read")
        self.requests: list[ModelRequest] = []

    async def reply(self, request: ModelRequest, *args: Any) -> Any:
        self.requests.append(request)
        return await super().reply(request, *args)


def given(request: ModelRequest) -> list[list[tuple[str, str, bytes]]]:
    """Name, type and bytes of the files that each user message brings to the model."""
    return [
        [(item.name, item.media_type, request.files[item.sha256]) for item in message.attachments]
        for message in request.messages
        if message.role == "user"
    ]


async def test_files_reach_the_model(store: Any, tmp_path: Path) -> None:
    """A text and an image come to the model byte for byte; a content that is given twice, under two names, is
    stored once; a later run of the session, in a process that has read nothing yet, sees them again."""
    note = tmp_path / "note.txt"
    note.write_bytes(TEXT)
    files = [note, File("map.png", IMAGE), File("copy.png", IMAGE), File("odd", b"", "text/csv")]
    expected = [
        ("note.txt", "text/plain", TEXT),
        ("map.png", "image/png", IMAGE),
        ("copy.png", "image/png", IMAGE),
        ("odd", "text/csv", b""),
    ]
    first, second = Reader(), Reader()
    run = await PromptHandler(orm=store, model=first).handle_prompt("Read", files=files, session_id="s")
    assert run.status == "done"
    assert given(first.requests[0]) == [expected]
    hashes = sorted(hashlib.sha256(data).hexdigest() for data in (TEXT, IMAGE, b""))
    assert await store.list_documents("files") == [f"{run.run_id}/{digest}" for digest in hashes]
    later = await PromptHandler(orm=store, model=second).handle_prompt("And?", session_id="s")
    assert later.status == "done"
    assert given(second.requests[0]) == [expected, []]
    assert len(await store.list_documents("files")) == 3


async def test_files_go_with_their_run(store: Any) -> None:
    """Deleting a run deletes its files and no other run's, and its repeated prompt, which is refused, leaves
    none behind."""
    handler = PromptHandler(orm=store, model=Reader())
    kept = await handler.handle_prompt("Read", files=[File("a.txt", TEXT)])
    prompt = {"files": [File("a.txt", TEXT), File("b.png", IMAGE)], "request_id": "once"}
    gone = await handler.handle_prompt("Read", **prompt)
    assert len(await store.list_documents("files", f"{gone.run_id}/")) == 2
    await store.delete_run(gone.run_id)
    only = [f"{kept.run_id}/{hashlib.sha256(TEXT).hexdigest()}"]
    assert await store.list_documents("files") == only
    with pytest.raises(RunDeletedError):
        await handler.handle_prompt("Read", **prompt)
    assert await store.list_documents("files") == only


async def test_a_store_that_was_away_for_a_moment_has_the_files(store: Any, monkeypatch: Any) -> None:
    """A file whose storing failed once, before or after it landed, is stored, and the run answers."""
    put, faults = store.put_document, []

    async def fail_once(collection: Any, key: str, value: Any, *, tag: Any) -> Any:
        if collection == "files" and len(faults) < 2:
            faults.append(key)
            if len(faults) == 2:
                await put(collection, key, value, tag=tag)
            raise StoreUnavailableError
        return await put(collection, key, value, tag=tag)

    monkeypatch.setattr(store, "put_document", fail_once)
    model = Reader()
    run = await PromptHandler(orm=store, model=model).handle_prompt("Read", files=[File("a.txt", TEXT)])
    assert (run.status, len(faults)) == ("done", 2)
    assert given(model.requests[0]) == [[("a.txt", "text/plain", TEXT)]]
