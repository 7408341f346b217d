"""The example that is the same in development and in production."""

from __future__ import annotations

import signal
from pathlib import Path

from example_process import example
from postgres_server import PostgresServer

from thoughtgear.devserver import DevServer

ASK = ("ask", "Pay invoice 1207.")
SAID = "It is open, I pay it.\nPaid 240.00 for invoice 1207, reference "


async def test_nothing_is_set_in_development(tmp_path: Path) -> None:
    """Without any setting the agent answers in the process that asks, over a file in its folder."""
    async with example(tmp_path, "dev_and_prod.py", *ASK) as asking:
        code, out = await asking.ended()
    assert (code, SAID in out, out.endswith("done\n")) == (0, True, True), out
    assert (tmp_path / "thoughtgear.db").exists()


async def test_the_environment_makes_it_production(tmp_path: Path, postgres: PostgresServer) -> None:
    """With PostgreSQL and Temporal in the environment the same file is a client and a worker; the client sees
    the same, and SIGTERM ends the worker in order."""
    async with DevServer(ui=False, log=tmp_path / "temporal.log") as server:
        given = {
            "THOUGHTGEAR_DB": postgres.url(tmp_path),
            "AGENT_EXECUTOR": "temporal",
            "TEMPORAL_ADDRESS": server.address,
        }
        async with example(tmp_path, "dev_and_prod.py", "worker", **given) as worker:
            async with example(tmp_path, "dev_and_prod.py", *ASK, **given) as asking:
                code, out = await asking.ended()
            worker.signal(signal.SIGTERM)
            stopped, last = await worker.ended()
    assert (code, SAID in out, out.endswith("done\n")) == (0, True, True), out
    assert stopped == 0, last
    assert not (tmp_path / "thoughtgear.db").exists()
