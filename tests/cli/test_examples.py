"""The examples run as they are."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from thoughtgear.devserver import DevServer

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", ["local.py", "temporal.py"])
async def test_the_same_agent_runs_locally_and_under_temporal(tmp_path: Path, server: DevServer, name: str):
    """Two scripts that differ in the executor give the same answer of the same agent."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / name), "Pay invoice 1207."),
        cwd=tmp_path,
        env={**os.environ, "TEMPORAL_ADDRESS": server.address, "THOUGHTGEAR_MODEL": "scripted:echo"},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert (process.returncode, out.decode()) == (0, "done Pay invoice 1207.\n")
