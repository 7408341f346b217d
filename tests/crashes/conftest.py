"""A run on SQLite for the tests that stage one thing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from proofs.case import Case
from proofs.workers import Job
from temporalio.client import Client

from thoughtgear.devserver import DevServer

pytest.register_assert_rewrite("windows")


@pytest.fixture
async def case(temporal: DevServer, tmp_path: Path) -> AsyncIterator[Case]:
    """A run to come, on a store and a queue of its own."""
    client = await Client.connect(temporal.address)
    made = Case(client, Job(f"sqlite:///{tmp_path}/runs.db", tmp_path, temporal.address, f"q-{uuid4().hex}"))
    yield made
    await made.close()
