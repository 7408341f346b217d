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
            raise ConfigurationError("Trim(tokens=…) is a whole number of 1,000 or more.")

    def fit(
        self, earlier: Sequence[Message], own: Sequence[Message], context: str, tools: Sequence[ToolSpec]
    ) -> list[Message]:
        """Return what is sent of the session's earlier messages and of the run's own. It depends on what was
        said alone: the same conversation is always cut at the same places."""
        turns = [(turn, True) for turn in _turns(earlier)]
        turns += [(turn, turn[0].role != "user") for turn in _turns(own)]
        sizes = [sum(map(tokens_of, turn)) for turn, _ in turns]
        total = (len(context) + sum(len(repr(spec)) for spec in tools)) // LETTERS_A_TOKEN
        oldest = 0  # turns before it are left out where they may be
        for position, size in enumerate(sizes):
            total += size
            if total > self.tokens:
                while oldest < position and total > self.tokens // 2:
                    total -= sizes[oldest] if turns[oldest][1] else 0
                    oldest += 1
        return _joined(turns, oldest)


def check_policy(policy: Trim | None) -> Trim | None:
    """Return the policy. Raises `ConfigurationError` for what is none."""
    if policy is not None and not isinstance(policy, Trim):
        raise ConfigurationError("context_policy is None or Trim(tokens=…).")
    return policy


def _turns(messages: Sequence[Message]) -> list[list[Message]]:
    turns: list[list[Message]] = []
    for message in messages:
        if message.role == "tool" and turns:
            turns[-1].append(message)
        else:
            turns.append([message])
    return turns


def _joined(turns: Sequence[tuple[list[Message], bool]], oldest: int) -> list[Message]:
    """What is sent, with a note where the last of what is left out stood."""
    made: list[Message] = []
    for position, (turn, optional) in enumerate(turns):
        if position == oldest and any(each for _, each in turns[:oldest]):
            made.append(Message(seq=turn[0].seq, role="user", text=LEFT_OUT))
        if position >= oldest or not optional:
            made += turn
    return made


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
