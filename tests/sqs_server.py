"""An SQS server: moto's, behind a real socket."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import httpx
from server_process import Server, free_ports

MOST_RECEIVES = 4


class SqsServer(Server):
    """It keeps its queues in its memory."""

    seconds = 60.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        [self._port] = free_ports(1)
        self.endpoint = f"http://127.0.0.1:{self._port}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.endpoint}/moto-api/", timeout=1).status_code == 200
        except httpx.HTTPError:
            return False

    def settings(self) -> dict[str, Any]:
        """What a client of it is made of."""
        return {
            "endpoint_url": self.endpoint,
            "region_name": "us-east-1",
            "aws_access_key_id": "tests",
            "aws_secret_access_key": "tests",
        }

    def client(self) -> Any:
        """A client of the tests' own."""
        return boto3.client("sqs", **self.settings())

    def queue(self, *, fifo: bool = False, most: int | None = MOST_RECEIVES) -> tuple[str, str]:
        """Make a queue with its dead-letter queue; return both URLs."""
        client, name, end = self.client(), f"q-{uuid4().hex}", ".fifo" if fifo else ""
        attributes = {"FifoQueue": "true"} if fifo else {}
        dead = client.create_queue(QueueName=f"{name}-dead{end}", Attributes=attributes)["QueueUrl"]
        arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]
        if most is not None:
            policy = {"deadLetterTargetArn": arn, "maxReceiveCount": most}
            attributes = {**attributes, "RedrivePolicy": json.dumps(policy)}
        return client.create_queue(QueueName=f"{name}{end}", Attributes=attributes)["QueueUrl"], dead
