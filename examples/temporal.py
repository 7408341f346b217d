"""The same agent driven by Temporal: `python examples/temporal.py "Pay invoice 1207."`

Of the agent nothing changes but the executor. A worker may as well be a process of its own.
"""

import asyncio
import sys

from agent import make_handler

from thoughtgear import TemporalExecutor, build_worker
from thoughtgear.config import connect


async def main(prompt: str = "Pay invoice 1207.") -> None:
    client = await connect()
    async with make_handler(executor=TemporalExecutor(client)) as handler, build_worker(client, [handler]):
        run = await handler.handle_prompt(prompt)
        run = await handler.wait(run.run_id)
        print(run.status, run.output)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
