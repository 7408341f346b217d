"""A process that drives runs: its first reply begins and never ends, the next ones say something else."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from temporalio.client import Client

from thoughtgear import LocalExecutor, PromptHandler, build_worker
from thoughtgear.protocols import ModelReply, ModelRequest, OnText

BROKEN, ANSWER = "The answer is 41", "No: it is 42."


class Hangs:
    """The model. It notes each reply that it begins, with its process."""

    model = "hangs"

    def __init__(self, folder: Path) -> None:
        self._begun = folder / "begun"

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        with self._begun.open("a") as file:
            file.write(f"{os.getpid()}\n")
        first = len(self._begun.read_text().splitlines()) == 1
        for letter in BROKEN if first else ANSWER:
            await on_text(letter)
        if first:
            await asyncio.sleep(3600)
        return ModelReply(text=ANSWER)

    async def aclose(self) -> None:
        pass


def make_handler(folder: Path) -> PromptHandler:
    """The handler that every process of the test builds."""
    db = f"sqlite:///{folder}/runs.db"
    return PromptHandler(model=Hangs(folder), db=db, executor=LocalExecutor(claim_seconds=1))


async def main(folder: str, run_id: str = "", address: str = "", queue: str = "") -> None:
    """Drive one run to its end, or work on a queue until killed."""
    handler = make_handler(Path(folder))
    if run_id:
        await handler.continue_run(run_id)
    else:
        await build_worker(await Client.connect(address), [handler], queue).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
