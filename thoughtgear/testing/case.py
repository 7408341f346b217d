"""A store under test, and the runs that the clauses put into it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest_asyncio

from thoughtgear.errors import RunNotFoundError
from thoughtgear.models import Message, RunState
from thoughtgear.protocols import OrmAdapter


class StoreCase:
    """Override `open_store`; the tests get the `store` that it opens in a fresh place. `processes`: how many
    use it at the same time."""

    processes = 4

    @classmethod
    async def open_store(cls, place: Path) -> OrmAdapter:
        """Open the store of this place: an empty folder of the test's own. The same place again, also in
        another process, is the same store. A remote store derives a name from `place.name`."""
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[OrmAdapter]:
        """The store of `tmp_path`."""
        opened = await self.open_store(tmp_path)
        yield opened
        await opened.aclose()


def new_run(run_id: str | None = None, **fields: Any) -> RunState:
    """Return a run that is not stored yet: version 0, no messages."""
    return RunState(run_id=run_id or uuid4().hex, **fields)


def follow_up(state: RunState, *texts: str) -> tuple[RunState, list[Message]]:
    """Return the arguments of the commit that comes after `state` and appends these texts."""
    first = state.message_count
    messages = [Message(seq=first + index, role="user", text=text) for index, text in enumerate(texts)]
    update = {"version": state.version + 1, "message_count": first + len(texts)}
    return state.model_copy(update=update, deep=True), messages


async def append(store: OrmAdapter, state: RunState, *texts: str) -> RunState:
    """Commit these texts on top of `state` and return the new state."""
    after, messages = follow_up(state, *texts)
    await store.save_run(after, messages)
    return after


async def texts_of(store: OrmAdapter, run_id: str) -> list[str]:
    """Return the texts of a transcript, after a check that its seqs have no gaps."""
    history = await store.get_history(run_id)
    assert [message.seq for message in history] == list(range(len(history)))
    return [message.text for message in history]


async def assert_standing(store: OrmAdapter, state: RunState, *texts: str) -> None:
    """Check that the store holds exactly this state and these texts."""
    assert await store.load_run(state.run_id) == state
    assert await texts_of(store, state.run_id) == list(texts)


async def assert_absent(store: OrmAdapter, run_id: str) -> None:
    """Check that nothing of the run is to be seen."""
    try:
        found: RunState | None = await store.load_run(run_id)
    except RunNotFoundError:
        found = None
    assert found is None
    assert await store.get_history(run_id) == []
    assert run_id not in [run.run_id for run in (await store.list_runs(limit=1000)).runs]
