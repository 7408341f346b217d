"""`thoughtgear demo`, from its beginning to its end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from terminal import Ended, Terminal


@pytest.fixture
async def told(terminal: Terminal) -> tuple[Ended, dict[str, Any]]:
    """The narration and the facts of a demonstration on a small folder."""
    (terminal.folder / "notes.md").write_text("durable agents " * 50)
    (terminal.folder / "picture.bin").write_bytes(b"\0\1\2")
    ended = await terminal.type("demo", "--json")
    assert ended.code == 0, ended.err
    return ended, json.loads(ended.out)


async def test_the_demonstration_keeps_every_promise(told: tuple[Ended, dict[str, Any]]):
    """A worker is killed inside two tools: nothing saved is bought or run again, the `at_most_once` call is
    `unknown` after one start, the idempotent one runs again under the same key, and the run is done."""
    ended, facts = told
    calls = {call["tool"]: call for call in facts["calls"] if call["id"].startswith("4.")}
    assert facts["status"] == "done"
    assert facts["killed"]
    assert facts["replies_bought"] == facts["replies_saved"] == 6
    assert (calls["notify"]["starts"], calls["notify"]["result"]) == (1, "unknown")
    assert facts["outbox_lines"] == 1
    again = calls["most_common_words"]
    assert (again["starts"], again["workers"], again["keys"], again["result"]) == (2, 2, 1, "ok")
    assert calls["file_kinds"]["starts"] == 1
    assert all(call["starts"] == 1 for call in facts["calls"] if call["tool"] != "most_common_words")
    assert facts["history_texts"] == 0
    assert "unknown" in facts["answer"]
    assert "`notes.md`: 100 words, 1 line" in facts["report"]
    assert "durable (50)" in facts["report"]
    assert facts["seconds"] < 60
    assert facts["kept"]
    assert "SIGKILL to worker 1" in ended.err
