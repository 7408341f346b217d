"""The same code in development and in production: `python examples/dev_and_prod.py ask "Pay invoice 1207."`

On a laptop, with nothing set, the agent runs in this process over a file here, and a script stands in for
the model. What differs in production is the environment alone:

    THOUGHTGEAR_DB=postgresql://…          the store that all processes reach
    THOUGHTGEAR_MODEL=openai:gpt-4o-mini   the model (and its key, OPENAI_API_KEY)
    AGENT_EXECUTOR=temporal                what drives the runs: local, temporal (TEMPORAL_ADDRESS, …) or sqs
                                           (THOUGHTGEAR_SQS_QUEUE_URL)

There `python examples/dev_and_prod.py worker` does the work, as many of them as are needed.
"""

import asyncio
import os
import signal
import sys

from agent import make_handler

from thoughtgear import PromptHandler, SqsWorker, build_worker
from thoughtgear.config import connect

EXECUTOR = os.environ.get("AGENT_EXECUTOR") or "local"


async def ask(handler: PromptHandler, text: str) -> None:
    """Send a prompt, and show its run as it goes on, here or in a worker."""
    run = await handler.handle_prompt(text, stream=True, wait=False)
    async for event in handler.stream(run.run_id):
        if event.kind == "text":
            print(event.text, end="", flush=True)
        elif event.kind == "superseded":
            print("\n(cut off; another attempt answers)")
        elif event.kind == "reply":
            print()
        elif event.kind == "end":
            print(event.status)


async def work(handler: PromptHandler) -> None:
    """Drive the runs of all who ask, until SIGTERM: what is going on then is finished, or given back."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    if EXECUTOR == "sqs":
        await SqsWorker(handler).run(stop)
    elif EXECUTOR == "temporal":
        async with build_worker(await connect(), [handler]):
            await stop.wait()
    else:
        print("With the local executor whoever asks does the work: no worker is needed.")


async def main(command: str = "ask", *text: str) -> None:
    async with make_handler(executor=EXECUTOR) as handler:
        await (work(handler) if command == "worker" else ask(handler, " ".join(text) or "Pay invoice 1207."))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
