"""A store with a bit of everything in it."""

from __future__ import annotations

from typing import Any

from thoughtgear.models import (
    Attachment,
    CallRecord,
    Claim,
    InboxItem,
    Message,
    Parent,
    RunState,
    ToolCall,
    Usage,
)
from thoughtgear.protocols import OrmAdapter
from thoughtgear.testing import append, new_run
from thoughtgear.testing.copies import leap

STORES = ("memory", "sqlite", "postgresql", "files", "s3", "mongodb")
RING = list(zip(STORES, (*STORES[1:], STORES[0]), strict=True))
"""Each store once as a source, and once as a target."""

PICTURE = bytes(range(256)) * 400

DOCUMENTS: list[tuple[Any, str, bytes]] = [
    ("memory", "user:ann/likes", b'"tea"'),
    ("memory", "session-head/s", b'{"recent": ["pictured", "waits"]}'),
    ("cache", "tool/some", b"a result"),
    ("files", "of no run/%_", b"\0" * 1000),
]


async def fill(store: OrmAdapter) -> list[str]:
    """Put runs of all sorts and documents into a store; return the ids of the runs."""
    picture = Attachment(name="a.png", media_type="image/png", size=len(PICTURE), sha256="ab" * 32)
    asked = Message(seq=0, role="user", text="what is this?", attachments=[picture])
    await store.put_document("files", f"pictured/{picture.sha256}", PICTURE, tag=None)
    pictured = new_run("pictured", version=1, message_count=1, user_id="ann", session_id="s")
    await store.save_run(pictured, [asked])
    long = await append(store, new_run("long", user_id="ann", metadata={"team": "blue"}), "begin")
    for number in range(100):
        long = await append(store, long, f"{number}", "\0 \U0001d54a \u2028", "x" * number)
    await append(store, long.model_copy(update={"status": "done", "output": "that was long"}))
    await leap(store, going_on(), 41, "go on")
    state = await append(store, new_run("waits", parent=Parent(run_id="pictured")), "then this")
    await append(store, state.model_copy(update={"linked": True}))
    novel = RunState.model_validate({"run_id": "novel", "version": 1, "message_count": 1, "mood": [1]})
    await store.save_run(novel, [Message.model_validate({"seq": 0, "role": "user", "tone": "kind"})])
    for collection, key, value in DOCUMENTS:
        await store.put_document(collection, key, value, tag=None)
    return ["long", "novel", "pictured", "running", "waits"]


def going_on() -> RunState:
    """A run in the midst of an iteration, held by somebody; it is not stored yet."""
    call = ToolCall(id="3.0", name="pay", arguments={"sum": 1})
    return new_run(
        "running",
        status="running",
        iteration=2,
        claim=Claim(epoch=7, owner="scope/1", driver="temporal", deadline=2e9),
        ledger=[CallRecord(call=call, status="started", policy="at_most_once")],
        inbox=[InboxItem(request_id="q", text="and hurry")],
        usage=Usage(input_tokens=5),
    )


async def snapshot(store: OrmAdapter) -> dict[str, Any]:
    """All that is in a store, read by the methods of the protocol."""
    found: dict[str, Any] = {}
    for state in (await store.list_runs(limit=1000)).runs:
        messages = await store.get_history(state.run_id)
        found[state.run_id] = (
            state.model_dump(exclude={"copied"}),
            [message.model_dump() for message in messages],
        )
    for collection in ("files", "memory", "cache"):
        for key in await store.list_documents(collection):
            document = await store.get_document(collection, key)
            found[f"{collection}/{key}"] = document and document.value
    return found
