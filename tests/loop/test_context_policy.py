"""What of a long conversation is sent."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thoughtgear import Trim
from thoughtgear.context import LEFT_OUT, tokens_of
from thoughtgear.errors import ConfigurationError
from thoughtgear.handler import PromptHandler
from thoughtgear.models import Message, ToolCall, ToolResult
from thoughtgear.prompts import File
from thoughtgear.protocols import ModelReply, ModelRequest, OnText
from thoughtgear.providers.scripted import ScriptedProvider, call
from thoughtgear.tools import tool

BUDGET = 1000


def said(role: str, letters: int) -> list[Message]:
    return [Message(seq=0, role=role, text="x" * letters)]  # type: ignore[arg-type]


def called(letters: int, calls: int) -> list[Message]:
    asked = [ToolCall(id=f"1.{n}", name="look") for n in range(calls)]
    results = [ToolResult(call_id=each.id, name="look", content="y" * letters) for each in asked]
    tools = [Message(seq=0, role="tool", tool_result=result) for result in results]
    return [Message(seq=0, role="assistant", tool_calls=asked), *tools]


LETTERS = st.integers(1, 2500)
TURNS = st.lists(
    st.one_of(
        st.builds(said, st.just("user"), LETTERS),
        st.builds(said, st.just("assistant"), LETTERS),
        st.builds(called, LETTERS, st.integers(1, 3)),
    ),
    max_size=30,
)


def flat(turns: Sequence[list[Message]]) -> list[Message]:
    return [message for turn in turns for message in turn]


@settings(max_examples=300, deadline=None)
@given(TURNS, TURNS)
def test_what_is_sent_is_whole_turns_and_every_word_to_the_run(
    before: list[list[Message]], after: list[list[Message]]
) -> None:
    """What is sent are turns of the conversation in their order, each whole; it begins with the user, has all
    that was said to the run, and fits, unless what has to be sent does not."""
    earlier, own = flat([said("user", 5), *before]), flat([said("user", 9), *after])
    sent = Trim(BUDGET).fit(earlier, own, "context", [])
    kept = [message for message in sent if message.text != LEFT_OUT]
    wanted = {id(message) for message in own if message.role == "user"}
    assert wanted <= set(map(id, kept))
    places = {id(message): place for place, message in enumerate([*earlier, *own])}
    assert [places[id(message)] for message in kept] == sorted(places[id(message)] for message in kept)
    assert sent[0].role == "user"
    asked = [each for message in kept for each in message.tool_calls]
    assert len(asked) == sum(message.role == "tool" for message in kept)
    assert (len(kept) < len(places)) == (sum(message.text == LEFT_OUT for message in sent) == 1)
    last = kept[-1:] if kept[-1].role != "tool" else kept[-4:]
    needed = sum(tokens_of(message) for message in kept if id(message) in wanted or message in last)
    assert sum(map(tokens_of, kept)) <= BUDGET or needed > BUDGET // 2


@settings(max_examples=100, deadline=None)
@given(TURNS)
def test_from_one_cut_to_the_next_the_beginning_stays(after: list[list[Message]]) -> None:
    """A longer conversation is sent with the shorter one's beginning, or is cut anew, which frees half of the
    budget for what is not the user's."""
    turns = [said("user", 9), *after]
    cuts = 0
    before: list[Message] = []
    for length in range(1, len(turns) + 1):
        sent = Trim(BUDGET).fit([], flat(turns[:length]), "", [])
        same = [message.text for message in sent[: len(before)]] == [message.text for message in before]
        cuts += not same
        before = sent
    optional = sum(tokens_of(message) for message in flat(turns) if message.role != "user")
    required = sum(tokens_of(message) for message in flat(turns) if message.role == "user")
    if required < BUDGET // 4:
        assert cuts <= 1 + optional // (BUDGET // 4)


class Model(ScriptedProvider):
    """A scripted model that shows what it was asked."""

    requests: list[ModelRequest]

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        self.requests = [*getattr(self, "requests", []), request]
        return await super().reply(request, on_text)


@tool
def look(path: str) -> str:
    """Look at a file."""
    return path * 100


async def test_a_long_run_stays_within_its_budget_and_its_transcript_whole() -> None:
    """A run of many iterations sends its prompt and its newest turns; files of what is left out are not
    loaded; the store has it all."""
    lines = iter([*([call("look", path="abcd")] for _ in range(40)), "Done.", "And done."])
    model = Model(replies=lambda request: next(lines))
    async with PromptHandler(
        model=model, db="memory://", tools=[look], context_policy=Trim(tokens=BUDGET)
    ) as handler:
        state = await handler.handle_prompt(
            "Look.", session_id="s", files=[File("a.txt", b"hi", "text/plain")]
        )
        history = await handler.history(state.run_id)
        again = await handler.handle_prompt("Once more. " * 300, session_id="s")
    assert (state.status, len(history), again.output) == ("done", 82, "And done.")
    assert max(sum(map(tokens_of, request.messages)) for request in model.requests[:41]) <= BUDGET
    assert all(request.messages[0].text == "Look." and request.files for request in model.requests[:41])
    last = model.requests[-1]
    assert (last.messages[0].text, last.files) == (LEFT_OUT, {})


def test_a_policy_that_is_none_is_refused() -> None:
    """A budget is a whole number that leaves room for something."""
    for wrong in (0, 999, 1e5, True, "1000"):
        with pytest.raises(ConfigurationError, match="1,000 or more"):
            Trim(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"context_policy is None, Trim.* or Summarise"):
        PromptHandler(model="scripted:echo", db="memory://", context_policy="trim")  # type: ignore[arg-type]
