"""The command line as people use it: `thoughtgear` typed in a folder with an agent."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

AGENT = '''
import asyncio
from pathlib import Path
from thoughtgear import OutcomeUnknownError, PromptHandler, tool
from thoughtgear.errors import ModelRejectedError
from thoughtgear.protocols import ModelReply
from thoughtgear.providers.scripted import ScriptedProvider, call

GATE = Path(__file__).with_name("gate")


@tool
async def shout(word: str) -> str:
    """Say it louder."""
    return word.upper()


@tool
async def pass_gate() -> str:
    """Wait until the gate is open."""
    GATE.with_name("waiting").touch()
    while not GATE.exists():
        await asyncio.sleep(0.02)
    return "the gate is open"


@tool(policy="at_most_once", on_unknown="ask_person")
async def pay() -> str:
    """Pay."""
    raise OutcomeUnknownError


def model(*replies, delay=0.0):
    return ScriptedProvider(replies=replies, delay=delay, chunk=4)


class Slow:
    """Begins to answer, and ends when the gate is open."""

    model = "slow"

    async def reply(self, request, on_text):
        for piece in ("The ", "gate "):
            await on_text(piece)
            await asyncio.sleep(0.3)
        await on_text("is ")
        await pass_gate.handler()
        await on_text("open.")
        return ModelReply(text="The gate is open.")

    async def aclose(self):
        pass


def with_gate(request):
    """What is refused as long as the gate is closed."""
    if not GATE.exists():
        raise ModelRejectedError("The gate is closed.")
    return "I am in."


STORE = f"sqlite:///{Path(__file__).with_name('runs.db')}"
handler = PromptHandler(
    tools=[shout], db=STORE, model=model([call("shout", word="hello")], "The word is HELLO.")
)
gated = PromptHandler("gated", tools=[pass_gate], db=STORE, model=model([call("pass_gate")], "I am through."))
unsure = PromptHandler("unsure", tools=[pay], db=STORE, model=model([call("pay")], "All settled."))
failing = PromptHandler("failing", db=STORE, model=model())
refused = PromptHandler(
    "refused", tools=[shout], db=STORE, model=model([call("shout", word="open")], with_gate)
)
slow = PromptHandler("slow", db=STORE, model=Slow())
several = [handler, gated]
'''


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


class Command:
    """A command that runs. Its output can be waited for."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._out, self._err = bytearray(), bytearray()
        self._news = asyncio.Condition()
        self._reading = [
            asyncio.create_task(self._read(process.stdout, self._out)),
            asyncio.create_task(self._read(process.stderr, self._err)),
        ]

    async def until_says(self, text: str, times: int = 1) -> None:
        """Return when the output holds the text so often; fail when the command ends first."""
        async with asyncio.timeout(40), self._news:
            while (self._out + self._err).count(text.encode()) < times:
                assert not all(task.done() for task in self._reading), self._ended()
                await self._news.wait()

    def line(self, begin: str) -> str:
        """The line of stdout that begins so."""
        return next(line for line in self._out.decode().splitlines() if line.startswith(begin))

    def word_after(self, text: str) -> str:
        """The word that follows this text on stderr."""
        return self._err.decode().split(text)[1].split()[0].rstrip(",")

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()

    async def ended(self) -> Ended:
        async with asyncio.timeout(60):
            await asyncio.gather(*self._reading)
            await self._process.wait()
        return self._ended()

    def _ended(self) -> Ended:
        return Ended(self._process.returncode or 0, self._out.decode(), self._err.decode())

    async def _read(self, stream: asyncio.StreamReader | None, into: bytearray) -> None:
        assert stream is not None
        while piece := await stream.read(4096):
            async with self._news:
                into += piece
                self._news.notify_all()
        async with self._news:
            self._news.notify_all()


class Terminal:
    """A folder with an agent in it, and `thoughtgear` typed there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._commands: list[Command] = []

    async def start(self, *words: str, **environment: str) -> Command:
        names = ("THOUGHTGEAR_", "TEMPORAL_", "OPENAI_")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(names)}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "thoughtgear",
            *words,
            cwd=self.folder,
            env={**clean, "COLUMNS": "80", "NO_COLOR": "1", **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self._commands.append(Command(process))
        return self._commands[-1]

    async def type(self, *words: str, **environment: str) -> Ended:
        return await (await self.start(*words, **environment)).ended()

    async def until_there(self, name: str) -> None:
        async with asyncio.timeout(40):
            while not (self.folder / name).exists():
                await asyncio.sleep(0.02)

    def open_gate(self) -> None:
        (self.folder / "gate").touch()

    async def close(self) -> None:
        for command in self._commands:
            command.kill()
            await command.ended()
