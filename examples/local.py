"""The agent in this process: `python examples/local.py "Pay invoice 1207."`"""

import asyncio
import sys

from agent import make_handler


async def main(prompt: str = "Pay invoice 1207.") -> None:
    async with make_handler() as handler:
        run = await handler.handle_prompt(prompt)
        print(run.status, run.output)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
