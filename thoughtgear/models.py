"""The records that a store keeps.

They allow unknown fields and keep them, so that an older worker that saves a run written by a newer one
loses nothing.
"""

import time
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

FORMAT = 1
"""The format number of the records that this version writes."""

Status = Literal["pending", "running", "waiting", "done", "failed", "cancelled"]
OVER: frozenset[Status] = frozenset(("done", "failed", "cancelled"))
CallStatus = Literal["pending", "started", "waiting", "done", "failed", "unknown"]
ToolPolicy = Literal["idempotent", "at_most_once"]
OnUnknown = Literal["tell_model", "ask_person", "fail"]


def now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Moment = Annotated[datetime, AfterValidator(_aware)]
"""A point in time; one without a zone is in UTC."""


class Record(BaseModel):
    """A stored record: unknown fields survive a load and a save."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class Usage(Record):
    """Tokens, as the provider counted them. Those that a prompt cache gave (`cached`) or took
    (`cache_write`) are among the input's, those of reasoning among the output's."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )


Paid = tuple[Usage, float | None]
"""What was counted of something that was bought, and its cost in US dollars; None where nobody knows it."""


class Bill(Record):
    """What was bought of models: US dollars, how many replies have a price, how many have none. `saved`
    are those with a price that are in the transcript: neither summaries nor lost ones."""

    spent: float = 0.0
    priced: int = 0
    unpriced: int = 0
    saved: int = 0

    def plus(self, cost: float | None, *, saved: bool = False) -> "Bill":
        """The bill with one more reply; of None nobody knows the price."""
        known = cost is not None
        return Bill(
            spent=self.spent + (cost or 0.0),
            priced=self.priced + known,
            unpriced=self.unpriced + (not known),
            saved=self.saved + (known and saved),
        )


class Attachment(Record):
    """A file of a prompt. Its bytes are stored once per run, under `{run_id}/{sha256}` in `files`."""

    name: str
    media_type: str
    size: int
    sha256: str


class ToolCall(Record):
    """A call that the model asked for. `id` is ours (`iteration.index`): providers repeat theirs.

    `arguments` is the JSON object, or the model's own text where that is not one. `cut`: the reply ended
    before the call did, so that it is not run.
    """

    id: str
    name: str
    arguments: dict[str, Any] | str = Field(default_factory=dict)
    cut: bool = False


class ToolResult(Record):
    """What a call gave. `unknown`: it was started and nobody can tell how it ended. `cached`: an earlier
    call gave it, and the tool did not run."""

    call_id: str
    name: str
    status: Literal["ok", "error", "unknown", "cancelled"] = "ok"
    content: str = ""
    cached: bool = False


class ReplyPart(Record):
    """A part of a reply in the provider's order: the next `letters` of its text, the call of that index, or
    neither. `own` is what the provider wants back with it: reasoning, a signature, an id."""

    letters: int = 0
    call: int | None = None
    own: dict[str, Any] = Field(default_factory=dict)


class Native(Record):
    """What a reply holds beside text and calls. Only the same provider and model gets it back: no other can
    read it."""

    provider: str
    model: str
    parts: list[ReplyPart] = Field(default_factory=list)

    @property
    def size(self) -> int:
        """What it takes up, roughly, in bytes."""
        return sum(len(repr(part.own)) for part in self.parts)


class Message(Record):
    """One entry of a transcript. `seq` is 0, 1, 2, … without gaps within the run. `passed_over` says why a
    reply is not by the handler's first model, where it has a fallback. `cost` is in US dollars, None where
    nobody knows it."""

    seq: int
    role: Literal["user", "assistant", "tool"]
    text: str = ""
    attachments: list[Attachment] = Field(default_factory=list)
    tool_calls: list[ToolCall] = Field(default_factory=list)
    tool_result: ToolResult | None = None
    native: Native | None = None
    passed_over: list[str] = Field(default_factory=list)
    iteration: int = 0
    usage: Usage | None = None
    cost: float | None = None
    model: str | None = None
    stop_reason: str | None = None
    request_id: str | None = None
    created_at: Moment = Field(default_factory=now)


class CallRecord(Record):
    """A row of the call ledger: where a call of the current iteration stands. `waiting`: its outcome is
    unknown, and a person is to say what it was."""

    call: ToolCall
    status: CallStatus = "pending"
    policy: ToolPolicy = "idempotent"
    on_unknown: OnUnknown = "tell_model"


class InboxItem(Record):
    """What someone sent to a run. A message enters the transcript before the next model call; what settles
    the call `call_id` becomes its result, made of `outcome` and `text`."""

    request_id: str
    kind: Literal["message", "cancel", "settle"] = "message"
    text: str = ""
    call_id: str | None = None
    outcome: Literal["done", "void", "unknown"] = "unknown"
    sent_at: Moment = Field(default_factory=now)


LONGEST_HOLD = 3600.0
"""Seconds that a claim lasts at the most after its last commit."""


