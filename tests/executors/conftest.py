"""What the tests of executors share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from called_function import Function
from sqs_server import SqsServer


@pytest.fixture
def function(tmp_path: Path) -> Function:
    """A function in this process."""
    return Function(tmp_path)


@pytest.fixture(scope="session")
def sqs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqsServer]:
    """One server for all tests; each has queues of its own in it."""
    server = SqsServer(tmp_path_factory.mktemp("sqs"))
    server.start()
    yield server
    server.kill()
