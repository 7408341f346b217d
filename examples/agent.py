"""An agent that pays invoices. A target of the command line: `thoughtgear dev examples.agent:handler`."""

import os
import re
from typing import Any

from thoughtgear import PromptHandler, ToolContext, tool
from thoughtgear.protocols import ModelRequest
from thoughtgear.providers.scripted import ScriptedProvider, call

INVOICES = {"1207": 240.0, "1208": 18.5}


@tool
def list_invoices() -> dict[str, float]:
    """List the open invoices: number and amount."""
    return INVOICES


@tool(policy="at_most_once")
def pay(number: str, ctx: ToolContext) -> str:
    """Pay an invoice.

    Args:
        number: The invoice's number.
    """
    return f"Paid {INVOICES[number]:.2f} for invoice {number}, reference {ctx.idempotency_key}."


def stand_in(request: ModelRequest) -> Any:
    """What is said where no model is named: look at the invoices, pay the one of the prompt, and tell."""
    asked = max(place for place, message in enumerate(request.messages) if message.role == "user")
    results = [message.tool_result for message in request.messages[asked:] if message.tool_result]
    if not results:
        return call("list_invoices")
    wanted = re.search(r"\d+", request.messages[asked].text)
    if len(results) == 1 and wanted and wanted[0] in INVOICES:
        return {"text": "It is open, I pay it.", "calls": [call("pay", number=wanted[0])]}
    return results[-1].content if len(results) > 1 else "There is no such invoice; nothing was paid."


def make_handler(**options: Any) -> PromptHandler:
    """The agent. `THOUGHTGEAR_DB` names its store, `THOUGHTGEAR_MODEL` its model; without, a script stands in
    for one, which needs no key."""
    options.setdefault("model", os.environ.get("THOUGHTGEAR_MODEL") or None)
    return PromptHandler(
        context="You pay invoices. Look at the open ones before you pay.",
        tools=[list_invoices, pay],
        **{**options, "model": options["model"] or ScriptedProvider(replies=stand_in, chunk=4, pace=0.05)},
    )


handler = make_handler()
