"""The commit protocol: the one way in which the holder of a claim changes a run.

A commit is a *change*, a pure function from a draft of the state to the messages that it appends. It is
applied to the newest state known, and again to a newer one when someone else (a sender) committed first.
One nonce names the commit over all its tries, so that a write whose acknowledgement was lost is recognised
when the state is read back. ARCHITECTURE.md shows the protocol as a diagram.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar
from uuid import uuid4

from thoughtgear.errors import (
    ConflictError,
    RunCancelledError,
    StateRegressionError,
    StoreError,
    StoreUnavailableError,
    SupersededError,
)
from thoughtgear.loop import go_on
from thoughtgear.models import Claim, Message, RunState, now
from thoughtgear.protocols import DIRECT, Attempt, OrmAdapter

FRESH_SECONDS = 1.0
"""A contact with the store that is younger counts as the check before an effect."""

MOST_LOOKS = 2
"""How often a check looks: again where the answer is old when it comes, as in a process that stood still."""

READ_BACK_DELAYS = (0.0, 0.05, 0.2, 0.5, 1.0, 2.0)
"""Seconds before each attempt to learn the outcome of a write that the store did not confirm."""

UNANSWERED_WRITES = 5
"""How often a commit tries to write to a store that can be read and fails to write."""

REFUSED_WRITES = 5
"""How often a store may refuse a commit as late and then know no newer state than the one it is based on."""

Change = Callable[[RunState], list[Message]]
Appended = Callable[[RunState, Sequence[Message], float], None]
T = TypeVar("T")

log = logging.getLogger("thoughtgear")


async def uninterrupted(work: Awaitable[T]) -> T:
    """Await `work` to its end even when cancelled meanwhile; the cancellation comes out afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as exc:
            cancelled = exc
        except Exception:
            break
    if cancelled is not None and not task.cancelled():
        task.exception()
        raise cancelled
    return task.result()


