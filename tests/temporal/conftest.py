"""One Temporal dev server for all tests of this folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.testing import WorkflowEnvironment
from world import BARE, World

from thoughtgear.devserver import DISPATCH, SEARCH_ATTRIBUTES, find_server

EVENTS = 300
"""Events after which the server suggests to continue as new: fifty iterations, not seven hundred."""


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of the server, which forgets everything at the end."""

    async def start() -> WorkflowEnvironment:
        made = await WorkflowEnvironment.start_local(
            dev_server_existing_path=str(find_server()),
            dev_server_log_level="error",
            search_attributes=[SearchAttributeKey.for_keyword(name) for name in SEARCH_ATTRIBUTES],
            dev_server_extra_args=[
                *DISPATCH,
                "--dynamic-config-value",
                f"limit.historyCount.suggestContinueAsNew={EVENTS}",
            ],
        )
        request = RegisterNamespaceRequest(
            namespace=BARE, workflow_execution_retention_period=Duration(seconds=86400)
        )
        await made.client.workflow_service.register_namespace(request)
        return made

    environment = asyncio.run(start())
    yield environment.client.service_client.config.target_host
    asyncio.run(environment.shutdown())


@pytest.fixture
async def client(server: str) -> Client:
    """A client of this test's event loop."""
    return await Client.connect(server)


@pytest.fixture
async def world(client: Client, tmp_path: Path) -> AsyncIterator[World]:
    made = World(client, tmp_path)
    yield made
    await made.close()
