"""Long-term memory: what tools and the model remember from run to run, on every store."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from thoughtgear import Limits, PromptHandler, ToolContext, memory_tools, tool
from thoughtgear.errors import ConfigurationError, InvalidInputError
from thoughtgear.memory import Memory
from thoughtgear.models import FORMAT, ToolResult
from thoughtgear.notes import (
    DOCUMENT,
    ENTRIES,
    KEY_BYTES,
    RECALL_BYTES,
    VALUE_BYTES,
    MemoryScope,
    Note,
    Notes,
)
from thoughtgear.providers.scripted import ScriptedProvider, call
from thoughtgear.registry import open_store
from thoughtgear.tools import result_text


@pytest.fixture
def memory_store() -> Any:
    return open_store("memory://")


async def ask(
    store: Any, *calls: Any, scope: MemoryScope = "user", limit: int = 20, **prompt: Any
) -> list[ToolResult]:
    """Let a new run of a new handler make these calls one by one; return their results."""
    model = ScriptedProvider(replies=[*([one] for one in calls), "told"], per_run=True)
    limits = Limits(iterations=1000)
    handler = PromptHandler(orm=store, model=model, tools=memory_tools(scope, limit=limit), limits=limits)
    run = await handler.handle_prompt("Go", **prompt)
    assert run.status == "done"
    return [message.tool_result for message in await handler.history(run.run_id) if message.tool_result]


def recalled(result: ToolResult) -> dict[str, str]:
    """What `recall` has shown, by key and in its order."""
    assert result.status == "ok"
    return {entry["key"]: entry["value"] for entry in json.loads(result.content)["entries"]}


async def test_a_tool_remembers(store: Any) -> None:
    """What a tool puts into `ctx.memory` in one run it finds in the user's next one, and no other user does;
    a plain function in a thread as well."""
    seen: list[Any] = []

    @tool
    async def visit(ctx: ToolContext) -> int:
        return await ctx.memory.update("visits", lambda count: count + 1, 0)

    @tool
    def look(ctx: ToolContext) -> str:
        seen.append((ctx.memory.sync.get("visits"), ctx.memory_of("user").sync.keys()))
        return ""

    model = ScriptedProvider(replies=[[call("visit")], [call("look")], "told"], per_run=True)
    handler = PromptHandler(orm=store, model=model, tools=[visit, look])
    for user_id in ("ann", "bob", "ann"):
        await handler.handle_prompt("Go", user_id=user_id)
    assert seen == [(1, ["visits"]), (1, ["visits"]), (2, ["visits"])]


async def test_a_model_remembers_for_a_user(store: Any) -> None:
    """What is remembered in one conversation is recalled in another one of that user, replaced under its key,
    and gone once it is forgotten; another user sees none of it."""
    await ask(
        store,
        call("remember", key="favourite colour", value="red"),
        call("remember", key="home", value="Köln 🏠"),
        call("remember", key="favourite colour", value="blue"),
        user_id="ann",
        session_id="one",
    )
    word, newest = await ask(
        store, call("recall", query="Colour?"), call("recall"), user_id="ann", session_id="two"
    )
    assert recalled(word) == {"favourite colour": "blue"}
    assert list(recalled(newest)) == ["favourite colour", "home"]
    (others,) = await ask(store, call("recall"), user_id="bob", session_id="one")
    assert others.content == "Nothing is remembered yet."
    forgot, again, left = await ask(
        store, call("forget", key="home"), call("forget", key="home"), call("recall"), user_id="ann"
    )
    assert (forgot.content, again.content) == ("Forgot 'home'.", "Nothing is remembered as 'home'.")
    assert recalled(left) == {"favourite colour": "blue"}


async def test_nothing_is_lost_to_another_run(store: Any) -> None:
    """Five runs that remember at once leave five entries."""
    runs = (ask(store, call("remember", key=f"k{n}", value="v"), user_id="ann") for n in range(5))
    await asyncio.gather(*runs)
    (result,) = await ask(store, call("recall"), user_id="ann")
    assert sorted(recalled(result)) == [f"k{n}" for n in range(5)]


# Scopes


async def test_a_session_is_one_user_s(memory_store: Any) -> None:
    """A session's memory is neither that of another user's session of that name nor that of its user."""
    people = [{"user_id": None}, {"user_id": "ann"}, {"user_id": "bob"}]
    for person in people:
        note = call("remember", key="name", value=str(person))
        await ask(memory_store, note, scope="session", session_id="s", **person)
    for person in people:
        (same,) = await ask(memory_store, call("recall"), scope="session", session_id="s", **person)
        (other,) = await ask(memory_store, call("recall"), scope="session", session_id="t", **person)
        assert recalled(same) == {"name": str(person)}
        assert other.content == "Nothing is remembered yet."
    (mine,) = await ask(memory_store, call("recall"), session_id="s", user_id="ann")
    assert mine.content == "Nothing is remembered yet."


@pytest.mark.parametrize(
    ("scope", "prompt"), [("user", {"session_id": "s"}), ("session", {"user_id": "ann"})]
)
async def test_a_run_without_the_scope_is_told(
    memory_store: Any, scope: MemoryScope, prompt: dict[str, str]
) -> None:
    """Without a user or session the model gets an error that says so, and nothing is stored."""
    calls = [call("remember", key="k", value="v"), call("recall"), call("forget", key="k")]
    for result in await ask(memory_store, *calls, scope=scope, **prompt):
        assert result.status == "error"
        assert f"This memory is a {scope}'s, and this run has no {scope}." in result.content
    assert [key for key in await memory_store.list_documents("memory") if DOCUMENT in key] == []


async def test_scopes_of_a_context(memory_store: Any) -> None:
    """`memory_of` gives the memory of exactly that scope; the same ids are the same memory."""

    def context(user_id: str | None, session_id: str | None) -> ToolContext:
        memory = Memory(memory_store, "run:r")
        return ToolContext(run_id="r", call_id="1.0", memory=memory, user_id=user_id, session_id=session_id)

    await context("ann", "s").memory_of("user").put("k", "user")
    await context("ann", "s").memory_of("session").put("k", "session")
    await context("ann", "s").memory_of("run").put("k", "run")
    assert await context("ann", None).memory_of("user").get("k") == "user"
    assert await context("ann", "s").memory_of("session").get("k") == "session"
    assert await context(None, "s").memory_of("session").get("k") is None
    assert await context(None, None).memory.get("k") == "run"
    with pytest.raises(InvalidInputError, match="no session"):
        context("ann", None).memory_of("session")


@pytest.mark.parametrize("options", [{"scope": "team"}, {"limit": 0}])
def test_settings_that_can_not_work(options: dict[str, Any]) -> None:
    """A scope that there is not, and a limit below 1, are refused."""
    with pytest.raises(ConfigurationError):
        memory_tools(**options)


# Bounds


async def fill(store: Any, notes: dict[str, str]) -> None:
    """Remember these, the first one the newest."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    entries = {
        key: Note(value=value, saved_at=moment - timedelta(seconds=age))
        for age, (key, value) in enumerate(notes.items())
    }
    await Memory(store, "user:ann").put(DOCUMENT, Notes(entries=entries).model_dump(mode="json"))


