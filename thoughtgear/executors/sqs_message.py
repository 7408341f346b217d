"""A message of an SQS queue: the event of a run's turn, and what this queue says of it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from thoughtgear.errors import InvalidInputError
from thoughtgear.executors.events import ContinueEvent, read_event
from thoughtgear.executors.turns import Turn, turn_in

DELIVERY, SINCE = "delivery", "elsewhere"
"""What a copy carries: the name of its original, and since when (Unix seconds) nobody had its handler."""


@dataclass(frozen=True)
class Message:
    """A message as it was received, for the `count`-th time. `name` is that of its delivery, which a copy
    keeps; `handler` is a name."""

    receipt: str
    name: str
    count: int
    body: str
    handler: str
    turn: Turn
    since: float | None = None

    def attributes(self, since: float | None = None) -> dict[str, str]:
        """What its copy carries."""
        since = self.since if since is None else since
        return {DELIVERY: self.name, **({SINCE: f"{since:.0f}"} if since is not None else {})}

    @property
    def elsewhere(self) -> float:
        """For how many seconds workers have passed it on that lack its handler."""
        return max(0.0, time.time() - self.since) if self.since is not None else 0.0


def read_message(received: dict[str, Any]) -> Message:
    """Return a message as SQS hands it out. Raises `InvalidInputError` for one that is no run's."""
    try:
        body = json.loads(received["Body"])
    except (ValueError, RecursionError):
        raise InvalidInputError("Its body is no JSON.") from None
    name = body.pop("handler", None) if isinstance(body, dict) else None
    event = read_event(body)
    if not isinstance(event, ContinueEvent) or not isinstance(name, str):
        raise InvalidInputError("A message is of a run that is in the store, and names its handler.")
    told = received.get("MessageAttributes", {})
    since = _text(told, SINCE)
    return Message(
        receipt=received["ReceiptHandle"],
        name=_text(told, DELIVERY) or received["MessageId"],
        count=int(received["Attributes"]["ApproximateReceiveCount"]),
        body=received["Body"],
        handler=name,
        turn=turn_in(event),
        since=float(since) if since.isdecimal() else None,
    )


def _text(told: dict[str, Any], name: str) -> str:
    return str(told.get(name, {}).get("StringValue", ""))[:200]
