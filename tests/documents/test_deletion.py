"""Deleting a run, or a user: all that belongs to it goes, and nothing else."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hooked_store import HookedStore

from thoughtgear import File, PromptHandler, ToolContext, memory_tools, tool
from thoughtgear.adapters.disk import Disk
from thoughtgear.deletion import FEW_SESSIONS, Deleted, Deletion, delete_run, delete_user, find_user
from thoughtgear.errors import RunNotFoundError, RunNotOverError, StoreError, StoreUnavailableError
from thoughtgear.memory import Memory
from thoughtgear.models import RunState
from thoughtgear.protocols import OrmAdapter
from thoughtgear.providers.scripted import ScriptedProvider, call
from thoughtgear.registry import open_store
from thoughtgear.sessions import head_key
from thoughtgear.testing import append, new_run


@tool(cache=timedelta(hours=1))
async def weather(city: str) -> str:
    """Tell the weather."""
    return f"rain in {city}"


@tool
async def note(text: str, ctx: ToolContext) -> str:
    """Keep a text for the user, the session and the run alone."""
    for scope in ("user", "session", "run"):
        if scope == "run" or getattr(ctx, f"{scope}_id"):
            await ctx.memory_of(scope).put("text", text)
    return "kept"


CALLS = [call("weather", city="Köln"), call("note", text="likes tea")]


def handler_of(store: Any, *tools: Any, script: Any = None) -> PromptHandler:
    model = ScriptedProvider(replies=script or [CALLS, "Done."], per_run=True)
    return PromptHandler(orm=store, model=model, tools=[weather, note, *tools])


async def everything(store: OrmAdapter) -> dict[str, str]:
    """All records of a store as text, by name."""
    found = {}
    for state in (await store.list_runs(limit=1000)).runs:
        messages = await store.get_history(state.run_id)
        found[f"run {state.run_id}"] = state.model_dump_json() + "".join(
            m.model_dump_json() for m in messages
        )
    for collection in ("files", "memory", "cache"):
        for key in await store.list_documents(collection):
            document = await store.get_document(collection, key)
            found[f"{collection}/{key}"] = document.value.decode() if document else ""
    return found


async def test_a_user_is_gone_without_a_trace(store: OrmAdapter):
    """Runs, files, sessions, memory and cached results of one user are deleted and counted; another user with
    the same sessions, texts and calls loses nothing, and neither do runs without a user."""
    handler = handler_of(store, *memory_tools("session"))
    for user in ("ann", None, "ann-marie", "a", "annotated"):
        for session in ("s", None):
            await handler.handle_prompt(
                f"{user}: hello", user_id=user, session_id=session, files=[File("a", b"x")], stream=True
            )
    before = await everything(store)
    for session in ("s", "long" * 40):
        script = [[*CALLS, call("remember", key="k", value="of ann")], "Done."]
        again = handler_of(store, *memory_tools("session"), script=script)
        await again.handle_prompt("more of ann", user_id="ann", session_id=session)
    found = await find_user(store, "ann")
    deleted = await delete_user(store, "ann")
    after = await everything(store)
    assert (found.runs, found.messages, found.cached) == (4, 22, 1)
    assert deleted == Deleted(runs=4, messages=22, files=2, sessions=2, remembered=9, cached=1)
    assert not [name for name, text in after.items() if "ann:" in text or "of ann" in text]
    assert set(after) < set(before)
    assert {name for name in set(before) - set(after) if name.startswith("run ")} == {
        name for name, text in before.items() if '"user_id":"ann"' in text
    }
    assert all(after[name] == before[name] for name in after)
    assert await delete_user(store, "ann") == Deleted()


async def test_a_run_goes_with_what_is_its_own(store: OrmAdapter):
    """A deleted run takes its files and its own memory along; that of its user and other runs stays."""
    handler = handler_of(store)
    kept = await handler.handle_prompt("one", user_id="ann", files=[File("a", b"x")])
    gone = await handler.handle_prompt("two", user_id="ann", files=[File("a", b"x"), File("b", b"y")])
    deleted = await delete_run(store, gone.run_id)
    names = [name for name in await everything(store) if gone.run_id in name]
    assert deleted == Deleted(runs=1, messages=5, files=2, remembered=1)
    assert names == []
    assert await Memory(store, "user:ann").get("text") == "likes tea"
    assert await Memory(store, f"run:{kept.run_id}").get("text") == "likes tea"
    assert len(await store.list_documents("files", f"{kept.run_id}/")) == 1
    with pytest.raises(RunNotFoundError):
        await delete_run(store, gone.run_id)


@pytest.mark.parametrize("user", [None, "ann"])
async def test_a_session_goes_with_its_last_run(store: OrmAdapter, user: str | None):
    """As long as a session has a run its head and memory stay, then they go; another's of that name stay."""
    handler = handler_of(store)
    runs = [await handler.handle_prompt(text, session_id="s", user_id=user) for text in ("one", "two")]
    await handler.handle_prompt("other", session_id="s", user_id="ben")
    first = await delete_run(store, runs[1].run_id)
    three = await handler.handle_prompt("three", session_id="s", user_id=user)
    second = await delete_run(store, runs[0].run_id)
    last = await delete_run(store, three.run_id)
    assert three.parent is not None
    assert three.parent.run_id == runs[0].run_id
    assert [each.sessions for each in (first, second, last)] == [0, 0, 1]
    left = [key for key in await store.list_documents("memory") if "session" in key]
    assert len(left) == 2  # ben's head, and ben's memory
    assert all("ben" in key or key.startswith("session-head/") for key in left)


