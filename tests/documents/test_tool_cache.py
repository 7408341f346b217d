"""Cached tool results: when a tool runs, when it need not, and that its cache never harms a call."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr

from thoughtgear import Callbacks, Limits, PromptHandler, Tool, tool
from thoughtgear import cache as cache_module
from thoughtgear.cache import PREFIX, Entry, key_of, sweep
from thoughtgear.errors import StoreError, StoreUnavailableError, SupersededError
from thoughtgear.models import FORMAT, Message, ToolResult, now
from thoughtgear.protocols import Attempt, Document
from thoughtgear.providers.scripted import ScriptedProvider, call
from thoughtgear.registry import open_store

HOUR = timedelta(hours=1)


class Clock:
    """The cache's clock, which a test sets forward or back."""

    def __init__(self) -> None:
        self.offset = timedelta(0)

    def __call__(self) -> datetime:
        return now() + self.offset


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(cache_module, "now", made)
    return made


class Weather:
    """A cached tool that counts its runs, and handlers that call it once per prompt."""

    def __init__(self, **options: Any) -> None:
        self.runs = 0
        self.answer: Callable[[str, int], str] = lambda city, run: f"{city}: {run}"
        self.options = {"cache": HOUR, **options}

    def tool(self) -> Tool:
        async def weather(city: str, days: int = 1) -> str:
            """Tell the weather."""
            self.runs += 1
            return self.answer(city, self.runs)

        return tool(**self.options)(weather)

    def handler(self, store: Any, *lines: Any, name: str = "default", **options: Any) -> PromptHandler:
        script = [*(lines or [call("weather", city="Köln")]), "told"]
        model = ScriptedProvider(replies=script, per_run=True)
        return PromptHandler(name, orm=store, model=model, tools=[self.tool()], **options)

    async def ask(self, store: Any, *lines: Any, user_id: str | None = None, **options: Any) -> ToolResult:
        """Let a new run of a new handler call the tool; return the last result of its calls."""
        handler = self.handler(store, *lines, **options)
        run = await handler.handle_prompt("Weather?", user_id=user_id)
        assert run.status == "done"
        return results(await handler.history(run.run_id))[-1]


def results(messages: list[Message]) -> list[ToolResult]:
    return [message.tool_result for message in messages if message.tool_result]


async def entries(store: Any) -> list[Document]:
    found = [await store.get_document("cache", key) for key in await store.list_documents("cache", PREFIX)]
    return [document for document in found if document]


async def put_entry(store: Any, name: str, entry: Entry | bytes) -> None:
    value = entry if isinstance(entry, bytes) else entry.model_dump_json().encode()
    await store.put_document("cache", name, value, tag=None)


# On every store


async def test_a_result_is_used_until_it_is_too_old(store: Any, clock: Clock) -> None:
    """Within the ttl another run gets the result without the tool, marked as cached in its transcript; from
    the ttl on the tool runs, and its result takes the old one's place."""
    weather = Weather()
    first = await weather.ask(store)
    again = await weather.ask(store)
    assert (first.content, first.cached, again.content, again.cached) == ("Köln: 1", False, "Köln: 1", True)
    clock.offset = HOUR - timedelta(minutes=1)
    assert (await weather.ask(store)).cached
    clock.offset = HOUR
    fresh = await weather.ask(store)
    assert (fresh.content, fresh.cached) == ("Köln: 2", False)
    assert (await weather.ask(store)).content == "Köln: 2"
    assert (weather.runs, len(await entries(store))) == (2, 1)


async def test_a_damaged_entry_is_replaced(store: Any) -> None:
    """Where an entry can't be read the tool runs, and the next run has its result."""
    weather = Weather()
    await weather.ask(store)
    (document,) = await entries(store)
    await store.put_document("cache", document.key, b'{"content": "K', tag=document.tag)
    assert [(await weather.ask(store)).content for _ in range(2)] == ["Köln: 2", "Köln: 2"]


