"""Every plug point with its contract: `OrmAdapter`, `ModelProvider`, `Executor`.

Any object with these methods is one; nothing needs to be subclassed.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable
from uuid import uuid4

from pydantic_core import from_json

from thoughtgear.errors import ConfigurationError, InvalidInputError
from thoughtgear.models import LONGEST_HOLD, Message, Native, RunState, Status, Usage

Reach = Literal["process", "host", "network"]
"""How far a store can be shared: within one process, by the processes of one host, or over the network."""

Collection = Literal["cache", "memory", "files"]


@dataclass(frozen=True)
class Document:
    """A small record outside the transcript. `tag` changes with every write of the key."""

    key: str
    value: bytes
    tag: str


@dataclass(frozen=True)
class RunFilter:
    """Which runs `list_runs` returns; what is None is not looked at. `metadata`: all pairs must be equal.
    Raises `InvalidInputError` for metadata that is no JSON and text that is not Unicode."""

    status: Status | None = None
    handler: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        labels = (self.status, self.handler, self.session_id, self.user_id)
        try:
            text = json.dumps([*labels, dict(self.metadata)], ensure_ascii=False)
            from_json(text)  # which nests as deep as a stored record may
            text.encode()
        except (TypeError, ValueError, RecursionError) as exc:
            raise InvalidInputError("A filter's texts are Unicode, and its metadata is plain JSON.") from exc
        if not all(label is None or isinstance(label, str) for label in labels):
            raise InvalidInputError("A filter's status, handler, session_id and user_id are texts.")

    def matches(self, state: RunState) -> bool:
        """Whether the run passes the filter."""
        wanted = (self.status, self.handler, self.session_id, self.user_id)
        found = (state.status, state.handler, state.session_id, state.user_id)
        plain = all(want in (None, got) for want, got in zip(wanted, found, strict=True))
        return plain and self.matches_metadata(state)

    def matches_metadata(self, state: RunState) -> bool:
        """Whether all pairs are equal as JSON: 1, 1.0 and true are three values."""
        return all(
            key in state.metadata and _canonical(state.metadata[key]) == _canonical(value)
            for key, value in self.metadata.items()
        )


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)


@dataclass(frozen=True)
class RunPage:
    """One page of `list_runs`; `after` continues it, None ends it.

    `damaged` says by run id why the store leaves a run out: its record can't be read. Where the store can't
    tell whether a filter lets such a run pass, or on which page it stands, it is named all the same.
    """

    runs: list[RunState]
    after: str | None = None
    damaged: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class OrmAdapter(Protocol):
    """A store: eight methods, and `aclose`.

    What holds for all of them:

    - An answer is the newest acknowledged state: reads go to the primary.
    - Values go in and come out as copies; changing one never changes the store.
    - A driver's error is translated once: `StoreUnavailableError` where the outcome may be unknown or a
      retry may help, `StoreError` else, `from exc`. Connection strings and credentials are in no message.
    - A record whose `format` is newer than `models.FORMAT` raises `NewerFormatError`.
    - A collection, key, prefix, value, tag, cursor, seq or limit that can't be one raises
      `InvalidInputError`.
    - Cancelling the caller never leaves a write that lands later: a write is finished, or never begun.
    - The methods may be called from several tasks, and from several event loops one after the other.
    """

    reach: Reach

    async def load_run(self, run_id: str) -> RunState:
        """Return the state. Raises `RunNotFoundError` (also for a deleted run)."""
        ...

    async def save_run(
        self, state: RunState, messages: Sequence[Message], *, expected: int | None = None
    ) -> None:
        """Commit: write the state and append the messages, all or nothing.

        `state.version` is the version that this commit makes. The store must stand at the one before (at
        none for 1), else `ConflictError`, and nothing is written. The messages are the last ones:
        their seqs end at `state.message_count - 1` and begin at the stored `message_count`; anything else
        is a `StoreError` and nothing is written. To create a run that was deleted is a `ConflictError`
        as long as its tombstone stands.

        `expected` names an earlier version at which the store must stand instead (0: at none), so that a
        copy of a run gets the version of its original, which drivers have been told, and not the number of
        writes that the copying took. One that is not below `state.version` is a `StoreError`.
        """
        ...

    async def list_runs(
        self, where: RunFilter = RunFilter(), *, after: str | None = None, limit: int = 100
    ) -> RunPage:
        """Return runs, newest first by (`created_at`, `run_id`), from a cursor that stays right while
        runs come and go. A cursor that this store did not give raises `InvalidInputError`."""
        ...

    async def delete_run(self, run_id: str) -> None:
        """Delete state and messages, and the run's documents in `files` (keys `{run_id}/…`). Leaves a
        tombstone for a day, so that a late writer can't bring the run back. Called again meanwhile it
        removes what a deletion that died half way, or a late writer, left. Absent: nothing happens."""
        ...

    async def get_history(self, run_id: str, after: int = -1, limit: int | None = None) -> list[Message]:
        """Return the messages with a seq above `after`, in order. An absent run has none."""
        ...

    async def get_document(self, collection: Collection, key: str) -> Document | None:
        """Return a document, or None."""
        ...

    async def put_document(
        self, collection: Collection, key: str, value: bytes | None, *, tag: str | None
    ) -> str | None:
        """Create (`tag` None: the key must be absent) or replace (`tag` must be the current one).

        `value` None deletes. Returns the new tag (None after a delete). Raises `ConflictError`.
        Keys are any text up to 512 bytes, without control characters.
        """
        ...

    async def list_documents(
        self, collection: Collection, prefix: str = "", *, after: str = "", limit: int = 1000
    ) -> list[str]:
        """Return keys that begin with `prefix` and sort (by code point) above `after`."""
        ...

    async def aclose(self) -> None:
        """Free connections and threads. Closing twice is fine."""
        ...


@dataclass(frozen=True)
class SchemaUpgrade:
    """What an upgrade did: the schema's version `before` (None: there was no schema) and `after`."""

    before: int | None
    after: int


