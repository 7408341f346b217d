"""What the sql store asks of its database: counted by SQLite's driver, and by SQLAlchemy on PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from thoughtgear import commit, iteration
from thoughtgear.adapters.sql_schema import tables_of
from thoughtgear.adapters.sql_statement import DRIVER
from thoughtgear.handler import PromptHandler
from thoughtgear.models import RunState
from thoughtgear.payloads import IterationResult
from thoughtgear.protocols import Attempt
from thoughtgear.providers.scripted import ScriptedProvider, call
from thoughtgear.registry import open_store
from thoughtgear.testing import append, new_run
from thoughtgear.tools import tool
from thoughtgear.transcript import Transcripts

LONG = 10_000


class Traced:
    """A store whose statements are written down, each as its verb and its table."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.statements: list[str] = []

    async def begin(self) -> None:
        """Open the database and begin to write down."""
        await self.store.list_runs()
        if self.store.reach == "network":
            engine = self.store._database._connected.connection._engine.sync_engine
            event.listen(engine, "before_cursor_execute", self._on_execute)
            return

        def trace(connection: Any) -> None:
            connection.info[DRIVER].set_trace_callback(self._saw)

        await self.store._database.read(trace)

    def take(self) -> list[str]:
        """What there was since the last time."""
        taken, self.statements = self.statements, []
        return taken

    def _on_execute(self, *event: Any) -> None:
        self._saw(event[2])

    def _saw(self, statement: str) -> None:
        found = re.match(
            r"(UPDATE) (\w+)|(SELECT|DELETE)\b.*?\bFROM (\w+)|(INSERT) INTO (\w+)", statement, re.DOTALL
        )
        if found:
            self.statements.append(" ".join(word for word in found.groups() if word))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    return str(request.getfixturevalue("postgres").url(tmp_path))


@pytest.fixture
async def traced(url: str) -> AsyncIterator[Traced]:
    made = Traced(open_store(url))
    await made.begin()
    yield made
    await made.store.aclose()


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many messages each read of a transcript gave."""
    counts: list[int] = []
    history = tables_of("").history
    read = history.all

    def counted(connection: Any, row: Any) -> Any:
        found = read(connection, row)
        counts.append(len(found))
        return found

    monkeypatch.setattr(history, "all", counted)
    return counts


async def test_a_long_transcript_is_one_query(traced: Traced, rows: list[int]) -> None:
    """Ten thousand messages load in one query; a process that knows them asks for nothing, and after a commit
    of another one for what is new."""
    state = await append(traced.store, new_run("r"), *[f"{number}" for number in range(LONG)])
    transcripts = Transcripts(traced.store)
    traced.take()
    found = await transcripts.messages(state)
    assert [message.text for message in found] == [f"{number}" for number in range(LONG)]
    assert (traced.take(), rows) == (["SELECT messages"], [LONG])
    await transcripts.messages(state)
    assert traced.take() == []
    state = await append(traced.store, state, "a", "b")
    traced.take()
    assert len(await transcripts.messages(state)) == LONG + 2
    assert (traced.take(), rows) == (["SELECT messages"], [LONG, 2])


@tool
async def double(number: int) -> int:
    """Double a number."""
    return number * 2


class Worker:
    """Drives a run as Temporal does: an attempt per iteration, which knows the last version."""

    def __init__(self, store: Any) -> None:
        replies = [[call("double", number=number)] for number in range(12)]
        self.handler = PromptHandler(model=ScriptedProvider(replies=replies), orm=store, tools=[double])

    async def go_on(self, run: RunState, last: IterationResult) -> IterationResult:
        attempt = Attempt(driver="temporal", serialised=True, version=last.version, watch=1000.0)
        return await self.handler.run_iteration(run.run_id, last.iteration, attempt)


@pytest.mark.parametrize("metadata", [{}, {"team": "blue", "n": 1}], ids=["plain", "metadata"])
async def test_an_iteration_costs_what_is_new(
    traced: Traced, url: str, rows: list[int], monkeypatch: pytest.MonkeyPatch, metadata: dict[str, Any]
) -> None:
    """A warm iteration reads nothing and writes its rows, the tenth as the second; after an iteration of
    another worker it reads the state and what that one wrote, in one query each."""
    for module in (commit, iteration):  # else a slow machine looks at the store again
        monkeypatch.setattr(module, "FRESH_SECONDS", 1000.0)
    here = Worker(traced.store)
    run = await here.handler.create_run("go", metadata=metadata)
    last = await here.go_on(run, IterationResult("running", 1, run.version))
    for _ in range(9):
        traced.take()
        last = await here.go_on(run, last)
        assert traced.take() == ["UPDATE run_states", "INSERT messages"] * 2
    reads = len(rows)
    elsewhere = Worker(open_store(url))
    last = await elsewhere.go_on(run, last)
    await elsewhere.handler.aclose()
    assert rows[reads:] == [1 + 10 * 2]
    traced.take()
    await here.go_on(run, last)
    assert traced.take()[:2] == ["SELECT run_states", "SELECT messages"]
    assert rows[reads:] == [1 + 10 * 2, 2]