class RunWriter:
    """Commits to one run on behalf of one attempt. One commit at a time.

    `state` is the newest acknowledged state that this attempt knows; `appended` is told what a commit
    added to the transcript, and its contact. `contact` is the moment, on the monotonic clock, at which the
    store was asked for `state` (default: now).
    """

    def __init__(
        self,
        store: OrmAdapter,
        state: RunState,
        attempt: Attempt,
        appended: Appended | None = None,
        contact: float | None = None,
    ) -> None:
        self.state = state
        self._appended = appended
        self._store = store
        self._attempt = attempt
        self._owner = _owner(attempt)
        self._epoch = state.claim.epoch
        self._holding = state.claim.owner == self._owner
        self._released = False
        self._contact = time.monotonic() if contact is None else contact
        self._lock = asyncio.Lock()

    @property
    def must_wait(self) -> bool:
        """Whether someone else's live claim keeps this attempt off, or that of a later attempt of the same
        scope: a worker that was frozen starts the old ones when it thaws."""
        claim, attempt = self.state.claim, self._attempt
        scope, _, holder = claim.owner.rpartition("/")
        if scope != attempt.scope:
            return claim.live()
        return claim.live() and attempt.serialised and attempt.number < int(holder.partition("-")[0])

    @property
    def must_claim_first(self) -> bool:
        """Whether the claim has to be committed before anything is bought or run."""
        claim, attempt = self.state.claim, self._attempt
        if self._holding:
            return False
        alone = attempt.serialised and attempt.number == 1 and not (claim.contested or self._is_other(claim))
        return not alone or bool(claim.owner) or claim.driver not in ("", attempt.driver)

    def _is_other(self, claim: Claim) -> bool:
        """Whether the last holder was another driver, or another workflow, which may go on as well."""
        lane, driver = self._attempt.lane, self._attempt.driver
        other_lane = bool(claim.lane and lane) and claim.lane != lane
        return other_lane or (claim.driver not in ("", DIRECT, driver) and driver != DIRECT)

    async def claim(self) -> None:
        """Commit a claim under the next epoch: every older attempt is fenced from here on."""
        await self.commit(_start)

    async def begin(self) -> None:
        """Commit that the run has begun: its clock ticks although its first attempts fail."""
        if self.state.started_at is None:
            with suppress(StoreError, SupersededError):
                await self.commit(_start, release=True)

    async def let_go(self) -> None:
        """Give the claim back, if this attempt has it, so that nobody waits for its deadline."""
        if self._holding:
            with suppress(StoreError, SupersededError):
                await self.commit(unchanged, release=True)

    async def commit(self, change: Change, *, release: bool = False) -> RunState:
        """Commit `change` and return the new state; `release` gives the claim back with it.

        Raises `SupersededError` when a higher epoch holds the run (nothing is written then),
        `StoreUnavailableError` when the outcome can't be learnt. A cancelled caller gets its
        cancellation after the write is over, also where it still waited for its turn.
        """
        try:
            await self._lock.acquire()
        except asyncio.CancelledError:
            # It waited for a look, or for another commit. What is finished is saved all the same.
            with suppress(Exception):
                await uninterrupted(self._in_turn(change, release))
            raise
        try:
            return await self._commit_whole(change, release)
        finally:
            self._lock.release()

    async def check(self) -> None:
        """The last await before an effect: make sure that this attempt may go on.

        Costs nothing while the last contact with the store is young, and the claim too; one that is due is
        renewed, so that nobody may take the run over while the effect is under way. Raises
        `SupersededError`, or `RunCancelledError` when a cancel waits in the inbox.
        """
        for _ in range(MOST_LOOKS):
            if self._holding and self._due:
                await self._renew()
            elif time.monotonic() - self._contact > FRESH_SECONDS:
                await self._look()
        if self.state.cancel_requested:
            raise RunCancelledError

    async def watch(self, looked: Callable[[], None] = lambda: None) -> None:
        """Look at the store now and then while a long step runs, and renew the claim; `looked` is called
        after each look. Ends only by raising, as `check`."""
        while True:
            try:
                await self._look()
                await self._renew()
                looked()
            except StoreUnavailableError as exc:
                log.warning("the store can't be reached: %s", exc, extra={"run_id": self.state.run_id})
            if self.state.cancel_requested:
                raise RunCancelledError
            await asyncio.sleep(self._attempt.watch)

    async def _renew(self) -> None:
        """Commit the claim anew before it runs out; not after a commit that gave it back, for which this
        waited. That commit may have ended the run."""
        async with self._lock:
            if not self._released and self._due:
                await self._commit_whole(_start, release=False)

    @property
    def _due(self) -> bool:
        """Whether a third of the claim's time is over: the watch renews it then, a process that stood still
        before it goes on."""
        return self.state.claim.deadline < time.time() + self._attempt.hold * 2 / 3

    async def _look(self) -> None:
        async with self._lock:
            asked = time.monotonic()
            self._adopt(await self._store.load_run(self.state.run_id), asked)

    async def _in_turn(self, change: Change, release: bool) -> RunState:
        async with self._lock:
            return await self._commit_whole(change, release)

    async def _commit_whole(self, change: Change, release: bool) -> RunState:
        nonce = uuid4().hex
        try:
            return await self._commit(change, release, nonce)
        except asyncio.CancelledError:
            # The write may be done or not begun. The same commit again finds it done, or does it.
            with suppress(Exception):
                await uninterrupted(self._commit(change, release, nonce))
            raise

    async def _commit(self, change: Change, release: bool, nonce: str) -> RunState:
        unanswered = refused = 0
        while True:
            draft, messages = self._draft(change, nonce, release)
            # Not when the answer came: a process that stood still in between would take it for fresh.
            asked = time.monotonic()
            try:
                await self._store.save_run(draft, messages)
            except ConflictError as exc:
                newest = await self._read_back(exc)
                refused += newest.version == self.state.version and newest.nonce != nonce
                if refused == REFUSED_WRITES:
                    raise StoreError(_disagrees(newest)) from exc
            except StoreUnavailableError as exc:
                unanswered += 1
                newest = await self._read_back(exc)
                if newest.nonce != nonce and unanswered == UNANSWERED_WRITES:
                    raise
            else:
                return self._acknowledge(draft, messages, asked)
            if newest.nonce == nonce:
                return self._acknowledge(newest, messages, asked)
            self._adopt(newest, asked)

    def _draft(self, change: Change, nonce: str, release: bool) -> tuple[RunState, list[Message]]:
        base = self.state
        # A change sets fields of the draft anew and rows of its ledger; nothing else is changed in place.
        draft = base.model_copy(
            update={
                "version": base.version + 1,
                "nonce": nonce,
                "updated_at": now(),
                "ledger": [row.model_copy() for row in base.ledger],
            }
        )
        messages = change(draft)
        for seq, message in enumerate(messages, base.message_count):
            message.seq = seq
        draft.message_count += len(messages)
        draft.claim = self._next_claim(release or draft.status == "waiting", over=draft.over)
        if self._attempt.driver not in (DIRECT, draft.driver.executor):
            # It keeps the name of the workflow that it came with: Temporal may have it again.
            draft.driver = draft.driver.model_copy(update={"executor": self._attempt.driver})
        return draft, messages

    def _next_claim(self, release: bool, *, over: bool) -> Claim:
        before, attempt, release = self.state.claim, self._attempt, release or over
        claim = {
            "epoch": self._epoch if self._holding else self._epoch + 1,
            "driver": attempt.driver,
            # Where the run is over, nobody of before goes on, also when it is retried.
            "lane": "" if over else attempt.lane or before.lane,
            "contested": not over and (before.contested or self._is_other(before)),
            "owner": "" if release else self._owner,
            "deadline": 0.0 if release else time.time() + attempt.hold,
            "last": attempt.scope if release and attempt.epoch is not None else "",
        }
        return before.model_copy(update=claim)  # what a newer worker has noted there stays

    def _acknowledge(self, state: RunState, messages: Sequence[Message], asked: float) -> RunState:
        self._epoch = state.claim.epoch
        self._holding = state.claim.owner == self._owner
        self._released = not self._holding
        self._contact = asked
        self.state = state
        if self._appended is not None:
            self._appended(state, messages, asked)
        if self._attempt.acknowledged is not None:
            self._attempt.acknowledged(state.version)
        return state

    def _adopt(self, newest: RunState, asked: float) -> None:
        """Go on from a state that only senders have changed: they keep claim and nonce.

        Another nonce is another holder's commit, also under the epoch that I know: it may have ended the run.
        But my own claim may stand there unacknowledged: a renewal whose outcome was never learnt.
        """
        if newest.version < self.state.version:
            raise StateRegressionError
        if newest.claim.owner == self._owner:
            self._epoch, self._holding = newest.claim.epoch, True
        elif self._holding or newest.claim.epoch != self._epoch or newest.nonce != self.state.nonce:
            raise SupersededError
        self._contact = asked
        self.state = newest

    async def _read_back(self, cause: Exception) -> RunState:
        for delay in READ_BACK_DELAYS:
            await asyncio.sleep(delay)
            try:
                return await self._store.load_run(self.state.run_id)
            except StoreUnavailableError as exc:
                cause = exc
        raise StoreUnavailableError("The store did not say whether it wrote.") from cause


def _owner(attempt: Attempt) -> str:
    """The name of a claim's owner. No two attempts share one, whatever number a driver gives them; only a
    loop that keeps its claim is the same owner from iteration to iteration."""
    unique = "" if attempt.keep_claim else f"-{uuid4().hex[:12]}"
    return f"{attempt.scope}/{attempt.number}{unique}"


def _disagrees(state: RunState) -> str:
    return f"Run {state.run_id} is damaged: its record says version {state.version}, and its store another."


def unchanged(state: RunState) -> list[Message]:
    """The change of a commit that is about the claim alone."""
    return []


def _start(state: RunState) -> list[Message]:
    """The change of a claim: the run is running, and its clock ticks from the first claim on."""
    go_on(state)
    return []