@runtime_checkable
class Upgradable(Protocol):
    """What a store has beside its eight methods when it outlives its process: `thoughtgear db upgrade`."""

    async def upgrade(self) -> SchemaUpgrade:
        """Bring the store to the version of this code, or make it; nothing is lost on the way. From any
        number of processes at once it is done once. Raises `SchemaVersionError` for a newer version."""
        ...


@dataclass(frozen=True)
class ToolSpec:
    """A tool as the model sees it: `parameters` is a JSON Schema of type object."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class OutputSpec:
    """What the final answer has to be: `schema` is a JSON Schema of type object."""

    name: str
    schema: dict[str, Any]

    @property
    def instruction(self) -> str:
        """What a model is told, of a provider that can't hold it to the schema."""
        schema = json.dumps(self.schema, ensure_ascii=False)
        return (
            "Your final answer is one JSON object and nothing else: no text around it, no code fence. It "
            f"fits this JSON Schema:\n{schema}"
        )

    @property
    def closed(self) -> bool:
        """Whether every object of the schema names all its fields and wants all of them, and nothing is in it
        that a provider may not hold a model to: else it would refuse the request."""
        return _closed(self.schema)


STRICT = frozenset(
    ("$defs", "$ref", "additionalProperties", "anyOf", "const", "description", "enum", "exclusiveMaximum")
    + ("exclusiveMinimum", "format", "items", "maxItems", "maximum", "minItems", "minimum", "multipleOf")
    + ("pattern", "properties", "required", "title", "type")
)
"""Keywords of a schema that OpenAI holds a model to strictly. Others, such as `oneOf` and `prefixItems`, it
refuses."""
FORMATS = frozenset(("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uuid"))


def _closed(node: Any) -> bool:
    """Whether a schema can be held to strictly."""
    if not isinstance(node, dict) or not node.keys() <= STRICT:
        return False
    if not node.keys() & {"type", "$ref", "anyOf", "enum", "const"}:  # any value at all
        return False
    if "(?" in node.get("pattern", "") or node.get("format", "date") not in FORMATS:
        return False
    names = node.get("properties", {})
    if node.get("type") == "object" and (
        node.get("additionalProperties") is not False or set(node.get("required", [])) != set(names)
    ):
        return False
    if node.get("type") == "array" and "items" not in node:
        return False
    below = [*names.values(), *node.get("$defs", {}).values(), *node.get("anyOf", ())]
    return all(map(_closed, [*below, *([node["items"]] if "items" in node else [])]))


@dataclass(frozen=True)
class ModelRequest:
    """One model call. `messages` is complete turns: every tool call has its result, in the order of the
    calls. `files` holds the bytes of the attachments by sha256. `options` goes to the provider as it is.
    `output` is what the final answer has to be, where it is more than text; the handler checks it."""

    context: str
    messages: Sequence[Message]
    tools: Sequence[ToolSpec] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    output: OutputSpec | None = None

    @property
    def instructed_context(self) -> str:
        """The context, with what the final answer has to be said in words."""
        if self.output is None:
            return self.context
        return f"{self.context}\n\n{self.output.instruction}".lstrip()