async def test_the_sweep_takes_what_has_expired(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep deletes expired and damaged entries on all pages and counts them; young ones, those of a newer
    format and whatever else lies in the cache stay."""
    monkeypatch.setattr(cache_module, "PAGE", 2)
    young = Entry(content="x", saved_at=now(), expires_at=now() + HOUR)
    old = Entry(content="x", saved_at=now() - HOUR, expires_at=now() - timedelta(seconds=1))
    newer = old.model_copy(update={"format": FORMAT + 1})
    for index, entry in enumerate([old, young, b"{", old, newer, old]):
        await put_entry(store, f"{PREFIX}{index}", entry)
    await put_entry(store, "live/run", b"text")
    steps: list[int] = []
    assert (await sweep(store, steps.append), sum(steps)) == (4, 6)
    assert await store.list_documents("cache") == ["live/run", f"{PREFIX}1", f"{PREFIX}4"]
    assert await sweep(store) == 0


# What a result belongs to


async def test_results_of_different_calls_are_apart(memory_store: Any) -> None:
    """Another user, no user, another handler, tool version, argument or limit never gets this result."""
    weather = Weather()
    paris, version = [call("weather", city="Paris")], Weather(version="2")
    asked: list[tuple[Weather, dict[str, Any]]] = [
        (weather, {"user_id": None}),
        (weather, {"user_id": "ann"}),
        (weather, {"user_id": "None"}),
        (weather, {"user_id": "null"}),
        (weather, {"name": "other"}),
        (weather, {"limits": Limits(tool_result_bytes=1000)}),
        (version, {}),
    ]
    for one, options in asked:
        assert not (await one.ask(memory_store, **options)).cached
        assert (await one.ask(memory_store, **options)).cached
    assert not (await weather.ask(memory_store, paris)).cached
    assert len(await entries(memory_store)) == len(asked) + 1


async def test_spellings_of_the_same_arguments_share_a_result(memory_store: Any) -> None:
    """Order and form of what the model sends don't matter where it is validated to the same."""
    weather = Weather()
    spellings = [
        {"name": "weather", "arguments": '{"city": "Köln", "days": 3}'},
        {"name": "weather", "arguments": '{"days":3,"city":"K\\u00f6ln"}'},
        {"name": "weather", "arguments": '{"city": "Köln", "days": "3"}'},
    ]
    assert not (await weather.ask(memory_store, [spellings[0]])).cached
    for spelling in spellings:
        assert (await weather.ask(memory_store, [spelling])).cached


class Login(BaseModel):
    user: str
    password: SecretStr
    hint: str = Field(default="", exclude=True)


@tool(cache=HOUR)
def log_in(login: Login, tags: set[str] = frozenset()) -> str:  # type: ignore[assignment]
    """Log in."""
    return "in"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def key(one: Tool, sent: Any) -> str:
    return key_of("ann", "default", one, 50_000, sent, one.validate(sent))


def test_secrets_tell_calls_apart() -> None:
    """Arguments that hide a part of themselves in their own JSON have different keys; the key shows none."""
    keys = [
        key(log_in, {"login": {"user": "a", "password": password, "hint": hint}})
        for password in ("one", "two")
        for hint in ("", "x")
    ]
    assert len(set(keys)) == 4
    assert all(len(one) < 100 for one in keys)


def test_what_is_no_plain_json_counts_as_it_was_given() -> None:
    """A set, whose order differs from process to process, has the key of the list that the model sent."""
    sent = {"login": {"user": "a", "password": "p"}, "tags": ["b", "a", "c"]}
    assert key(log_in, sent) == key(log_in, dict(reversed(sent.items())))
    assert key(log_in, sent) != key(log_in, {**sent, "tags": ["a", "b", "c"]})


@given(one=JSON, other=JSON)
def test_a_key_is_one_of_equal_json_alone(one: Any, other: Any) -> None:
    """Two arguments have one key exactly when they are the same JSON: 1, 1.0 and true are three."""

    def take(value: Any) -> str:
        """Take."""
        return ""

    taking = tool(cache=HOUR)(take)
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (key(taking, {"value": one}) == key(taking, {"value": other})) is same


async def test_the_shorter_ttl_counts(memory_store: Any, clock: Clock) -> None:
    """Of the ttl that a result was kept for and the one that the tool has now the shorter one counts; a clock
    that was set back makes nothing last."""
    long, short = Weather(), Weather(cache=timedelta(minutes=5))
    await long.ask(memory_store)
    clock.offset = timedelta(minutes=10)
    assert not (await short.ask(memory_store)).cached
    clock.offset = timedelta(minutes=20)
    assert not (await long.ask(memory_store)).cached
    clock.offset = -2 * HOUR
    assert not (await long.ask(memory_store)).cached


async def test_the_longest_ttl(memory_store: Any) -> None:
    """A ttl beyond the calendar's end is for ever."""
    weather = Weather(cache=timedelta.max)
    assert [(await weather.ask(memory_store)).cached for _ in range(2)] == [False, True]
    assert await sweep(memory_store) == 0


async def test_a_newer_format_is_not_used(memory_store: Any) -> None:
    """An entry that a newer version wrote is not used: the tool runs."""
    weather = Weather()
    await weather.ask(memory_store)
    (document,) = await entries(memory_store)
    newer = {**json.loads(document.value), "format": FORMAT + 1}
    await memory_store.put_document("cache", document.key, json.dumps(newer).encode(), tag=document.tag)
    assert not (await weather.ask(memory_store)).cached


async def test_only_a_result_that_is_ok_is_kept(memory_store: Any) -> None:
    """Neither arguments that don't fit, nor an error, nor a time-out are kept; the next success is."""
    weather = Weather(timeout=0.05)

    def fail(city: str, run: int) -> Any:
        if run == 1:
            raise ValueError("no weather today")
        return asyncio.Event().wait() if run == 2 else "sunny"

    weather.answer = fail
    unfit = await weather.ask(memory_store, [{"name": "weather", "arguments": "{}"}])
    assert (unfit.status, weather.runs) == ("error", 0)
    failed, hung = [await weather.ask(memory_store) for _ in range(2)]
    assert (failed.status, failed.content) == ("error", "ValueError: no weather today")
    assert (hung.status, "no sign of life" in hung.content) == ("error", True)
    assert await entries(memory_store) == []
    assert [(await weather.ask(memory_store)).cached for _ in range(2)] == [False, True]


async def test_a_cached_result_is_cut_as_the_first_was(memory_store: Any) -> None:
    """A result over the limit is kept cut, and comes back the same, within the limit."""
    weather, limits = Weather(), Limits(tool_result_bytes=500)
    weather.answer = lambda city, run: "rain " * 1_000_000
    first = await weather.ask(memory_store, limits=limits)
    again = await weather.ask(memory_store, limits=limits)
    assert (again.content, again.cached, weather.runs) == (first.content, True, 1)
    assert len(again.content.encode()) <= 500
    assert len((await entries(memory_store))[0].value) < 1000


# Faults


async def test_a_store_without_its_cache_runs_the_tool(tmp_path: Path, caplog: Any) -> None:
    """Where the cache's table is gone from the database the runs answer as if there was no cache, and the log
    says so without what was asked."""
    store, weather = open_store(f"sqlite:///{tmp_path}/runs.db"), Weather()
    await weather.ask(store)
    with closing(sqlite3.connect(tmp_path / "runs.db")) as database:
        database.execute("DROP TABLE cache")
    with pytest.raises(StoreError):
        await store.list_documents("cache")
    assert [(await weather.ask(store)).content for _ in range(2)] == ["Köln: 2", "Köln: 3"]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2
    assert all("could not be read" in line and "Köln" not in line for line in warnings)
    await store.aclose()


@pytest.mark.parametrize("fault", [StoreUnavailableError(), RuntimeError("a bug of an adapter")])
@pytest.mark.parametrize("method", ["get_document", "put_document"])
async def test_a_faulty_cache_harms_no_call(
    memory_store: Any, monkeypatch: Any, method: str, fault: Exception
) -> None:
    """Whatever a read or a write of the cache raises, the tool has run and the run is done."""
    fired = []

    async def fail(*args: Any, **options: Any) -> Any:
        fired.append(method)
        raise fault

    monkeypatch.setattr(memory_store, method, fail)
    weather = Weather()
    assert [(await weather.ask(memory_store)).content for _ in range(2)] == ["Köln: 1", "Köln: 2"]
    assert len(fired) == 2


async def test_two_runs_at_once_may_both_compute(memory_store: Any) -> None:
    """Two calls that both found nothing run the tool twice; one entry stays, and both runs are done."""
    weather, both = Weather(), asyncio.Barrier(2)

    async def meet(city: str) -> str:
        await both.wait()
        return city

    weather.answer = lambda city, run: meet(city)  # type: ignore[assignment,return-value]
    answers = await asyncio.gather(weather.ask(memory_store), weather.ask(memory_store))
    assert [(one.status, one.cached) for one in answers] == [("ok", False), ("ok", False)]
    assert (weather.runs, len(await entries(memory_store))) == (2, 1)


async def test_the_sweep_leaves_what_was_renewed(memory_store: Any, monkeypatch: Any) -> None:
    """An entry that is replaced between a sweep's look and its delete stays."""
    old = Entry(content="old", saved_at=now() - HOUR, expires_at=now() - HOUR)
    await put_entry(memory_store, f"{PREFIX}1", old)
    get = memory_store.get_document

    async def replaced_after(collection: Any, name: str) -> Any:
        found = await get(collection, name)
        young = old.model_copy(update={"expires_at": now() + HOUR})
        value = young.model_dump_json().encode()
        await memory_store.put_document(collection, name, value, tag=found.tag)
        return found

    monkeypatch.setattr(memory_store, "get_document", replaced_after)
    assert await sweep(memory_store) == 0
    assert len(await memory_store.list_documents("cache")) == 1


# Among the commits


@pytest.mark.parametrize("lasts", [timedelta.resolution, HOUR], ids=["a miss", "a hit"])
async def test_a_superseded_attempt_runs_no_tool_after_its_look(
    memory_store: Any, monkeypatch: pytest.MonkeyPatch, lasts: timedelta
) -> None:
    """An attempt that hangs in the look-up while a later one ends the iteration does not run the tool then,
    and writes nothing into the run, whatever it finds."""
    monkeypatch.setattr("thoughtgear.commit.FRESH_SECONDS", 0.0)
    release, looking = asyncio.Event(), asyncio.Event()
    get = memory_store.get_document

    async def hang_once(*args: Any) -> Any:
        if not looking.is_set():
            looking.set()
            await release.wait()
        return await get(*args)

    monkeypatch.setattr(memory_store, "get_document", hang_once)
    weather = Weather(cache=lasts)
    handler = weather.handler(memory_store)
    run = await handler.create_run("Weather?")
    options: dict[str, Any] = {"driver": "temporal", "scope": "activity", "serialised": True, "watch": 60}
    frozen = asyncio.create_task(handler.run_iteration(run.run_id, 1, Attempt(**options)))
    await looking.wait()
    await handler.run_iteration(run.run_id, 1, Attempt(**options, number=2))
    before = await handler.get_run(run.run_id)
    release.set()
    with pytest.raises(SupersededError):
        await frozen
    assert weather.runs == 1
    assert await handler.get_run(run.run_id) == before


async def test_the_next_attempt_finds_what_the_last_one_cached(memory_store: Any, monkeypatch: Any) -> None:
    """When the results of an attempt could not be committed, the next one has them without the tool."""
    save, fired = memory_store.save_run, []

    async def lose_results(state: Any, messages: Any) -> None:
        if any(message.role == "tool" for message in messages) and len(fired) < 5:
            fired.append(state.version)
            raise StoreUnavailableError
        await save(state, messages)

    monkeypatch.setattr(memory_store, "save_run", lose_results)
    weather = Weather()
    handler = weather.handler(memory_store)
    run = await handler.create_run("Weather?")
    options: dict[str, Any] = {"driver": "temporal", "scope": "activity", "serialised": True}
    with pytest.raises(StoreUnavailableError):
        await handler.run_iteration(run.run_id, 1, Attempt(**options))
    await handler.run_iteration(run.run_id, 1, Attempt(**options, number=2))
    (result,) = results(await handler.history(run.run_id))
    assert (result.content, result.cached, weather.runs, len(fired)) == ("Köln: 1", True, 1, 5)


async def test_a_cached_result_starts_no_tool(memory_store: Any) -> None:
    """`on_tool_start` is told of runs of the tool alone, `on_tool_end` of every result, cached ones too."""
    told: list[Any] = []
    callbacks = Callbacks(
        on_tool_start=lambda run_id, started: told.append(started.name),
        on_tool_end=lambda run_id, result: told.append(result.cached),
    )
    weather = Weather()
    for _ in range(2):
        await weather.ask(memory_store, callbacks=callbacks)
    assert told == ["weather", False, True]


async def test_a_hit_costs_one_read_and_a_miss_one_read_and_one_write(
    memory_store: Any, monkeypatch: Any
) -> None:
    """What the cache asks of a store is a read per hit, and a write more per run of the tool."""
    asked: list[str] = []
    for method in ("get_document", "put_document"):
        monkeypatch.setattr(memory_store, method, counted(getattr(memory_store, method), asked))
    weather = Weather()
    await weather.ask(memory_store)
    assert asked == ["get_document", "put_document"]
    await weather.ask(memory_store)
    assert asked[2:] == ["get_document"]


def counted(method: Any, asked: list[str]) -> Any:
    async def count(*args: Any, **options: Any) -> Any:
        asked.append(method.__name__)
        return await method(*args, **options)

    return count


def test_a_result_of_before_has_no_mark() -> None:
    """A stored result without the field was not cached."""
    old = '{"call_id": "1.0", "name": "f", "status": "ok", "content": "x"}'
    assert ToolResult.model_validate_json(old).cached is False


@pytest.fixture
def memory_store() -> Any:
    return open_store("memory://")
