"""The histories of workflows, and what they say."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHandle


async def chain(handle: WorkflowHandle[Any, Any]) -> list[list[HistoryEvent]]:
    """The histories of a workflow's executions, first to last, through every continue-as-new."""
    client = handle._client
    described = await handle.describe()
    run_id: str | None = described.raw_description.workflow_execution_info.first_run_id or described.run_id
    found = []
    while run_id:
        history = await client.get_workflow_handle(handle.id, run_id=run_id).fetch_history()
        found.append(list(history.events))
        last = history.events[-1]
        run_id = last.workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    return found


def of_type(events: Sequence[HistoryEvent], name: str) -> list[HistoryEvent]:
    """The events of a type, such as `TIMER_STARTED`."""
    kind = EventType.Value(f"EVENT_TYPE_{name}")
    return [event for event in events if event.event_type == kind]


def everything(events: Sequence[HistoryEvent]) -> str:
    """All that a history says, payloads decoded."""
    from google.protobuf.json_format import MessageToDict

    words: list[str] = []
    for event in events:
        _collect(MessageToDict(event), words)
    return "\n".join(words)


def _collect(value: Any, words: list[str]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "data" and isinstance(item, str):
                decoded = base64.b64decode(item).decode(errors="replace")
                words.append(decoded)
                words.append(str(_parsed(decoded)))
            _collect(item, words)
    elif isinstance(value, list):
        for item in value:
            _collect(item, words)
    else:
        words.append(str(value))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
