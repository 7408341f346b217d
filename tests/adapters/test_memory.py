"""The memory store."""

from pathlib import Path

import pytest

from thoughtgear.adapters.memory import MemoryAdapter
from thoughtgear.errors import ConfigurationError
from thoughtgear.protocols import OrmAdapter
from thoughtgear.registry import open_store
from thoughtgear.testing import AdapterConformance


class TestMemory(AdapterConformance):
    @classmethod
    async def open_store(cls, place: Path) -> OrmAdapter:
        return MemoryAdapter()


async def test_a_url_makes_an_empty_store() -> None:
    """`memory://` and its dict make a store of this process."""
    for settings in ("memory://", {"type": "memory"}):
        store = open_store(settings)
        assert isinstance(store, MemoryAdapter)
        assert store.reach == "process"
        assert (await store.list_runs()).runs == []


@pytest.mark.parametrize("settings", ["memory:", "memory://name", {"type": "memory", "path": "x"}])
async def test_a_wrong_setting_is_refused(settings: str | dict[str, str]) -> None:
    """What a memory store does not have is a ConfigurationError."""
    with pytest.raises(ConfigurationError):
        open_store(settings)