@pytest.fixture
async def hooked() -> HookedStore:
    return HookedStore(open_store("memory://"))


async def test_a_session_that_begins_again_meanwhile_stays(hooked: HookedStore):
    """A run that comes to a session between the look for its runs and the deletion of its head keeps both."""
    handler = handler_of(hooked)
    old = await handler.handle_prompt("one", session_id="s")
    came: list[RunState] = []

    async def listed(real: Any, *args: Any, **options: Any) -> Any:
        page = await real(*args, **options)
        if not came:
            came.append(old)
            came.append(await handler.handle_prompt("two", session_id="s"))
        return page

    hooked.hooks["list_runs"] = listed
    deleted = await delete_run(hooked, old.run_id)
    assert len(came) == 2
    assert deleted.sessions == 0
    assert await Memory(hooked, "session:s").get("text") == "likes tea"
    third = await handler.handle_prompt("three", session_id="s")
    assert third.parent is not None
    assert third.parent.run_id == came[1].run_id


async def test_many_sessions_are_looked_for_in_two_walks(hooked: HookedStore):
    """Where many sessions lost runs, the runs that are left are listed once before the heads go and once
    after it, not once per session."""
    handler = handler_of(hooked, script=["Hello."])
    runs = [
        await handler.handle_prompt("hello", session_id=f"s{number}") for number in range(FEW_SESSIONS + 5)
    ]
    kept = await handler.handle_prompt("again", session_id="s3")
    listings: list[Any] = []

    async def listed(real: Any, *args: Any, **options: Any) -> Any:
        listings.append(args)
        return await real(*args, **options)

    hooked.hooks["list_runs"] = listed
    deletion = Deletion(hooked)
    for run in runs:
        await deletion.run(run)
    await deletion.sessions()
    assert len(listings) == 2
    assert deletion.deleted.sessions == len(runs) - 1
    assert (await handler.handle_prompt("more", session_id="s3")).parent is not None
    assert (await hooked.load_run(kept.run_id)).status == "done"


