"""Reading a run as it goes on: its store is asked, so it may go on anywhere, and nobody waits for a reader.

What is saved comes from the transcript, whose order never changes, and the reply that is being made from a
document beside it (`live`). A reader stands at a cursor, and any other reader goes on from there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from math import inf
from typing import Any, TypeVar

from thoughtgear import live
from thoughtgear.cursor import Cursor, Said
from thoughtgear.errors import (
    ConflictError,
    ExecutorUnavailableError,
    InvalidInputError,
    StoreError,
    StoreUnavailableError,
)
from thoughtgear.events import StreamEvent, facts_of
from thoughtgear.ids import check_run_id
from thoughtgear.live import LiveText
from thoughtgear.models import Message, RunState
from thoughtgear.protocols import OrmAdapter

FIRST_PAUSE, MOST_PAUSE = 0.1, 1.0
"""Seconds between two looks at the store: the first after news, the longest after a while without any."""

QUIET_LOOKS = 8
"""How often a reply that does not come is looked for, in the time for which it has not come."""

PATIENCE = 60.0
"""Seconds that a reader waits for a store that is away."""

MOST_REFUSED = 3
"""How often a reader tries to ask for the text in a store that does not take it."""

PAGE = 200
"""Messages that are read at once."""


T = TypeVar("T")

Events = AsyncGenerator[StreamEvent, None]


def stream(store: OrmAdapter, run_id: str, after: str | None = None, *, text: bool = True) -> Events:
    """Return the events of a run until it is over: pieces of replies, tools that start and end, iterations,
    the end. `after` is the `cursor` of the last event that is known; None is the beginning.

    `text` asks for the pieces of a reply while it is being made, which is noted in the run, once; without it
    nothing is written, and a reply is told when it is saved. Raises `InvalidInputError` for what is no id,
    and for what is no cursor of this run. The iterator raises it for a cursor of what the store has lost,
    `RunNotFoundError`, and `StoreError`, also where the store is away, or the run's copy into it unfinished,
    for longer than a minute: go on from the last cursor then.
    """
    return _stream(Reader(store, check_run_id(run_id), Cursor.read(after, run_id), text=text))


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Return what is asked for; a store or executor that is away is asked again for a minute."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return await ask()
        except (StoreUnavailableError, ExecutorUnavailableError):
            if time.monotonic() > until:
                raise
        await asyncio.sleep(MOST_PAUSE)


async def _stream(reader: Reader) -> Events:
    away_since: float | None = None
    while not reader.over:
        try:
            events = await reader.look()
        except StoreUnavailableError:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > PATIENCE:
                raise
            await asyncio.sleep(FIRST_PAUSE)
            continue
        away_since = None
        for event in events:
            yield event
        if not reader.over:
            await asyncio.sleep(reader.pause)


class Reader:
    """Tells what is new in a run since the last look. `state` is the newest that it knows, `pause` how many
    seconds it should be left alone."""

    def __init__(self, store: OrmAdapter, run_id: str, after: Cursor, *, text: bool = True) -> None:
        self._store, self._run_id, self._wants_text = store, run_id, text
        self._told = _Told(run_id, after)
        self._more = False
        self._refused = 0
        self._quiet = FIRST_PAUSE  # between two looks at the state
        self._look_at, self._news_at = 0.0, time.monotonic()
        self._read_at = -inf  # the growing text
        self.state: RunState | None = None
        self.over = False
        self.pause = FIRST_PAUSE

    @property
    def seq(self) -> int:
        """The last message that was told."""
        return self._told.cursor.seq

    async def look(self) -> list[StreamEvent]:
        """Return what is new. Raises as `stream`; after a `StoreUnavailableError` it may be asked again."""
        events = await self._grown() if self._text_left() == 0 else []
        now = time.monotonic()
        if events:  # as long as the text grows the state has no news
            self._quiet, self._news_at = FIRST_PAUSE, now
            self._look_at = now + min(self._text_pause, MOST_PAUSE)
        elif now >= self._look_at:
            events = await self._saved()
            now = time.monotonic()
            self._quiet = FIRST_PAUSE if events else min(self._quiet * 1.5, MOST_PAUSE)
            self._news_at = now if events else self._news_at
            self._look_at = now + self._quiet * (not self._more)
        self.pause = max(0.0, min(self._look_at - now, self._text_left()))
        return events

    @property
    def _awaits_text(self) -> bool:
        """Whether a reply may be under way, which is told here while it is being made."""
        state = self.state
        if state is None or self._more or not (self._wants_text and state.stream):
            return False
        return not state.ledger and state.status in ("pending", "running")

    def _text_left(self) -> float:
        """Seconds until the growing text is read again: a long one is written, and so read, less often."""
        if not self._awaits_text:
            return inf
        return max(0.0, self._read_at + self._text_pause - time.monotonic())

    @property
    def _text_pause(self) -> float:
        """Until there may be more of the reply; longer when there was nothing for a while: nobody may be at
        work on the run."""
        said = self._told.cursor.said
        quiet = (time.monotonic() - self._news_at) / QUIET_LOOKS
        return max(live.pause_after(said.letters if said else 0), min(quiet, MOST_PAUSE))

    async def _saved(self) -> list[StreamEvent]:
        state = await self._load()
        if self.state is not None and state.version == self.state.version and not self._more:
            return []
        self._read_at = -inf  # what is said from now on may be another attempt's
        page = await self._store.get_history(self._run_id, self._told.needs, PAGE)
        # A commit may have come in between: its messages are told when its state is known.
        messages = [message for message in page if message.seq < state.message_count]
        events = [event for message in messages for event in self._told.message(message)]
        self.state, self._more = state, len(messages) == PAGE
        if self._more:
            return events
        events += self._told.completed(state)
        self.over = state.over
        if state.over:
            events += self._told.end(state)
        return events

    async def _load(self) -> RunState:
        state = await self._store.load_run(self._run_id)
        if state.unfinished_copy:  # it is no run yet, whatever its status says
            raise StoreUnavailableError(
                f"Run {self._run_id} is being copied into this store: the same copy again ends it."
            )
        if self._told.cursor.seq >= state.message_count:
            raise InvalidInputError(
                f"This cursor is of more than run {self._run_id} has: its store was set back, or it was "
                "deleted and begun again. Read it from its beginning, without a cursor."
            )
        if self._wants_text and not (state.stream or state.over or state.copied == state.version):
            return await self._ask(state)
        return state

    async def _ask(self, state: RunState) -> RunState:
        """Note in the run that its text is wanted: whoever works on it sees that with its next look. Claim
        and nonce stay, as with every commit by somebody else than the holder. Where nothing can be written,
        each reply is told when it is saved."""
        asked = state.model_copy(update={"stream": True, "version": state.version + 1})
        try:
            await self._store.save_run(asked, [])
        except ConflictError:
            return state  # next time
        except StoreError as exc:
            self._refused += not exc.retryable  # one that is away takes it later
            self._wants_text = self._refused < MOST_REFUSED
            return state
        return asked

    async def _grown(self) -> list[StreamEvent]:
        """The next piece of the reply that is being made."""
        self._read_at = time.monotonic()
        growing = await live.read(self._store, self._run_id)
        if self.state is None or growing is None or growing.iteration != self.state.iteration + 1:
            return []
        return self._told.growing(growing)


class _Told:
    """What a reader was told: makes the events that come next, and moves the cursor with each."""

    def __init__(self, run_id: str, cursor: Cursor) -> None:
        self.cursor = cursor
        self._run_id = run_id
        self._resumed = cursor.seq >= 0
        self._open = 0  # the iteration of the last message, where its end was not told
        self._parts = 0  # the events of the last message
        self._at: datetime | None = None

    @property
    def needs(self) -> int:
        """After which message to read on: one that was told in part is read again."""
        return self.cursor.seq - self._resumed

    def message(self, message: Message) -> list[StreamEvent]:
        """The events of the next message; before them the end of the iteration that it does not belong to."""
        facts = facts_of(message)
        if self._resumed and message.seq == self.cursor.seq:
            events, told = [], self.cursor.part
        else:
            events, told = self._iteration_before(message.iteration), 0
        self._resumed = False
        self._open = message.iteration if told <= len(facts) else 0
        self._parts, self._at = len(facts), message.created_at
        if message.role == "assistant" and self.cursor.said is not None:
            events += self._settle_text(message, facts)
        for part, fact in enumerate(facts[told:], told + 1):
            self._move(message.seq, part)
            if fact.get("text") != "" or fact["kind"] != "text":
                events.append(self._event(**fact))
        return events

    def completed(self, state: RunState) -> list[StreamEvent]:
        """The end of the last message's iteration, where there is nothing more of it to come."""
        return self._iteration_before(state.iteration + 1)

    def end(self, state: RunState) -> list[StreamEvent]:
        """The end of the run, once. Text that is in no message is void."""
        if self.cursor.end == state.version:
            return []
        events = self._supersede()
        self.cursor = replace(self.cursor, end=state.version)
        facts = {"status": state.status, "output": state.output, "error": state.error}
        return [*events, self._event(kind="end", iteration=state.iteration, at=state.updated_at, **facts)]

    def growing(self, live_text: LiveText) -> list[StreamEvent]:
        """The next piece of a reply that is being made. Of two attempts the later one counts."""
        said, text = self.cursor.said, live_text.text
        iteration, version = live_text.iteration, live_text.version
        if said is not None and (iteration, version) < (said.iteration, said.version):
            return []
        same = said is not None and (said.iteration, said.version) == (iteration, version)
        events = [] if same and said is not None and said.begins(text) else self._supersede()
        begin = self.cursor.said.letters if self.cursor.said else 0
        if len(text) > begin:
            self.cursor = replace(self.cursor, said=Said.of(iteration, version, text), end=0)
            events.append(self._event(kind="text", iteration=iteration, text=text[begin:]))
        return events

    def _settle_text(self, message: Message, facts: list[dict[str, Any]]) -> list[StreamEvent]:
        """Leave out of a saved reply what was told of it; else say that that was another attempt's."""
        said = self.cursor.said
        if said is None or said.iteration != message.iteration or not said.begins(message.text):
            return self._supersede()
        self.cursor = replace(self.cursor, said=None)
        facts[0]["text"] = message.text[said.letters :]
        return []

    def _supersede(self) -> list[StreamEvent]:
        said = self.cursor.said
        if said is None:
            return []
        self.cursor = replace(self.cursor, said=None)
        return [self._event(kind="superseded", iteration=said.iteration)]

    def _iteration_before(self, iteration: int) -> list[StreamEvent]:
        ended = self._open
        if not 1 <= ended < iteration:
            return []
        self._open = 0
        self._move(self.cursor.seq, self._parts + 1)
        return [self._event(kind="iteration", iteration=ended, at=self._at)]

    def _move(self, seq: int, part: int) -> None:
        """Go on; a saved reply takes the place of what was told of it before."""
        self.cursor = replace(self.cursor, seq=seq, part=part, end=0)

    def _event(self, **facts: Any) -> StreamEvent:
        return StreamEvent(run_id=self._run_id, cursor=str(self.cursor), **facts)
