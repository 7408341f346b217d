"""The executor that an SQS queue drives: one message per iteration, which a worker takes (`sqs_worker`)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from thoughtgear.errors import ConfigurationError
from thoughtgear.executors.aws import ask, aws_client
from thoughtgear.executors.chain import ChainExecutor
from thoughtgear.executors.turns import CLAIM_SECONDS, Turn, event_of

LONGEST_DELAY = 900
"""Seconds that SQS keeps a message back at the most, in a queue that is not FIFO."""


class SqsExecutor(ChainExecutor):
    """Has the workers of a queue drive the runs: each message is one iteration.

    `client` is a boto3 client of SQS; without, one is made of `settings` (`region_name`, `endpoint_url`, …)
    and AWS's environment. In a FIFO queue the group is the run. The workers (`SqsWorker`) have the same
    handler and reach the same store. One executor serves one handler. Raises `ConfigurationError`.
    """

    name = "sqs"

    def __init__(
        self,
        queue_url: str,
        *,
        client: Any = None,
        claim_seconds: float = CLAIM_SECONDS,
        **settings: Any,
    ) -> None:
        """`claim_seconds`: how long the run of a worker that died stays untouched by others."""
        if not isinstance(queue_url, str) or not queue_url.startswith(("http://", "https://")):
            raise ConfigurationError("SqsExecutor needs the URL of a queue: https://sqs.….amazonaws.com/…")
        super().__init__(claim_seconds)
        self.queue_url = queue_url
        self.client = client if client is not None else aws_client("sqs", **settings)

    @property
    def fifo(self) -> bool:
        """Whether the queue keeps the order within a group, and takes no delay for a message."""
        return self.queue_url.endswith(".fifo")

    async def follow(self, turn: Turn) -> None:
        """Send the message of a turn. Raises `ExecutorUnavailableError`."""
        name = self._handler.name if self._handler is not None else "default"
        await self.send(json.dumps({"handler": name, **event_of(turn)}), turn.run_id, turn.seconds)

    async def send(
        self, body: str, run_id: str, seconds: float = 0.0, attributes: Mapping[str, str] | None = None
    ) -> None:
        """Send a message of a run; a queue that is not FIFO keeps it back for so many seconds. Raises
        `ExecutorUnavailableError`."""
        message: dict[str, Any] = {"QueueUrl": self.queue_url, "MessageBody": body}
        if self.fifo:
            # No two messages are duplicates to the queue: which one is used, the run's epoch decides.
            message |= {"MessageGroupId": run_id, "MessageDeduplicationId": uuid4().hex}
        elif seconds:
            message["DelaySeconds"] = min(math.ceil(seconds), LONGEST_DELAY)
        if attributes:
            told = {name: {"DataType": "String", "StringValue": text} for name, text in attributes.items()}
            message["MessageAttributes"] = told
        await ask("AWS SQS", self.client.send_message, **message)


def from_environment() -> SqsExecutor:
    """What `executor="sqs"` is: it sends to the queue of `THOUGHTGEAR_SQS_QUEUE_URL`. Raises
    `ConfigurationError`."""
    url = os.environ.get("THOUGHTGEAR_SQS_QUEUE_URL")
    if not url:
        raise ConfigurationError('executor="sqs" needs THOUGHTGEAR_SQS_QUEUE_URL, the URL of a queue.')
    return SqsExecutor(url)