@pytest.mark.parametrize("status", ["pending", "running", "waiting"])
async def test_what_is_not_over_is_refused(hooked: HookedStore, status: Any):
    """A run that is not over is deleted only by force, and so is its user; else nothing is."""
    await append(hooked, new_run("over", user_id="ann", status="done"), "a")
    await append(hooked, new_run("going", user_id="ann", status=status), "b")
    before = await everything(hooked)
    for refused in (delete_run(hooked, "going"), delete_user(hooked, "ann")):
        with pytest.raises(RunNotOverError, match=f"Run going is {status}: cancel it first"):
            await refused
    assert await everything(hooked) == before
    assert (await delete_run(hooked, "going", force=True)).runs == 1
    assert (await delete_user(hooked, "ann", force=True)).runs == 1


async def test_who_works_on_a_deleted_run_brings_nothing_back(hooked: HookedStore):
    """A run that is deleted by force inside of a tool: the tool's memory of the run and the shown text go,
    the local loop ends, and the store is empty."""
    deleted: list[Deleted] = []

    @tool
    async def delete(ctx: ToolContext) -> str:
        """Delete the run that calls this."""
        await ctx.memory_of("run").put("k", 1)
        deleted.append(await delete_run(hooked, ctx.run_id, force=True))
        return "deleted"

    handler = handler_of(hooked, delete, script=[[call("delete")], "Not said."])
    with pytest.raises(RunNotFoundError):
        await handler.handle_prompt("Delete yourself.", stream=True)
    assert [(each.runs, each.remembered) for each in deleted] == [(1, 1)]
    assert await everything(hooked) == {}


