"""An agent that pays invoices. A target of the command line: `thoughtgear dev examples.agent:handler`."""

import os
from typing import Any

from thoughtgear import PromptHandler, ToolContext, tool

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


def make_handler(**options: Any) -> PromptHandler:
    """The agent. `THOUGHTGEAR_DB` names its store, `THOUGHTGEAR_MODEL` its model; the default one echoes."""
    return PromptHandler(
        context="You pay invoices. Look at the open ones before you pay.",
        tools=[list_invoices, pay],
        model=os.environ.get("THOUGHTGEAR_MODEL") or "scripted:echo",
        **options,
    )


handler = make_handler()
