"""What of a long conversation is sent: all of it, or its newest turns within a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from thoughtgear.errors import ConfigurationError
from thoughtgear.models import Message
from thoughtgear.protocols import ToolSpec

LETTERS_A_TOKEN = 4
FILE_TOKENS = 2000
"""Of a file that is no text, roughly."""
MESSAGE_TOKENS = 10
"""What stands around a message."""

LEFT_OUT = "(Earlier messages of this conversation are left out here, to fit into the context.)"


@dataclass(frozen=True)
class Trim:
    """Sends at most about `tokens`: beyond them the oldest turns are left out, until half of them are free,
    so that the provider's prompt cache holds from one cut to the next.

    A turn, which is a reply with the results of its calls, is sent whole or not at all. The prompt of the run
    and the messages to it are always sent. The transcript in the store is not cut. Tokens are estimated, at
    four letters each. Raises `ConfigurationError`.
    """

    tokens: int

    def __post_init__(self) -> None:
        if not isinstance(self.tokens, int) or isinstance(self.tokens, bool) or self.tokens < 1000:
            raise ConfigurationError(f"{type(self).__name__}(tokens=…) is a whole number of 1,000 or more.")

    @property
    def note_tokens(self) -> int:
        """What is kept free for what stands in place of the turns that are left out."""
        return 0

    @property
    def worth(self) -> int:
        """How many tokens a cut frees at least: less than that is sent beyond the budget."""
        return 0

    def fit(
        self, earlier: Sequence[Message], own: Sequence[Message], context: str, tools: Sequence[ToolSpec]
    ) -> list[Message]:
        """Return what is sent of the session's earlier messages and of the run's own. It depends on what was
        said alone: the same conversation is always cut at the same places."""
        return self.plan([("", message) for message in earlier], "", own, context, tools).joined(LEFT_OUT)

    def plan(
        self,
        earlier: Sequence[tuple[str, Message]],
        run_id: str,
        own: Sequence[Message],
        context: str,
        tools: Sequence[ToolSpec],
    ) -> Plan:
        """Return where the conversation is cut. `earlier` has each message with its run's id."""
        turns = [Part(run, turn, True) for run, turn in _turns(earlier)]
        turns += [Part(run_id, turn, turn[0].role != "user") for _, turn in _turns([("", m) for m in own])]
        sizes = [sum(map(tokens_of, part.turn)) for part in turns]
        fixed = (len(context) + sum(len(repr(spec)) for spec in tools)) // LETTERS_A_TOKEN
        return Plan(turns, self._cuts(turns, sizes, fixed), sizes, fixed, self)

    def _cuts(self, turns: Sequence[Part], sizes: Sequence[int], total: int) -> list[int]:
        oldest, free, cuts = 0, 0, list[int]()  # turns before the oldest are left out where they may be
        for position, size in enumerate(sizes):
            total += size
            if total > self.tokens and free > self.worth:
                total += 0 if cuts else self.note_tokens
                last = oldest
                while oldest < position and total > self.tokens // 2:
                    gone = sizes[oldest] if turns[oldest].optional else 0
                    total, free, oldest = total - gone, free - gone, oldest + 1
                    last = oldest if gone else last
                cuts.append(last)
            free += size if turns[position].optional else 0
        return cuts


@dataclass(frozen=True)
class Summarise(Trim):
    """Like `Trim`, and in place of what is left out stands a summary that the model writes, one for each cut,
    out of the one before it and the turns since. It is bought once and kept in the store; where it can't be
    had, a note stands there. Where what is always sent takes nearly all of the budget or more, an eighth of
    it may be sent on top: a summary is not bought for each turn. Raises `ConfigurationError`."""

    @property
    def worth(self) -> int:
        return self.tokens // 8

    @property
    def note_tokens(self) -> int:
        return min(2000, self.tokens // 8)

    @property
    def summary_letters(self) -> int:
        """How long a summary may be."""
        return self.note_tokens * LETTERS_A_TOKEN


@dataclass(frozen=True)
class Part:
    """A turn of a conversation with the id of its run; what is not `optional` is always sent."""

    run_id: str
    turn: list[Message]
    optional: bool


@dataclass(frozen=True)
class Plan:
    """A conversation and where it is cut: of the turns before each of `cuts` those that may be left out are.
    `sizes` are those of the turns, `fixed` is that of what is no turn, in tokens."""

    parts: Sequence[Part]
    cuts: Sequence[int]
    sizes: Sequence[int]
    fixed: int
    policy: Trim

    def fits(self, cut: int) -> bool:
        """Whether what is sent is within the budget with this cut, or would be hardly less by another one."""
        last = len(self.parts) - 1  # which is sent in any case
        optional = [part.optional and place < last for place, part in enumerate(self.parts)]
        kept = sum(size for size, may_go in zip(self.sizes[cut:], optional[cut:], strict=True) if may_go)
        needed = sum(size for size, may_go in zip(self.sizes, optional, strict=True) if not may_go)
        whole = self.fixed + needed + kept + self.policy.note_tokens
        return whole <= self.policy.tokens or kept <= self.policy.worth

    def joined(self, note: str, cut: int | None = None) -> list[Message]:
        """What is sent by a cut, which is the last of `cuts` unless another is given: a note stands in place
        of the last turn that is left out."""
        cut = (self.cuts[-1] if self.cuts else 0) if cut is None else cut
        made: list[Message] = []
        for position, part in enumerate(self.parts):
            if position == cut and cut:
                made.append(Message(seq=part.turn[0].seq, role="user", text=note))
            if position >= cut or not part.optional:
                made += part.turn
        return made


def check_policy(policy: Trim | None) -> Trim | None:
    """Return the policy. Raises `ConfigurationError` for what is none."""
    if policy is not None and not isinstance(policy, Trim):
        raise ConfigurationError("context_policy is None, Trim(tokens=…) or Summarise(tokens=…).")
    return policy


def _turns(messages: Sequence[tuple[str, Message]]) -> list[tuple[str, list[Message]]]:
    turns: list[tuple[str, list[Message]]] = []
    for run_id, message in messages:
        if message.role == "tool" and turns:
            turns[-1][1].append(message)
        else:
            turns.append((run_id, [message]))
    return turns


def tokens_of(message: Message) -> int:
    """Estimate what a message costs."""
    return MESSAGE_TOKENS + sum(_letters(message)) // LETTERS_A_TOKEN + sum(_files(message))


def _letters(message: Message) -> Iterator[int]:
    yield len(message.text)
    yield len(message.tool_result.content) if message.tool_result else 0
    yield message.native.size if message.native else 0
    for call in message.tool_calls:
        yield len(call.name) + len(str(call.arguments))


def _files(message: Message) -> Iterator[int]:
    for attachment in message.attachments:
        text = attachment.media_type.startswith("text/")
        yield attachment.size // LETTERS_A_TOKEN if text else FILE_TOKENS
