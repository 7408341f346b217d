"""The provider: it writes what the script says, bills it in the ledger, and looks at what it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from simulation.ledger import SECRET, Reply
from simulation.process import Process
from thoughtgear.models import Message, Usage
from thoughtgear.protocols import ModelReply, ModelRequest, OnText

if TYPE_CHECKING:
    from simulation.world import World


class Model:
    """A model as one process reaches it."""

    model = "sim"

    def __init__(self, world: World, process: Process) -> None:
        self._world, self._process = world, process
        self.api_key = SECRET

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        world, process = self._world, self._process
        asked = world.loop.now
        if wrong := improper(request.messages):
            world.wrong(f"the model was sent {wrong}")
        if fault := world.due("model:before", process):
            await world.strike(fault, "model:before", process)
        messages = current_run(request.messages)
        text, calls = world.scenario.script(messages)
        for piece in halves(text):
            await world.loop.tick(world.between(0.2, 1.5))
            await on_text(piece)
        billed = Reply(
            name=f"sim/{len(world.ledger.replies)}",
            prompt=messages[0].text,
            number=sum(message.role == "assistant" for message in messages),
            process=process,
            asked=asked,
            at=world.loop.now,
        )
        world.ledger.replies.append(billed)
        if fault := world.due("model:after", process):
            await world.strike(fault, "model:after", process)
        return ModelReply(
            text=text, calls=calls, usage=Usage(input_tokens=1, output_tokens=1), model=billed.name
        )

    async def aclose(self) -> None:
        """Nothing to close."""


def halves(text: str) -> tuple[str, str]:
    """Return the two pieces in which a text is streamed."""
    return text[: len(text) // 2], text[len(text) // 2 :]


def current_run(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the messages of the run that goes on: those before belong to earlier runs of its session."""
    first = max(place for place, message in enumerate(messages) if message.seq == 0)
    return messages[first:]


def improper(messages: Sequence[Message]) -> str | None:
    """Say what no provider accepts: a call without its one result, or anything between the two."""
    open_calls: set[str] = set()
    for message in messages:
        if message.role == "tool":
            call_id = message.tool_result.call_id if message.tool_result else ""
            if call_id not in open_calls:
                return f"a result that nobody waits for: {call_id}"
            open_calls.discard(call_id)
        elif open_calls:
            return f"a {message.role} message before the results of {sorted(open_calls)}"
        open_calls |= {call.id for call in message.tool_calls}
    return f"calls without results: {sorted(open_calls)}" if open_calls else None
