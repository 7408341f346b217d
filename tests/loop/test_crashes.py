"""A process dies at each window of an iteration; the next one finishes the run."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from thoughtgear.registry import open_store

HERE = Path(__file__).parent
EXIT_CODE = 77
PAID, UNKNOWN = "ok", "unknown"

WINDOWS = {
    # window: (replies bought, payments, how the payment stands in the transcript)
    "before the model": (2, 1, PAID),
    "after the reply, before its commit": (3, 1, PAID),
    "after the commit, before the tools": (2, 1, PAID),
    "started committed, before the effect": (2, 0, UNKNOWN),
    "during the at_most_once tool": (2, 1, UNKNOWN),
    "during the idempotent tool": (2, 1, UNKNOWN),
    "after the effect, before its commit": (2, 1, UNKNOWN),
    "after the results were committed": (2, 1, PAID),
    "after the last commit": (2, 1, PAID),
}


async def drive(url: str, folder: Path, window: str) -> tuple[int | None, str]:
    """Run one process to its end; return its exit code and what it printed."""
    arguments = (str(HERE / "crashing.py"), url, str(folder), window)
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    printed, _ = await process.communicate()
    return process.returncode, printed.decode().strip()


def lines(folder: Path, ledger: str) -> list[str]:
    path = folder / ledger
    return path.read_text().split() if path.exists() else []


ON_SERVERS = [pytest.param(name, marks=pytest.mark.long) for name in ("postgresql", "mongodb")]


@pytest.fixture(params=["sqlite", "files", *ON_SERVERS])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Each store that outlives a process."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres").url(tmp_path))
    if request.param == "mongodb":
        return str(request.getfixturevalue("mongodb").url(tmp_path))
    return {"sqlite": f"sqlite:///{tmp_path}/runs.db", "files": f"files://{tmp_path}/runs"}[request.param]


@pytest.mark.parametrize("window", WINDOWS)
async def test_crash_window(url: str, window: str, tmp_path: Path) -> None:
    """After a death at this window the run ends as it must: no saved reply bought again, at most one payment,
    one result per call, and `unknown` exactly where nobody can know."""
    bought, paid, outcome = WINDOWS[window]
    assert (await drive(url, tmp_path, window))[0] == EXIT_CODE
    code, run_id = await drive(url, tmp_path, "none")
    assert code == 0

    store = open_store(url)
    state = await store.load_run(run_id)
    history = await store.get_history(run_id)
    await store.aclose()
    assert (state.status, state.output, state.model_replies) == ("done", "all done", 2)
    assert [message.seq for message in history] == [0, 1, 2, 3, 4]
    results = {m.tool_result.call_id: m.tool_result.status for m in history if m.tool_result}
    assert results == {"1.0": outcome, "1.1": "ok"}
    assert len(lines(tmp_path, "bought")) == bought
    assert lines(tmp_path, "paid") == [f"{run_id}:1.0"] * paid
    assert set(lines(tmp_path, "looked")) == {f"{run_id}:1.1"}
