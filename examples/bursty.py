"""Bursts of prompts, and nothing that runs in between: `python examples/bursty.py 40`

It sends so many prompts to an SQS queue and starts workers, processes of this file, as long as there are
more messages than they can take. A worker that finds the queue empty for a while ends, so that all of
them are gone some seconds after the burst. What the scaler below does is what ECS, Kubernetes (KEDA) or a
Lambda trigger do by the same number, the messages in the queue.

`THOUGHTGEAR_SQS_QUEUE_URL` names the queue; without, one is made, with its dead-letter queue. Without
AWS: `moto_server -p 5000`, and `AWS_ENDPOINT_URL_SQS=http://127.0.0.1:5000`, a region and any key in the
environment. Needs `pip install 'thoughtgear[sqs]'`, and a store that all workers reach (`THOUGHTGEAR_DB`;
on one host a file does).
"""

import asyncio
import json
import os
import sys
from asyncio.subprocess import Process, create_subprocess_exec

import boto3
from agent import make_handler

from thoughtgear import PromptHandler, SqsExecutor, SqsWorker

EACH, MOST = 4, 3
"""Runs that a worker drives at once, and how many workers there are at the most."""

IDLE_SECONDS = 2.0
"""How long a worker looks at an empty queue before it ends."""

COUNTS = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]


def make_queue() -> str:
    """Make the queue, or find it: its URL. A message that fails five times goes to its dead-letter queue."""
    client = boto3.client("sqs")
    dead = client.create_queue(QueueName="bursty-dead")["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 5})
    queue = client.create_queue(QueueName="bursty", Attributes={"RedrivePolicy": policy})
    return str(queue["QueueUrl"])


async def messages(executor: SqsExecutor) -> int:
    """How many messages are in the queue, or in a worker's hands."""
    url = executor.queue_url
    got = await asyncio.to_thread(executor.client.get_queue_attributes, QueueUrl=url, AttributeNames=COUNTS)
    return sum(int(got["Attributes"][name]) for name in COUNTS)


async def work(handler: PromptHandler, executor: SqsExecutor) -> None:
    """Be a worker, until there has been nothing to do for a while."""
    stop = asyncio.Event()
    working = asyncio.create_task(SqsWorker(handler, concurrency=EACH, poll=1).run(stop))
    idle = 0.0
    while idle < IDLE_SECONDS and not working.done():
        await asyncio.sleep(0.5)
        idle = 0.0 if await messages(executor) else idle + 0.5
    stop.set()
    await working


async def burst(handler: PromptHandler, executor: SqsExecutor, count: int) -> None:
    """Send the prompts, have workers while there is something to do, and say what came of it."""
    sends = (handler.handle_prompt(f"Pay invoice {1207 + number % 2}.") for number in range(count))
    runs = await asyncio.gather(*sends)
    print(f"{count} prompts are stored and sent; no worker runs.", flush=True)
    workers: list[Process] = []
    started = most = 0
    while (waiting := await messages(executor)) or workers:
        workers = [worker for worker in workers if worker.returncode is None]
        if waiting > EACH * len(workers) and len(workers) < MOST:
            workers.append(await create_subprocess_exec(sys.executable, __file__, "worker"))
            started, most = started + 1, max(most, len(workers))
        await asyncio.sleep(0.2)
    ended = [(await handler.get_run(run.run_id)).status for run in runs]
    print(f"{ended.count('done')} done; {started} workers started, {most} at once, none left.", flush=True)


async def main(what: str = "40") -> None:
    url: str = os.environ.get("THOUGHTGEAR_SQS_QUEUE_URL") or await asyncio.to_thread(make_queue)
    os.environ["THOUGHTGEAR_SQS_QUEUE_URL"] = url  # for the workers
    executor = SqsExecutor(url)
    async with make_handler(executor=executor) as handler:
        if what == "worker":
            await work(handler, executor)
        else:
            await burst(handler, executor, int(what))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