class Claim(Record):
    """Who is at work on the run. The epoch is safety: a newer one fences older ones. The deadline (Unix
    seconds) is liveness: while it lies ahead, a duplicate delivery does nothing. `last` is the scope that
    gave the claim back, of a driver that invokes: that delivery, come again, goes on with the chain. `lane`
    is that of the last attempt that had one (see `Attempt`); `contested`: two drivers, or two lanes of one,
    have held the run, so that nobody buys anything without a claim any more."""

    epoch: int = 0
    owner: str = ""
    driver: str = ""
    deadline: float = 0.0
    last: str = ""
    lane: str = ""
    contested: bool = False

    def live(self) -> bool:
        return bool(self.owner) and self.deadline > time.time()

    def stuck(self) -> bool:
        """Whether the deadline is further ahead than any driver sets it, by another such hold, which allows
        for clocks that differ a little: some clock was wrong."""
        return bool(self.owner) and self.deadline > time.time() + 2 * LONGEST_HOLD


class Driver(Record):
    """What drives the run: the executor's name and, under Temporal, the workflow."""

    executor: str = "local"
    workflow_id: str | None = None


class Parent(Record):
    """The earlier run of the session that this one continues; `seq` is None until that run is over."""

    run_id: str
    seq: int | None = None


class RunError(Record):
    """Why a run failed: the error's class name and its message."""

    type: str
    message: str


UNFINISHED_COPY = "CopyUnfinishedError"
"""The type of the error of a run whose copy into this store has not ended."""


class RunState(Record):
    """The state of a run. Bounded: the transcript is apart. Only `save_run` changes it.

    `iteration` counts the completed ones, `message_count` is the next `seq`, `ledger` is of the current
    iteration only (empty means that no reply of it is saved), `nonce` is the last commit by the claim's
    holder, `absorbed` holds the request ids of messages that left the inbox, `lost_replies` counts those that
    broke off since one was saved, `sent_back` final answers that did not fit. `summarised` is how many turns
    of its conversation stand in summaries that are on its bill. `linked` is set on a run that
    has not begun when another one follows it in its session: it is in the chain, and not its end. Its clock
    runs from `started_at` on, which is None until it begins, or begins anew by a retry; it is `waiting` from
    `paused_at` on for a person, and `paused_seconds` is how long it waited before. `ended_by` names who ended
    it from outside, and will not do so a second time after a retry. `due_at` is when the iteration after its
    last one was to begin, where it has a pace. `copied` is set on a run that was copied
    here before it was done: as long as it equals `version`, nobody has gone on with the copy.
    """

    format: int = FORMAT
    run_id: str
    handler: str = "default"
    status: Status = "pending"
    version: int = 0
    nonce: str = ""
    created_at: Moment = Field(default_factory=now)
    updated_at: Moment = Field(default_factory=now)
    started_at: Moment | None = None
    paused_at: Moment | None = None
    paused_seconds: float = 0.0
    due_at: Moment | None = None
    session_id: str | None = None
    user_id: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    prompt_sha256: str = ""
    parent: Parent | None = None
    linked: bool = False
    copied: int | None = None
    iteration: int = 0
    message_count: int = 0
    model_replies: int = 0
    lost_replies: int = 0
    sent_back: int = 0
    summarised: int = 0
    usage: Usage = Field(default_factory=Usage)
    bill: Bill = Field(default_factory=Bill)
    ledger: list[CallRecord] = Field(default_factory=list)
    inbox: list[InboxItem] = Field(default_factory=list)
    absorbed: list[str] = Field(default_factory=list)
    claim: Claim = Field(default_factory=Claim)
    driver: Driver = Field(default_factory=Driver)
    stream: bool = False
    output: str | None = None
    error: RunError | None = None
    ended_by: str = ""

    @property
    def over(self) -> bool:
        """Whether the run has ended: done, failed or cancelled."""
        return self.status in OVER

    @property
    def cost(self) -> float | None:
        """What the run cost, in US dollars; None unless every reply has a price."""
        bill = self.bill
        whole = bill.priced and bill.saved >= self.model_replies and not bill.unpriced
        return bill.spent if whole else None

    @property
    def unfinished_copy(self) -> bool:
        """Whether a copy into this store has not ended: nothing may go on with it."""
        return self.error is not None and self.error.type == UNFINISHED_COPY

    @property
    def cancel_requested(self) -> bool:
        return any(item.kind == "cancel" for item in self.inbox)

    @property
    def mail(self) -> list[InboxItem]:
        """The messages of the inbox, oldest first."""
        return [item for item in self.inbox if item.kind == "message"]

    @property
    def unsettled(self) -> list[CallRecord]:
        """The calls that wait for a person, who has not said anything yet."""
        settled = {item.call_id for item in self.inbox if item.kind == "settle"}
        return [row for row in self.ledger if row.status == "waiting" and row.call.id not in settled]
