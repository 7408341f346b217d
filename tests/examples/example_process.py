"""The examples as people run them: processes, in a folder of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from server_process import free_ports

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 120.0
_OURS = ("THOUGHTGEAR_", "TEMPORAL_", "AWS_", "OPENAI_")


def environment(**given: str) -> dict[str, str]:
    """What a process is told from outside: nothing of this machine's own settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return {**kept, "PYTHONUNBUFFERED": "1", **given}


class Example:
    """A running example. Its output can be waited for."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []

    async def until_says(self, text: str) -> str:
        """Return the line that has this text; fail when the process ends first."""
        assert self._process.stdout is not None
        async with asyncio.timeout(SECONDS):
            while line := (await self._process.stdout.readline()).decode():
                self.lines.append(line)
                if text in line:
                    return line
        raise AssertionError(f"It ended without {text!r}: {self.lines}")

    async def ended(self) -> tuple[int, str]:
        """Return the exit code and all output."""
        async with asyncio.timeout(SECONDS):
            rest, _ = await self._process.communicate()
        return self._process.returncode or 0, "".join(self.lines) + rest.decode()

    def signal(self, how: signal.Signals) -> None:
        self._process.send_signal(how)

    async def kill(self) -> None:
        """End it as a power cut does."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def example(folder: Path, name: str, *words: str, **given: str) -> AsyncIterator[Example]:
    """Run an example; it is killed at the end, if it is still there."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / name), *words),
        cwd=folder,
        env=environment(**given),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=2**20,
    )
    running = Example(process)
    try:
        yield running
    finally:
        await running.kill()


@asynccontextmanager
async def served(folder: Path, name: str, **given: str) -> AsyncIterator[tuple[Example, httpx.AsyncClient]]:
    """Run an example that is an HTTP server, and return it with a client of it."""
    [port] = free_ports(1)
    async with example(folder, name, PORT=str(port), **given) as running:
        await running.until_says("Uvicorn running")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client:
            yield running, client