@dataclass(frozen=True)
class RequestedCall:
    """A tool call as the provider gave it: its wire name, and the arguments as JSON text. Not `whole`: the
    reply ended, at a limit of tokens for example, before the call did; it will not be run."""

    name: str
    arguments: str
    whole: bool = True


@dataclass(frozen=True)
class ModelReply:
    """What the model answered. With calls, the run goes on; without, `text` is the answer. `native` is what
    its provider wants back beside them. `passed_over` names the models that should have answered, each with
    why it did not. `model` is what answered, `asked` the name that was asked for, and `host` who was asked:
    they say what the reply costs; `also_paid` are replies of models that were passed over, as far as these
    had counted them. `stop_reason` is `stop`, `tool_calls`, `length`, `content_filter` or a word of the
    provider's own."""

    text: str = ""
    calls: Sequence[RequestedCall] = ()
    usage: Usage = field(default_factory=Usage)
    model: str | None = None
    stop_reason: str | None = None
    request_id: str | None = None
    native: Native | None = None
    passed_over: Sequence[str] = ()
    asked: str | None = None
    host: str | None = None
    also_paid: Sequence[ModelReply] = ()

    @property
    def bought(self) -> list[ModelReply]:
        """All that was paid for to have this one, which is the last."""
        return [*self.also_paid, self]


OnText = Callable[[str], Awaitable[None]]


@runtime_checkable
class ModelProvider(Protocol):
    """A language model. `model` is the name that the UI and the transcript show.

    `reply` makes exactly one request, with no retries of its own: retrying belongs to the executor. It
    hands each piece of text to `on_text` as it comes. It raises `ModelUnavailableError` (network,
    time-out, 408, 409, 429, 5xx, a stream cut short; `begun` where a reply is lost) or `ModelRejectedError`,
    whose messages hold neither the prompt nor the key. It stops reading a reply that grows without end.
    Cancelling it closes the request, and so does an error that `on_text` raises.
    """

    model: str

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply: ...

    async def aclose(self) -> None: ...


def check_hold(seconds: float) -> float:
    """Return for how many seconds a claim keeps others off. Raises `ConfigurationError`."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST_HOLD:
        raise ConfigurationError(f"A claim lasts for 0 to {LONGEST_HOLD:.0f} seconds; a long step renews it.")
    return seconds


DIRECT = "direct"
"""The driver of who asks for an iteration by hand, and for no other after it."""


@dataclass(frozen=True)
class Attempt:
    """How a driver tries an iteration.

    `scope` is what the driver serialises by itself (an activity, a local loop): only a later attempt of the
    same scope may take over a live claim. `number` counts the tries, from 1. `serialised`: no other first
    attempt can be under way, so that the claim may wait for the first commit. That holds within a `lane`, the
    workflow that drives the run: two of them on one run can't know of each other. `keep_claim`: the driver
    runs the next iteration, too. `version` is the last one that the driver saw acknowledged; `acknowledged`
    is told every newer one. `watch` is the seconds between two looks at the store during a long step,
    `hold` how long the claim keeps others off after its last commit; a long step renews it. `epoch` is the
    claim's at which this attempt may begin (None: any); at another one it is superseded. Raises
    `ConfigurationError` for a `hold` beyond `models.LONGEST_HOLD`.
    """

    driver: str = DIRECT
    scope: str = field(default_factory=lambda: uuid4().hex)
    number: int = 1
    serialised: bool = False
    lane: str = ""
    keep_claim: bool = False
    version: int = 0
    acknowledged: Callable[[int], None] | None = None
    watch: float = 1.0
    hold: float = 30.0
    epoch: int | None = None

    def __post_init__(self) -> None:
        check_hold(self.hold)


@runtime_checkable
class Executor(Protocol):
    """What drives the next iteration.

    `schedule_next_iteration` returns when the iteration is certain to be driven; calling it N times, from
    anywhere, drives it once. What else an executor may have, and what is taken where it hasn't:

    - `bind(handler)`: called by the handler that it is given to. Raises `ConfigurationError`.
    - `self_driving: bool = False`: it runs the iterations by itself (local, Temporal); else `continue_run`
      runs one and schedules the next.
    - `waits: bool = False`: `handle_prompt` by default resolves at the end of the run.
    - `wait(run_id)`: returns when the run may be over.
    - `cancel(run_id) -> bool`: cancels what drives the run; False when nothing here does.
    - `aclose()`: called by the handler's `aclose`.
    - `pace: Pace`: how long the runs wait between two iterations.
    - `members`, `names`: the executors in it, and the names of all that may drive a run for it.
    """

    name: str

    async def schedule_next_iteration(self, run_id: str) -> None: ...
