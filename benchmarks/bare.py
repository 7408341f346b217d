"""The bare workflow. It imports nothing of ours: the SDK's sandbox loads this file anew for each workflow."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow


@activity.defn
async def nothing() -> None:
    """Do nothing."""


@workflow.defn
class Bare:
    """Executes empty activities with the options that an iteration has, one after the other."""

    @workflow.run
    async def run(self, iterations: int) -> None:
        for iteration in range(1, iterations + 1):
            await workflow.execute_activity(
                nothing,
                start_to_close_timeout=timedelta(hours=24),
                heartbeat_timeout=timedelta(seconds=10),
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                summary=f"iteration {iteration}",
            )