class Died(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("whole_user", [False, True])
async def test_a_deletion_that_died_half_way_is_completed_by_calling_it_again(
    hooked: HookedStore, whole_user: bool
):
    """Whichever write a deletion dies before, calling it again leaves no run, file, head or memory of the run
    or of its session, however long that one's name is."""
    handler = handler_of(hooked)
    steps, died = 0, True
    while died:
        run = await handler.handle_prompt("hi", user_id="ann", session_id="ü" * 150, files=[File("a", b"x")])
        left = steps

        async def delete(run_id: str = run.run_id) -> None:
            await (delete_user(hooked, "ann") if whole_user else delete_run(hooked, run_id))

        async def dying(real: Any, *args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Died
            return await real(*args, **options)

        hooked.hooks = {"put_document": dying, "delete_run": dying}
        with suppress(Died):
            await delete()
        hooked.hooks, died, steps = {}, left < 0, steps + 1
        with suppress(RunNotFoundError):
            await delete()
        names = set(await everything(hooked))
        assert not {name for name in names if not name.startswith(("memory/user:ann/", "cache/"))}
    assert steps > 5


async def test_the_rest_of_a_deletion_is_removed_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A store that died after it had buried a run is asked to go on when the run is deleted again."""
    url = f"files://{tmp_path}/runs"
    store = open_store(url)
    await append(store, new_run("r"), "secret")
    with monkeypatch.context() as patch:
        patch.setattr(Disk, "discard", _fail)
        with pytest.raises(StoreUnavailableError):
            await delete_run(store, "r", force=True)
    assert (tmp_path / "runs/runs/r").exists()
    with pytest.raises(RunNotFoundError):
        await delete_run(store, "r")
    assert not (tmp_path / "runs/runs/r").exists()
    await store.aclose()


async def test_a_damaged_run_of_a_user_is_named(tmp_path: Path):
    """Deleting a user whose one run can't be read deletes all else, and says which run is left."""
    store = open_store(f"sqlite:///{tmp_path}/runs.db")
    for name in ("whole", "broken"):
        await append(store, new_run(name, user_id="ann", status="done"), "secret")
    await append(store, new_run("other", user_id="bob", status="done"), "a")
    with closing(sqlite3.connect(tmp_path / "runs.db")) as database, database:
        database.execute("UPDATE run_states SET body = '{broken' WHERE run_id = 'broken'")
    with pytest.raises(StoreError, match=r"broken.*--force"):
        await delete_user(store, "ann")
    assert [run.run_id for run in (await store.list_runs()).runs] == ["other"]
    await delete_run(store, "broken", force=True)
    assert (await delete_user(store, "ann")).runs == 0
    await store.aclose()


async def test_a_damaged_run_is_deleted_by_force(tmp_path: Path):
    """A run whose state can't be read is refused with what to do, and by force it goes with its transcript
    and its files."""
    store = open_store(f"sqlite:///{tmp_path}/runs.db")
    await append(store, new_run("r", status="done"), "secret")
    await store.put_document("files", "r/a", b"secret", tag=None)
    with closing(sqlite3.connect(tmp_path / "runs.db")) as database, database:
        database.execute("UPDATE run_states SET body = '{broken'")
    with pytest.raises(StoreError, match="by force"):
        await delete_run(store, "r")
    assert (await delete_run(store, "r", force=True)).runs == 1
    assert await store.get_history("r") == []
    assert await store.list_documents("files") == []
    with pytest.raises(RunNotFoundError):
        await store.load_run("r")
    await store.aclose()


def _fail(*_: object) -> None:
    raise OSError(5, "I/O error")


async def test_a_run_that_began_since_the_look_is_refused(hooked: HookedStore):
    """A run of a user that begins after `users delete` has looked is not deleted without force."""
    await append(hooked, new_run("over", user_id="ann", status="done"), "a")
    looks = 0

    async def listed(real: Any, *args: Any, **options: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 2:
            await append(hooked, new_run("fresh", user_id="ann", status="running"), "b")
        return await real(*args, **options)

    hooked.hooks["list_runs"] = listed
    with pytest.raises(RunNotOverError, match="Run fresh is running"):
        await delete_user(hooked, "ann")
    assert looks == 2
    assert (await hooked.load_run("fresh")).status == "running"


async def test_memory_stays_under_a_run_that_is_not_linked_yet(hooked: HookedStore):
    """A run that is stored after the look for the session's runs keeps its session's memory, although it has
    not moved the head."""
    handler = handler_of(hooked)
    old = await handler.handle_prompt("one", session_id="s")

    async def put(real: Any, collection: str, key: str, value: Any, **options: Any) -> Any:
        if key == head_key(old):
            hooked.hooks.clear()
            await append(hooked, new_run("fresh", session_id="s"), "two")
        return await real(collection, key, value, **options)

    hooked.hooks["put_document"] = put
    assert (await delete_run(hooked, old.run_id)).sessions == 0
    assert hooked.hooks == {}
    assert await Memory(hooked, "session:s").get("text") == "likes tea"


async def test_of_two_deletions_at_once_one_ends_the_session(hooked: HookedStore):
    """Two that delete the last two runs of a session at the same time leave nothing of the session."""
    handler = handler_of(hooked)
    one, two = [await handler.handle_prompt(text, session_id="s") for text in ("one", "two")]

    async def deleting(real: Any, run_id: str) -> Any:
        hooked.hooks.clear()
        await delete_run(hooked, two.run_id)
        return await real(run_id)

    hooked.hooks["delete_run"] = deleting
    await delete_run(hooked, one.run_id)
    assert hooked.hooks == {}
    assert [name for name in await everything(hooked) if not name.startswith("cache/")] == []


async def test_a_run_that_is_retried_meanwhile_stays(hooked: HookedStore):
    """A failed run that goes on again while its session is looked through is not deleted without force."""
    state = await append(hooked, new_run("r", session_id="s", status="failed"), "a")

    async def listed(real: Any, *args: Any, **options: Any) -> Any:
        hooked.hooks.clear()
        await append(hooked, state.model_copy(update={"status": "running"}), "b")
        return await real(*args, **options)

    hooked.hooks["list_runs"] = listed
    with pytest.raises(RunNotOverError, match="Run r is running"):
        await delete_run(hooked, "r")
    assert (await hooked.load_run("r")).status == "running"
