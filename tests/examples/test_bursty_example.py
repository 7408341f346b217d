"""The example of bursts, on a server of SQS's API."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_process import example
from sqs_server import SqsServer

from thoughtgear.registry import open_store


# Every day tests/executors runs the other example of a queue.
@pytest.mark.long
async def test_workers_come_with_a_burst_and_go_after_it(tmp_path: Path) -> None:
    """A burst is answered by workers that were started for it, each prompt once, and none of them is left."""
    server = SqsServer(tmp_path)
    server.start()
    try:
        given = {
            "AWS_ENDPOINT_URL_SQS": server.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
        }
        async with example(tmp_path, "bursty.py", "8", **given) as burst:
            sent = await burst.until_says("no worker runs")
            code, out = await burst.ended()
    finally:
        server.kill()
    assert (sent[:1], code) == ("8", 0), out
    assert "8 done;" in out, out
    assert "none left." in out, out
    store = open_store(f"sqlite:///{tmp_path}/thoughtgear.db")
    runs = (await store.list_runs()).runs
    await store.aclose()
    assert [(run.status, run.iteration, run.driver.executor) for run in runs] == [("done", 3, "sqs")] * 8
