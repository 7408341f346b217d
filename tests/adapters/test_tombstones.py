"""A tombstone lasts for a day and no longer, on every store."""

from pathlib import Path

import pytest

from thoughtgear.adapters import files, memory, sql
from thoughtgear.errors import ConflictError
from thoughtgear.registry import open_store
from thoughtgear.testing import append, new_run

STORES = [(memory, "memory://"), (sql, "sqlite:///{}/x.db"), (files, "files://{}/x")]


@pytest.mark.parametrize(("module", "url"), STORES, ids=["memory", "sqlite", "files"])
async def test_an_expired_tombstone_gives_the_id_free(
    module: object, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its time a deleted run can be created again, and nothing of the old one comes back."""
    store = open_store(url.format(tmp_path))
    old = await append(store, new_run("r"), "old")
    await append(store, new_run("kept"), "kept")
    await store.delete_run("kept")
    monkeypatch.setattr(module, "TOMBSTONE_SECONDS", 0)
    await store.delete_run("r")
    await append(store, new_run("r"), "new")
    assert [message.text for message in await store.get_history("r")] == ["new"]
    assert (await store.load_run("r")).version == 1
    for late in (new_run("kept"), old.model_copy(update={"version": 2})):
        with pytest.raises(ConflictError):
            await append(store, late, "late")
    await store.aclose()
