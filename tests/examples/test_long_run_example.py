"""The example of a long run: killed in the middle, started again, approved later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from example_process import example

from thoughtgear.registry import open_store


@pytest.mark.parametrize("decision", ["approve", pytest.param("refuse", marks=pytest.mark.long)])
async def test_a_long_run_survives_and_waits(tmp_path: Path, decision: str) -> None:
    """Killed in the middle it goes on with the same run, leaves when a person has to decide, and ends in yet
    another process; the transcript has each order once, and the books are closed only if approved."""
    given = {"ORDERS": "30"}
    async with example(tmp_path, "long_run.py", **given) as first:
        await first.until_says("10 iterations")
        await first.kill()
    async with example(tmp_path, "long_run.py", **given) as second:
        code, out = await second.ended()
        assert (code, "waits for a person" in out) == (0, True), out
    async with example(tmp_path, "long_run.py", decision, "Ann", **given) as third:
        code, out = await third.ended()
        assert code == 0
    end = "done The books are closed at 1395." if decision == "approve" else "Refused by Ann."
    assert end in out, out
    store = open_store(f"sqlite:///{tmp_path}/thoughtgear.db")
    [run] = (await store.list_runs()).runs
    history = await store.get_history(run.run_id)
    await store.aclose()
    audited = [message.tool_result for message in history if message.tool_result]
    amounts = [result.content for result in audited if result.name == "audit"]
    assert amounts == [str(3 * number) for number in range(1, 31)]
    closed = [result for result in audited if result.name == "close_books"]
    assert len(closed) == (decision == "approve"), json.dumps([result.content for result in closed])