async def test_recall_shows_a_bounded_number(memory_store: Any) -> None:
    """The newest entries come, up to the limit, and how many more there are; the keys where none fits."""
    await fill(memory_store, {f"k{number}": "the same" for number in range(30)})
    newest, found, none = await ask(
        memory_store,
        call("recall"),
        call("recall", query="same"),
        call("recall", query="other"),
        user_id="ann",
        limit=3,
    )
    for result in (newest, found):
        assert list(recalled(result)) == ["k0", "k1", "k2"]
        assert json.loads(result.content)["more"].startswith("27 more")
    assert none.content.endswith("about that. Remembered are: k0, k1, k2 and 27 more.")


@pytest.mark.parametrize("letter", ["x", "\x01", "é", "🙂", '"'])
async def test_the_largest_entries_fit(memory_store: Any, letter: str) -> None:
    """As many entries of the largest size as may be are kept, and what is recalled of them is within the
    bytes; one more, or one byte more, is refused with what to do."""
    width = len(json.dumps(letter, ensure_ascii=False).encode()) - 2
    value = letter * (VALUE_BYTES // width)
    keys = [f"{number:03d}" + letter * ((KEY_BYTES - 3) // width) for number in range(ENTRIES)]
    await fill(memory_store, dict.fromkeys(keys[1:], value))
    stored, full, replaced, long_value, long_key, recall = await ask(
        memory_store,
        call("remember", key=keys[0], value=value),
        call("remember", key="one more", value="v"),
        call("remember", key=keys[1], value=value),
        call("remember", key=keys[1], value=value + letter),
        call("remember", key="x" * (KEY_BYTES + 1), value="v"),
        call("recall", query=""),
        user_id="ann",
    )
    assert (stored.status, replaced.status) == ("ok", "ok")
    assert (full.status, "forget one first" in full.content) == ("error", True)
    assert (long_value.status, f"1 to {VALUE_BYTES} bytes" in long_value.content) == ("error", True)
    assert (long_key.status, f"1 to {KEY_BYTES} bytes" in long_key.content) == ("error", True)
    assert 1 <= len(recalled(recall)) < 20
    assert len(recall.content.encode()) <= RECALL_BYTES


async def test_recall_fills_its_bytes_and_no_more(memory_store: Any) -> None:
    """Whatever the entries' size, as many come as fit into the bytes."""
    _, recall, _ = memory_tools(limit=ENTRIES)
    ctx = ToolContext(run_id="r", call_id="1.0", memory=Memory(memory_store, "run:r"), user_id="ann")
    for size in range(100, 180):
        await fill(memory_store, {f"{number:03d}": "x" * size for number in range(ENTRIES)})
        shown = len(result_text(await recall.call({}, ctx)).encode())
        assert RECALL_BYTES - 2 * size - 200 < shown <= RECALL_BYTES


@pytest.mark.parametrize("empty", [{"key": " ", "value": "v"}, {"key": "k", "value": ""}])
async def test_nothing_is_not_remembered(memory_store: Any, empty: dict[str, str]) -> None:
    """A key or a value without text is refused."""
    (result,) = await ask(memory_store, call("remember", **empty), user_id="ann")
    assert result.status == "error"


async def test_what_fits_best_comes_first(memory_store: Any) -> None:
    """The entry whose key is the query comes first, then those with most of its words, then the newest; what
    has none of them does not come."""
    notes = {
        "a": "tea",
        "b": "green tea",
        "c": "nothing of it",
        "Green Tea": "at five",
        "d": "GREEN, and also TEA",
        "e": "coffee",
    }
    await fill(memory_store, notes)
    (result,) = await ask(memory_store, call("recall", query="green tea"), user_id="ann")
    assert list(recalled(result)) == ["Green Tea", "b", "d", "a"]


# Stored form


async def test_fields_of_a_newer_version_stay(memory_store: Any) -> None:
    """What a newer version has added to a note and beside the notes survives a change by this one."""
    memory = Memory(memory_store, "user:ann")
    note = {"value": "v", "saved_at": "2026-01-01T00:00:00Z", "weight": 3}
    await memory.put(DOCUMENT, {"format": FORMAT, "entries": {"old": note}, "index": [1]})
    await ask(memory_store, call("remember", key="new", value="w"), user_id="ann")
    stored = await memory.get(DOCUMENT)
    assert stored["index"] == [1]
    assert stored["entries"]["old"] == note
    assert list(stored["entries"]) == ["old", "new"]


@pytest.mark.parametrize("other", [{"format": FORMAT + 1, "entries": {}}, {"entries": "s3cret"}, [1]])
async def test_what_can_not_be_read_stays(memory_store: Any, other: Any) -> None:
    """A newer format, and what was not written by `remember`, is an error without its text, and is kept."""
    memory = Memory(memory_store, "user:ann")
    await memory.put(DOCUMENT, other)
    calls = [call("remember", key="k", value="v"), call("recall"), call("forget", key="k")]
    for result in await ask(memory_store, *calls, user_id="ann"):
        assert result.status == "error"
        assert "s3cret" not in result.content
    assert await memory.get(DOCUMENT) == other


def test_what_the_model_reads_of_the_tools() -> None:
    """Each tool says whose memory it is, and has no parameter for it."""
    for scope, words in (("user", "about this user"), ("session", "in this conversation")):
        specs = [one.spec() for one in memory_tools(scope)]  # type: ignore[arg-type]
        assert [spec.name for spec in specs] == ["remember", "recall", "forget"]
        assert all(words in spec.description for spec in specs)
        assert [list(spec.parameters["properties"]) for spec in specs] == [
            ["key", "value"],
            ["query"],
            ["key"],
        ]
        assert len(result_text([spec.parameters for spec in specs])) < 1200
