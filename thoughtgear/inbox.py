"""The inbox: how anyone sends to a run that is going on, without touching its claim."""

from __future__ import annotations

import asyncio
import hashlib
import random

from thoughtgear.errors import ConflictError, LimitExceededError, StoreUnavailableError
from thoughtgear.loop import Limits
from thoughtgear.models import InboxItem, RunState, now
from thoughtgear.protocols import OrmAdapter

FIRST_DELAY, MOST_DELAY, TRIES = 0.01, 0.5, 100
"""The sender backs off, so that the worker doesn't have to: seconds, and how often."""


OURS = "\x1f"
"""What the ids of decisions and cancels begin with: no id that comes from outside has a control character."""


async def put(store: OrmAdapter, run_id: str, item: InboxItem, limits: Limits) -> RunState:
    """Put an item into a run's inbox; return the state that has it.

    A run that is over is returned as it is, without the item. A request id that the run has seen before
    changes nothing. Raises `LimitExceededError` when the inbox is full, `RunNotFoundError`, `StoreError`.
    """
    delay = FIRST_DELAY
    for _ in range(TRIES):
        try:
            return await _try_put(store, run_id, item, limits)
        except (ConflictError, StoreUnavailableError) as exc:
            cause = exc
        await asyncio.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
        delay = min(delay * 2, MOST_DELAY)
    raise StoreUnavailableError(
        "The message could not be put into the run's inbox; send it again."
    ) from cause


async def _try_put(store: OrmAdapter, run_id: str, item: InboxItem, limits: Limits) -> RunState:
    state = await store.load_run(run_id)
    if state.over or knows(state, item.request_id):
        return state
    _check_room(state, item, limits)
    # The claim and the nonce stay: the holder must recognise its own last commit below this one.
    changed = state.model_copy(
        update={"inbox": [*state.inbox, item], "version": state.version + 1, "updated_at": now()}
    )
    await store.save_run(changed, [])
    return changed


def knows(state: RunState, request_id: str) -> bool:
    """Whether this request id is in the inbox or was absorbed from it."""
    return request_id in state.absorbed or any(item.request_id == request_id for item in state.inbox)


def _check_room(state: RunState, item: InboxItem, limits: Limits) -> None:
    size = sum(len(other.text.encode()) for other in [*state.inbox, item])
    if item.kind == "message" and (len(state.mail) >= limits.inbox or size > limits.prompt_bytes):
        raise LimitExceededError(
            f"The run's inbox is full ({len(state.mail)} messages); wait until the run has read them."
        )


def follow_up_id(run_id: str, request_id: str) -> str:
    """The request id of the run that a message to a finished run becomes."""
    return "follow-up-" + hashlib.sha256(f"{run_id}/{request_id}".encode()).hexdigest()[:32]
