"""What a tool's memory promises, on the store in memory."""

import asyncio
import json
from hashlib import sha256

import pytest

from thoughtgear.adapters.memory import MemoryAdapter
from thoughtgear.errors import (
    ConfigurationError,
    ConflictError,
    InvalidInputError,
    LimitExceededError,
    StoreUnavailableError,
)
from thoughtgear.memory import KEY_BYTES, VALUE_BYTES, Memory


@pytest.fixture
def store():
    return MemoryAdapter()


@pytest.mark.parametrize("value", [1, 1.5, "ä", None, True, [1, {"a": None}], {"a": []}])
async def test_values_come_back(store, value):
    """A JSON value comes back equal, and replaces the one before."""
    memory = Memory(store, "user:ann")
    await memory.put("k", "old")
    await memory.put("k", value)
    assert await memory.get("k", "absent") == value


async def test_absent_and_deleted(store):
    """An absent key gives the default, also after a delete; deleting it again is fine."""
    memory = Memory(store, "user:ann")
    await memory.put("k", 1)
    await memory.delete("k")
    await memory.delete("k")
    assert await memory.get("k", 7) == 7
    assert await memory.keys() == []


LONG = "user:" + "é" * 101
HASH = sha256(LONG.encode()).hexdigest()
SCOPES = ["user:a", "user:ab", "user:a/b", "user:a%2Fb", "user:a#", "user:", "USER:a", "user:" + "é" * 100]
SCOPES += [LONG, HASH, "#" + HASH, "user:%C3%A9", "user:é"]


async def test_scopes_are_apart(store):
    """No scope sees a key of another one, whatever characters their names are made of."""
    for scope in SCOPES:
        await Memory(store, scope).put("k", scope)
        await Memory(store, scope).put("b/k", scope)
    for scope in SCOPES:
        memory = Memory(store, scope)
        assert await memory.get("k") == scope
        assert await memory.get("b/k") == scope
        assert await memory.keys() == ["b/k", "k"]


async def test_stored_keys_fit_every_store(store):
    """The longest scope with the longest key stays within the 512 bytes that a store takes."""
    for length in range(1, 600, 7):
        await Memory(store, "山" * length).put("k" * KEY_BYTES, 1)
    assert all(len(key.encode()) <= 512 for key in await store.list_documents("memory", limit=10_000))


async def test_keys_by_prefix(store):
    """Keys are found by a prefix taken literally, sorted, across pages of the store."""
    memory = Memory(store, "run:r1")
    wanted = sorted(f"a%/{number}" for number in range(1005))
    for key in ["a", "a%", "b", *wanted]:
        await memory.put(key, 0)
    assert await memory.keys("a%/") == wanted


async def test_updates_are_never_lost(store, monkeypatch):
    """Twenty increments of one key, each of which read before the others wrote, add up to twenty."""
    read = store.get_document

    async def read_slowly(*args):
        found = await read(*args)
        await asyncio.sleep(0)
        return found

    monkeypatch.setattr(store, "get_document", read_slowly)
    memories = [Memory(store, "user:ann") for _ in range(20)]
    await asyncio.gather(*(memory.update("n", lambda n: n + 1, 0) for memory in memories))
    assert await memories[0].get("n") == 20


async def test_update_returns_the_new_value(store):
    """An update gives back what it stored."""
    assert await Memory(store, "user:ann").update("tags", lambda tags: [*tags, "x"], []) == ["x"]


async def test_endless_conflicts_end(store, monkeypatch):
    """A key that always changes in between ends in a ConflictError, not in an endless loop."""

    async def lose(*args, **kwargs):
        raise ConflictError

    async def no_sleep(seconds):
        return None

    monkeypatch.setattr(store, "put_document", lose)
    monkeypatch.setattr(asyncio, "sleep", no_sleep)
    with pytest.raises(ConflictError, match="too many"):
        await Memory(store, "user:ann").put("k", 1)


@pytest.mark.parametrize("value", [object(), float("nan"), b"x", "\ud800", {("a",): 1}])
async def test_values_that_are_not_json(store, value):
    """What is not JSON is refused, and the value before stays."""
    memory = Memory(store, "user:ann")
    await memory.put("k", 1)
    with pytest.raises(InvalidInputError, match="must be JSON"):
        await memory.put("k", value)
    assert await memory.get("k") == 1


async def test_value_limit(store):
    """A value of exactly the limit is stored, one byte more is refused."""
    memory = Memory(store, "user:ann")
    await memory.put("k", "x" * (VALUE_BYTES - 2))
    with pytest.raises(LimitExceededError, match="1000001"):
        await memory.put("k", "x" * (VALUE_BYTES - 1))


@pytest.mark.parametrize("key", ["", "a\nb", "\x00", "\x85", "\ud800", 5, "é" * 151])
async def test_bad_keys(store, key):
    """A key that a store can't hold is refused before it reaches one."""
    with pytest.raises(InvalidInputError):
        await Memory(store, "user:ann").put(key, 1)


async def test_plain_functions_in_threads(store):
    """A function in a thread reads, writes, updates, lists and deletes through `sync`."""
    memory = Memory(store, "user:ann")

    def work():
        memory.sync.put("a", 1)
        memory.sync.put("b", 1)
        memory.sync.delete("b")
        return memory.sync.update("a", lambda n: n + 1), memory.sync.keys(), memory.sync.get("b", "none")

    assert await asyncio.to_thread(work) == (2, ["a"], "none")
    assert await memory.get("a") == 2


async def test_errors_reach_the_thread(store):
    """An error of the memory is raised in the thread that called."""
    memory = Memory(store, "user:ann")
    with pytest.raises(InvalidInputError):
        await asyncio.to_thread(memory.sync.put, "k", object())


async def test_sync_in_the_event_loop(store):
    """Calling `sync` in the event loop is an error instead of a deadlock."""
    with pytest.raises(ConfigurationError, match="await"):
        Memory(store, "user:ann").sync.get("k")


def test_sync_after_the_loop(store):
    """A thread that outlived its event loop gets an error instead of hanging."""

    async def make():
        return Memory(store, "user:ann")

    memory = asyncio.run(make())
    with pytest.raises(StoreUnavailableError, match="gone"):
        memory.sync.get("k")


def test_sync_without_a_loop(store):
    """A memory that was made outside of any event loop says so."""
    with pytest.raises(ConfigurationError, match="made in an event loop"):
        Memory(store, "user:ann").sync.get("k")


async def test_stored_form_is_plain_json(store):
    """What lies in the store is readable: scope and key in the name, UTF-8 JSON in the value."""
    await Memory(store, "user:ann").put("city", {"name": "Köln"})
    document = await store.get_document("memory", "user:ann/city")
    assert json.loads(document.value) == {"name": "Köln"}
    assert "Köln".encode() in document.value
