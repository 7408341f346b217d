"""The same agent driven by an SQS queue: `python examples/sqs.py "Pay invoice 1207."`

`THOUGHTGEAR_SQS_QUEUE_URL` names the queue, which has a dead-letter queue. A worker may as well be a process
of its own: `asyncio.run(SqsWorker(make_handler(executor="sqs")).run())`.
"""

import asyncio
import sys

from agent import make_handler

from thoughtgear import SqsWorker


async def main(prompt: str = "Pay invoice 1207.") -> None:
    async with make_handler(executor="sqs") as handler:
        stop = asyncio.Event()
        working = asyncio.create_task(SqsWorker(handler, poll=1).run(stop))
        run = await handler.handle_prompt(prompt)
        run = await handler.wait(run.run_id)
        print(run.status, run.output)
        stop.set()
        await working


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
