"""Who may do what, and when: claims and their epochs, effects, replies that are paid for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from simulation.clock import YEAR_2030
from simulation.ledger import Effect, Reply, Write
from simulation.process import Process
from simulation.shop import AT_MOST_ONCE
from simulation.transcripts import costly, cut_off, started_at
from simulation.world import SKEW, World
from thoughtgear.commit import FRESH_SECONDS
from thoughtgear.models import Message, RunState

SLACK = 0.1
"""Seconds that a call to the store may take without a fault."""

WINDOW = 5.0
"""Seconds from a reply to the end of its commit, unless something is slow: so long a commit may try."""

Transcripts = Mapping[str, Sequence[Message]]


def check_commits(writes: Sequence[Write]) -> Iterator[str]:
    """Versions without gaps; epochs that never decrease, each with one holder; senders keep claim and nonce;
    nothing but a reopening after the end."""
    holders: dict[int, tuple[Process, str]] = {}
    old = RunState(run_id="none")
    for write in writes:
        new = write.state
        if new.version != old.version + 1:
            yield f"version {new.version} after {old.version}"
        if new.claim.epoch < old.claim.epoch:
            yield f"a write under epoch {new.claim.epoch} after one under {old.claim.epoch}"
        if new.nonce == old.nonce:
            if new.claim != old.claim:
                yield f"version {new.version}: a sender changed the claim"
        elif old.version:
            yield from _check_holder(old, write, holders)
        old = new


def _check_holder(old: RunState, write: Write, holders: dict[int, tuple[Process, str]]) -> Iterator[str]:
    new, holder = write.state, (write.process, write.attempt)
    if holders.setdefault(new.claim.epoch, holder) != holder:
        yield f"version {new.version}: two holders under epoch {new.claim.epoch}"
    if _overtakes(old, write):
        yield f"version {new.version}: an old attempt took over from a later one, whose claim was live"
    if new.claim.epoch == old.claim.epoch and new.claim.owner not in (old.claim.owner, ""):
        yield f"version {new.version}: another owner under the same epoch"
    reopened = old.status in ("failed", "cancelled") and new.claim.epoch > old.claim.epoch
    if old.over and not (reopened and new.message_count == old.message_count):
        yield f"version {new.version}: a holder's write after the end"


def _overtakes(old: RunState, write: Write) -> bool:
    """Whether an earlier attempt of the same activity has taken over a claim that is live by any clock."""
    if old.claim.deadline < YEAR_2030 + write.at + 2 * SKEW:
        return False
    (before, _, holder), (after, _, taker) = (
        claim.owner.rpartition("/") for claim in (old.claim, write.state.claim)
    )
    numbers = [one.partition("-") for one in (taker, holder)]
    # An owner without a dash is a local loop, whose attempts nobody numbers for it.
    return (
        before == after != ""
        and all(dash for _, dash, _ in numbers)
        and int(numbers[0][0]) < int(numbers[1][0])
    )


def check_effects(world: World, transcripts: Transcripts) -> Iterator[str]:
    """A tool that may run at most once has at most one effect per call, after the ledger says that it was
    started; no tool takes effect that no saved reply asks for."""
    asked = {
        f"{run_id}:{call.id}"
        for run_id, messages in transcripts.items()
        for message in messages
        for call in message.tool_calls
    }
    for (key, tool), count in Counter((effect.key, effect.tool) for effect in world.ledger.effects).items():
        if tool in AT_MOST_ONCE and count > 1:
            yield f"{tool} took effect {count} times for {key}"
        if key not in asked:
            yield f"{tool} took effect for {key}, which no reply asks for"
    for effect in world.ledger.effects:
        run_id, _, call_id = effect.key.rpartition(":")
        if effect.tool in AT_MOST_ONCE:
            started = started_at(world, run_id, call_id)
            if started is None or started > effect.at:
                yield f"{effect.tool} took effect before it was noted as started"
        yield from _check_fence(world, effect, run_id)


def _check_fence(world: World, effect: Effect, run_id: str) -> Iterator[str]:
    """No effect of an attempt that was fenced, or cancelled, longer ago than a look may be: unless it stood
    still right before the effect."""
    writes = world.ledger.writes.get(run_id, ())
    epochs = [
        write.state.claim.epoch
        for write in writes
        if (write.process, write.attempt) == (effect.process, effect.attempt) and write.at <= effect.at
    ]
    if not epochs or _stood_still(world, effect.process, "tool:before", effect.at):
        return
    for write in writes:
        late = effect.at - write.at
        if late > FRESH_SECONDS + SLACK and write.state.claim.epoch > epochs[-1]:
            yield f"{effect.tool} took effect {late:.1f} s after its attempt was fenced"
            return
        if late > FRESH_SECONDS + SLACK and write.state.cancel_requested and not world.scenario.handed:
            yield f"{effect.tool} took effect {late:.1f} s after a cancel was in the inbox"
            return


def _stood_still(world: World, process: Process, point: str, at: float) -> bool:
    return any(s.process is process and s.point == point and s.at <= at for s in world.ledger.strikes)


def check_replies(world: World, transcripts: Transcripts) -> Iterator[str]:
    """Each reply that was paid for is saved, once, or was lost to a fault in the one window; none is asked
    for that is saved already."""
    saved = Counter(
        message.model
        for messages in transcripts.values()
        for message in messages
        if message.role == "assistant"
    )
    runs = {messages[0].text: run_id for run_id, messages in transcripts.items()}
    lost = [reply for reply in world.ledger.replies if not saved[reply.name]]
    for reply in lost:
        if not _excused(world, reply):
            yield f"reply {reply.name} was paid for and is lost, and no fault did that"
    if len(lost) > len(world.ledger.strikes) and not (world.scenario.handed or cut_off(world)):
        yield f"{len(lost)} replies are lost to {len(world.ledger.strikes)} faults"
    for reply in world.ledger.replies:
        if saved[reply.name] > 1:
            yield f"reply {reply.name} is saved {saved[reply.name]} times"
        at = _saved_at(world.ledger.writes[runs[reply.prompt]], reply.number)
        if at is not None and reply.asked - at > FRESH_SECONDS + SLACK:
            yield f"reply {reply.name} was asked for {reply.asked - at:.1f} s after it had been saved"
    counted = sum(state.model_replies for run_id in transcripts if (state := world.newest(run_id)))
    if counted != sum(saved.values()):
        yield f"{counted} replies are counted, and {sum(saved.values())} saved"


def _saved_at(writes: Sequence[Write], number: int) -> float | None:
    return next((write.at for write in writes if write.state.model_replies > number), None)


def _excused(world: World, reply: Reply) -> bool:
    """Whether something came between the question and the commit: in that process, or for all of them."""
    if world.scenario.handed or cut_off(world):
        return True
    end = reply.at + WINDOW
    for strike in world.ledger.strikes:
        mine = strike.process is reply.process
        if strike.at > end or strike.until < reply.asked:
            continue
        if costly(strike) and (mine or strike.kind == "away"):
            return True
        if mine:  # what is slow alone costs nothing, but the window is open for longer
            end = max(end, strike.until + WINDOW)
    return any(strike.kind == "stale" and strike.at <= end for strike in world.ledger.strikes)
