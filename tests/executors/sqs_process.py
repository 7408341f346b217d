"""A worker of an SQS queue as a process of its own."""

from __future__ import annotations

import asyncio
import signal

from proofs.agent import Agent, ledger_of
from proofs.faults import at_of
from proofs.workers import Job, prepare

from thoughtgear import SqsExecutor, SqsWorker
from thoughtgear.registry import open_store


def work(job: Job) -> None:
    """Work on the queue `job.queue` of the server `job.address` until SIGTERM comes."""
    prepare(job)
    asyncio.run(_work(job))


async def _work(job: Job) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    ledger = ledger_of(job.folder)
    executor = SqsExecutor(
        job.queue,
        claim_seconds=1,
        endpoint_url=job.address,
        region_name="us-east-1",
        aws_access_key_id="tests",
        aws_secret_access_key="tests",
    )
    agent = Agent(ledger, at_of(job.fault, ledger))
    async with agent.handler(open_store(job.url), executor) as handler:
        worker = SqsWorker(handler, visibility=2, poll=1, grace=job.grace)
        ledger.note("working")
        await worker.run(stop)
