"""The memory store."""

from pathlib import Path

import pytest

from thoughtgear.adapters import memory
from thoughtgear.adapters.memory import MemoryAdapter
from thoughtgear.errors import ConfigurationError
from thoughtgear.protocols import OrmAdapter
from thoughtgear.registry import open_store
from thoughtgear.testing import AdapterConformance, AdapterEndurance, StoreCase, append, new_run


class OnMemory(StoreCase):
    @classmethod
    async def open_store(cls, place: Path) -> OrmAdapter:
        return MemoryAdapter()


class TestMemory(OnMemory, AdapterConformance):
    """Every clause but those of stores that outlive a process."""


@pytest.mark.long
class TestMemoryEndurance(OnMemory, AdapterEndurance):
    """Large numbers."""


async def test_a_url_makes_an_empty_store() -> None:
    """`memory://` and its dict make a store of this process."""
    for settings in ("memory://", {"type": "memory"}):
        store = open_store(settings)
        assert isinstance(store, MemoryAdapter)
        assert store.reach == "process"
        assert (await store.list_runs()).runs == []


async def test_expired_tombstones_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that deletes runs for ever does not grow: each deletion drops what has expired."""
    store = MemoryAdapter()
    monkeypatch.setattr(memory, "TOMBSTONE_SECONDS", 0)
    for number in range(50):
        await append(store, new_run(f"r{number}"), "a")
        await store.delete_run(f"r{number}")
        await append(store, new_run("again"), "a")
        await store.delete_run("again")
    monkeypatch.setattr(memory, "TOMBSTONE_SECONDS", 60)
    for run_id in ("last", "other"):
        await append(store, new_run(run_id), "a")
        await store.delete_run(run_id)
    assert sorted(store._runs) == ["last", "other"]
    assert len(store._tombstones) == 2


@pytest.mark.parametrize("settings", ["memory:", "memory://name", {"type": "memory", "path": "x"}])
async def test_a_wrong_setting_is_refused(settings: str | dict[str, str]) -> None:
    """What a memory store does not have is a ConfigurationError."""
    with pytest.raises(ConfigurationError):
        open_store(settings)
