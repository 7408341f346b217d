"""A worker of its own process, for tests that kill it. Its tools hang in the first process that runs them."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from temporalio.client import Client
from temporalio.worker import Worker

from thoughtgear import PromptHandler, build_worker, tool
from thoughtgear.activities.iteration import RunActivities
from thoughtgear.activities.roster import Roster
from thoughtgear.providers.scripted import ScriptedProvider, call

SCRIPT = [[call("finished")], [call("rerun"), call("pay"), call("finished")], "Done."]


def make_handler(folder: Path) -> PromptHandler:
    """The handler that every process of the test builds."""

    def note(name: str) -> bool:
        """Note a start; say whether it is the first."""
        with (folder / name).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return len((folder / name).read_text().splitlines()) == 1

    @tool
    def finished() -> str:
        """Finish at once."""
        note("finished")
        return "finished"

    @tool
    def rerun() -> str:
        """Hang the first time."""
        if note("rerun"):
            time.sleep(3600)
        return "ran again"

    @tool(policy="at_most_once")
    def pay() -> str:
        """Hang the first time."""
        if note("pay"):
            time.sleep(3600)
        return "paid twice"

    return PromptHandler(
        tools=[finished, rerun, pay],
        model=ScriptedProvider(replies=SCRIPT, ledger=folder / "ledger.jsonl"),
        db=f"sqlite:///{folder}/runs.db",
    )


async def main(address: str, task_queue: str, folder: str, only: str = "") -> None:
    """Work until killed; only at activities, if so asked."""
    client, handler = await Client.connect(address), make_handler(Path(folder))
    if only == "activities":
        await Worker(client, task_queue=task_queue, activities=RunActivities(Roster([handler])).all()).run()
    await build_worker(client, [handler], task_queue).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
