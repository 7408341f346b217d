"""Workflows whose activity says a text, for streaming.py: by heartbeats, and by Temporal's Workflow Streams.

Apart from what measures them, so that the sandbox loads nothing else.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.contrib.workflow_streams import WorkflowStream

BEATING, PUBLISHING = "speak-by-heartbeats", "speak-by-streams"


@workflow.defn
class Beats:
    """Runs the activity that says the text."""

    @workflow.run
    async def run(self, interval: float) -> None:
        await workflow.execute_activity(
            BEATING,
            interval,
            start_to_close_timeout=timedelta(minutes=10),
            heartbeat_timeout=timedelta(minutes=1),
        )


@workflow.defn
class Streams:
    """Has a stream, and runs the activity that publishes to it."""

    @workflow.init
    def __init__(self, interval: float) -> None:
        self.stream = WorkflowStream()

    @workflow.run
    async def run(self, interval: float) -> None:
        await workflow.execute_activity(PUBLISHING, interval, start_to_close_timeout=timedelta(minutes=10))
