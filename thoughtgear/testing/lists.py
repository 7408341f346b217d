"""What a store does with its list of runs: filters, pages and cursors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from thoughtgear.errors import (
    InvalidInputError,
    StoreError,
)
from thoughtgear.protocols import OrmAdapter, RunFilter
from thoughtgear.testing.case import (
    StoreCase,
    append,
    new_run,
    texts_of,
)

START = datetime(2026, 1, 1, tzinfo=UTC)


class ListClauses(StoreCase):
    """`list_runs`."""

    async def test_runs_are_listed_newest_first(self, store: OrmAdapter) -> None:
        """The order is by creation, then by id, and a later commit does not change it."""
        for run_id, minute in [("b", 1), ("a", 1), ("z", 0), ("c", 2)]:
            created = START + timedelta(minutes=minute)
            await append(store, new_run(run_id, created_at=created), "text")
        state = await append(store, await store.load_run("z"), "more")
        page = await store.list_runs()
        assert ([run.run_id for run in page.runs], page.after) == (["c", "b", "a", "z"], None)
        assert page.runs[-1] == state

    @pytest.mark.parametrize(
        "wanted",
        [
            {"status": "done"},
            {"handler": "other"},
            {"session_id": "s%"},
            {"user_id": "ü"},
            {"metadata": {"n": 1}},
            {"metadata": {"deep": {"a": [1]}, "x": None}},
            {"status": "failed", "user_id": "u", "metadata": {"k": "v"}},
        ],
    )
    async def test_each_filter_selects(self, store: OrmAdapter, wanted: dict[str, Any]) -> None:
        """A filter returns the runs that are equal in all that it names, and no others."""
        await append(store, new_run("plain", metadata={"n": 2, "x": 1}, session_id="sx"), "a")
        await append(store, new_run("nearly", metadata={"n": True}, status="failed", user_id="v"), "a")
        await append(store, new_run("wanted", **wanted), "a")
        page = await store.list_runs(RunFilter(**wanted))
        assert [run.run_id for run in page.runs] == ["wanted"]

    async def test_a_filter_follows_the_state(self, store: OrmAdapter) -> None:
        """A run is found by its present status, not by an older one."""
        state = await append(store, new_run("r", status="running"), "a")
        await append(store, state.model_copy(update={"status": "done"}))
        assert (await store.list_runs(RunFilter(status="running"))).runs == []
        assert len((await store.list_runs(RunFilter(status="done"))).runs) == 1

    async def test_a_filter_follows_the_metadata(self, store: OrmAdapter) -> None:
        """A run is found by its present metadata, not by an older or a deleted run's."""
        state = await append(store, new_run("r", metadata={"a": 1, "b": 2}), "a")
        state = state.model_copy(update={"metadata": {"b": 2, "c": 3}})
        await append(store, state, "b")
        await append(store, new_run("gone", metadata={"c": 3}), "a")
        await store.delete_run("gone")
        found = {
            name: [run.run_id for run in (await store.list_runs(RunFilter(metadata={name: value}))).runs]
            for name, value in (("a", 1), ("b", 2), ("c", 3))
        }
        assert found == {"a": [], "b": ["r"], "c": ["r"]}

    @pytest.mark.parametrize("where", [RunFilter(), RunFilter(metadata={"even": True})], ids=["all", "some"])
    async def test_pages_walk_everything_once(self, store: OrmAdapter, where: RunFilter) -> None:
        """Following the cursor meets every run once, and the last page has no cursor."""
        for number in range(12):
            created = START + timedelta(microseconds=number // 2)
            metadata = {"even": number % 2 == 0}
            await append(store, new_run(f"r{number:02}", created_at=created, metadata=metadata), "a")
        pages = [await store.list_runs(where, limit=3)]
        while pages[-1].after:
            pages.append(await store.list_runs(where, after=pages[-1].after, limit=3))
        found = [run.run_id for page in pages for run in page.runs]
        step = 2 if where.metadata else 1
        assert found == [f"r{number:02}" for number in range(0, 12, step)][::-1]

    async def test_a_cursor_stays_right_while_runs_come_and_go(self, store: OrmAdapter) -> None:
        """New runs, and the deletion of the very run that the cursor stands on, move nothing."""
        for number in range(6):
            await append(store, new_run(f"r{number}", created_at=START + timedelta(seconds=number)), "a")
        page = await store.list_runs(limit=3)
        assert [run.run_id for run in page.runs] == ["r5", "r4", "r3"]
        await append(store, new_run("newer", created_at=START + timedelta(seconds=99)), "a")
        await store.delete_run("r3")
        await store.delete_run("r1")
        rest = await store.list_runs(after=page.after, limit=3)
        assert [run.run_id for run in rest.runs] == ["r2", "r0"]

    @pytest.mark.parametrize("cursor", ["", "r1", "!", "é", "AAAA", "eyJhIjogMX0=", "W10="])
    async def test_a_foreign_cursor_is_refused(self, store: OrmAdapter, cursor: str) -> None:
        """A cursor that this store did not give raises InvalidInputError."""
        with pytest.raises(InvalidInputError):
            await store.list_runs(after=cursor)

    @pytest.mark.parametrize("after", [5, b"cursor", ["cursor"], {"$gt": ""}, True, 1.5], ids=repr)
    async def test_what_is_no_cursor_is_refused(self, store: OrmAdapter, after: Any) -> None:
        """A cursor that is no text raises InvalidInputError, whatever it may mean to a database."""
        await append(store, new_run("r"), "a")
        with pytest.raises(InvalidInputError):
            await store.list_runs(after=after)

    @pytest.mark.parametrize("limit", [0, -1, "5", None, 1.5, True, 2**64], ids=repr)
    async def test_what_is_no_page_is_refused(self, store: OrmAdapter, limit: Any) -> None:
        """A limit that is no number of runs raises InvalidInputError."""
        with pytest.raises(InvalidInputError):
            await store.list_runs(limit=limit)

    async def test_a_damaged_cursor_is_refused(self, store: OrmAdapter) -> None:
        """A cursor that was cut raises InvalidInputError."""
        for run_id in "ab":
            await append(store, new_run(run_id), "a")
        cursor = (await store.list_runs(limit=1)).after
        assert cursor is not None
        with pytest.raises(InvalidInputError):
            await store.list_runs(after=cursor[:-4])

    async def test_every_listed_run_has_its_transcript(self, store: OrmAdapter) -> None:
        """What is listed can be read."""
        for number in range(3):
            await append(store, new_run(f"r{number}"), *["x"] * number)
        for run in (await store.list_runs()).runs:
            assert len(await texts_of(store, run.run_id)) == run.message_count

    @pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
    async def test_a_damaged_run_hides_no_other(
        self, store: OrmAdapter, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A state that can't be read is left out of the list, at any place of a page, and a warning names
        the run and quotes nothing; loaded it is a StoreError."""
        for number in range(5):
            damage = {"output": ["a secret"]} if number in (1, 3, 4) else {}
            created = START + timedelta(seconds=number)
            await append(store, new_run(f"r{number}", created_at=created).model_copy(update=damage), "a")
        pages = [await store.list_runs(limit=1)]
        while pages[-1].after:
            pages.append(await store.list_runs(after=pages[-1].after, limit=1))
        assert [run.run_id for page in pages for run in page.runs] == ["r2", "r0"]
        said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert all(any(f"run r{number}:" in line for line in said) for number in (1, 3, 4))
        assert "secret" not in caplog.text
        with pytest.raises(StoreError):
            await store.load_run("r1")
