"""A long run that survives restarts, and waits for a person in the middle: `python examples/long_run.py`

It audits a hundred orders, one call each, asks a person to approve the total, and closes the books. End
it at any moment (Ctrl-C, kill -9, a power cut) and start it again: it goes on after the last order that
is saved. When it has to wait it leaves; the run waits in the store, for days if need be, and costs
nothing. Then

    python examples/long_run.py approve "Ann"        # or: refuse "Ann"

decides and goes on. `ORDERS` says how many orders, `THOUGHTGEAR_DB` where the run is. The model is a
script. With `TEMPORAL_ADDRESS` set, a Temporal server drives the run and this process is its worker.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from thoughtgear import (
    Done,
    LocalExecutor,
    OutcomeUnknownError,
    PromptHandler,
    TemporalExecutor,
    Void,
    build_worker,
    tool,
)
from thoughtgear.config import connect
from thoughtgear.loop import Limits
from thoughtgear.outcomes import Outcome
from thoughtgear.protocols import ModelRequest, RequestedCall
from thoughtgear.providers.scripted import ScriptedProvider, call

ORDERS = int(os.environ.get("ORDERS", "100"))


@tool
async def audit(order: int) -> str:
    """Audit an order, and return its amount."""
    await asyncio.sleep(0.05)
    return f"{order * 3}"


@tool(policy="at_most_once", on_unknown="ask_person")
async def ask_for_approval(total: int) -> str:
    """Ask a person. No program can tell the outcome, so the run waits until somebody does."""
    raise OutcomeUnknownError


@tool(policy="at_most_once")
async def close_books(total: int) -> str:
    """Close the books."""
    return f"The books are closed at {total}."


def auditor(request: ModelRequest) -> str | RequestedCall:
    """What a model would say, from the results so far."""
    results = [message.tool_result for message in request.messages if message.tool_result]
    amounts = [int(result.content) for result in results if result.name == "audit"]
    if len(amounts) < ORDERS:
        return call("audit", order=len(amounts) + 1)
    last = results[-1]
    if last.name == "audit":
        return call("ask_for_approval", total=sum(amounts))
    if last.name == "ask_for_approval" and last.status == "ok":
        return call("close_books", total=sum(amounts))
    return last.content


@asynccontextmanager
async def office() -> AsyncIterator[PromptHandler]:
    """The handler, and a worker where Temporal drives it."""
    model = ScriptedProvider(replies=auditor)
    tools, limits = [audit, ask_for_approval, close_books], Limits(iterations=ORDERS + 10)
    if not os.environ.get("TEMPORAL_ADDRESS"):
        # After a kill the next process may go on when the claim of the dead one is over.
        local = LocalExecutor(claim_seconds=3)
        async with PromptHandler(model=model, tools=tools, limits=limits, executor=local) as handler:
            yield handler
        return
    client = await connect()
    executor = TemporalExecutor(client)
    handler = PromptHandler(model=model, tools=tools, limits=limits, executor=executor)
    async with handler, build_worker(client, [handler]):
        yield handler


async def main(decision: str = "", who: str = "somebody") -> None:
    async with office() as handler:
        # The same request id is the same run, however often this is started.
        prompt = f"Audit {ORDERS} orders."
        run = await handler.handle_prompt(prompt, request_id=f"audit-{ORDERS}", wait=False)
        if decision and run.unsettled:
            approved, refused = Done(f"Approved by {who}."), Void(f"Refused by {who}.")
            outcome: Outcome = approved if decision == "approve" else refused
            await handler.settle(run.run_id, run.unsettled[0].call.id, outcome)
        following = asyncio.create_task(follow(handler, run.run_id))
        while not following.done():
            await asyncio.wait((following,), timeout=0.2)
            if (await handler.get_run(run.run_id)).unsettled:
                print(f"Run {run.run_id} waits for a person: python {sys.argv[0]} approve NAME", flush=True)
                following.cancel()
                return
        await following


async def follow(handler: PromptHandler, run_id: str) -> None:
    """Show how far it is."""
    async for event in handler.stream(run_id, text=False):
        if event.kind == "iteration" and event.iteration % 10 == 0:
            print(f"{event.iteration} iterations", flush=True)
        if event.kind == "end":
            print(event.status, event.output or event.error, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
