"""An experiment told from its ledger: what happened, in its order."""

from __future__ import annotations

from collections.abc import Iterator

from simulation.ledger import Effect, Reply, Strike, Write
from simulation.world import World


def tell(world: World) -> Iterator[str]:
    """One line for each fault, commit, effect and reply. Times are in seconds."""
    ledger = world.ledger
    writes = [write for one in ledger.writes.values() for write in one]
    events: list[Strike | Write | Effect | Reply] = [
        *ledger.strikes,
        *writes,
        *ledger.effects,
        *ledger.replies,
    ]
    begin = min((event.at for event in events), default=0.0)
    for event in sorted(events, key=lambda event: event.at):
        yield f"{event.at - begin:9.3f}  {event.process.role:<12} {_line(event)}"


def _line(event: Strike | Write | Effect | Reply) -> str:
    if isinstance(event, Strike):
        return f"FAULT {event.kind} at {event.point}"
    if isinstance(event, Effect):
        return f"effect of {event.tool}, {event.key[:4]}…:{event.key.rpartition(':')[2]}"
    if isinstance(event, Reply):
        return f"reply {event.name}, asked for {event.at - event.asked:.3f} s before"
    state = event.state
    ledger = ", ".join(f"{row.call.id} {row.status}" for row in state.ledger)
    inbox = ", ".join(item.request_id for item in state.inbox)
    claim = f"epoch {state.claim.epoch}{' of ' + state.claim.owner[-16:] if state.claim.owner else ''}"
    rest = "".join(f", {name}: {value}" for name, value in (("calls", ledger), ("inbox", inbox)) if value)
    return (
        f"commit {state.run_id[:4]} v{state.version} {state.status}, iteration {state.iteration}, "
        f"{state.message_count} messages, {claim}{rest}"
    )
