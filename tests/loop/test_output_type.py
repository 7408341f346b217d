"""Final answers that have to fit a pydantic model."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator

from thoughtgear.errors import ConfigurationError
from thoughtgear.handler import PromptHandler
from thoughtgear.protocols import ModelReply, ModelRequest, OnText
from thoughtgear.providers.scripted import ScriptedProvider, call
from thoughtgear.structured import OutputType
from thoughtgear.tools import tool


class Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    what: str
    cents: int = Field(ge=0)


class Invoice(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int
    lines: list[Line]


class Model(ScriptedProvider):
    """A scripted model that shows what it was asked."""

    def __init__(self, *replies: Any) -> None:
        super().__init__(replies=list(replies))
        self.requests: list[ModelRequest] = []

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        self.requests.append(request)
        return await super().reply(request, on_text)


@tool
def look(path: str) -> str:
    """Look at a file."""
    return "seen"


GOOD = '{"number": 7, "lines": [{"what": "tea", "cents": 250}]}'
BAD = '{"number": "seven", "lines": [{"what": "tea", "cents": -1}], "total": 3}'


def handler(*replies: Any, **settings: Any) -> tuple[PromptHandler, Model]:
    model = Model(*replies)
    made = PromptHandler(model=model, db="memory://", output_type=Invoice, tools=[look], **settings)
    return made, model


@pytest.mark.parametrize("text", [GOOD, f"```json\n{GOOD}\n```", f"\n```\n{GOOD}\n```\n", f"  {GOOD}\n"])
async def test_an_answer_that_fits_is_the_output(text: str) -> None:
    """The output is the JSON that the model of the type reads, without a code fence; tools come first."""
    agent, model = handler([call("look", path="a")], text)
    async with agent:
        state = await agent.handle_prompt("Read it.")
        history = await agent.history(state.run_id)
    assert (state.status, state.output, state.sent_back) == ("done", GOOD, 0)
    assert Invoice.model_validate_json(state.output or "").number == 7
    assert history[-1].text == text  # the transcript has what was said
    assert model.requests[0].output == OutputType(Invoice).spec


async def test_an_answer_that_does_not_fit_is_sent_back_once() -> None:
    """The model reads what is wrong, each problem with its place, and answers again."""
    agent, _ = handler(BAD, GOOD)
    async with agent:
        state = await agent.handle_prompt("Read it.")
        history = await agent.history(state.run_id)
    assert (state.status, state.output, state.sent_back, state.iteration) == ("done", GOOD, 1, 2)
    assert [message.role for message in history] == ["user", "assistant", "user", "assistant"]
    assert [message.seq for message in history] == [0, 1, 2, 3]
    told = history[2].text
    assert all(name in told for name in ("number: ", "cents: ", "total': no such field", "JSON Schema"))


@pytest.mark.parametrize(
    "text", ["", "null", "So sorry.", "[]", "{", "{}", '{"number": 1}', "\ud83d", "```\n```"]
)
async def test_a_second_answer_that_does_not_fit_fails_the_run(text: str) -> None:
    """A run whose answer was sent back already fails, and its error quotes nothing of it."""
    agent, model = handler(BAD, text, GOOD)
    async with agent:
        state = await agent.handle_prompt("Read it.")
        assert state.error is not None
        assert (state.status, state.error.type, len(model.requests)) == ("failed", "OutputInvalidError", 2)
        assert "seven" not in state.error.message
        state = await agent.retry(state.run_id)  # which knows what was wrong
        history = await agent.history(state.run_id)
    assert (state.status, state.output) == ("done", GOOD)
    assert [message.role for message in history[-3:]] == ["assistant", "user", "assistant"]


async def test_a_message_that_came_meanwhile_is_answered_instead() -> None:
    """An answer that does not fit is not the final one where a message waits: nothing is sent back."""
    agent, model = handler(GOOD)

    async with agent:
        state = await agent.create_run("Read it.")

        async def reply(request: ModelRequest, on_text: OnText) -> ModelReply:
            if len(model.requests) == 0:
                model.requests.append(request)
                await agent.send(state.run_id, "Hurry!")
                return ModelReply(text=BAD)
            return ModelReply(text=GOOD)

        model.reply = reply  # type: ignore[method-assign]
        state = await agent.continue_run(state.run_id)
        history = await agent.history(state.run_id)
    assert (state.status, state.output, state.sent_back) == ("done", GOOD, 0)
    assert [message.text for message in history] == ["Read it.", BAD, "Hurry!", GOOD]


def test_a_validator_of_the_models_own_may_raise_anything() -> None:
    """What a validator raises is a refusal, whatever it is."""

    class Odd(BaseModel):
        number: int

        @field_validator("number")
        @classmethod
        def check(cls, number: int) -> int:
            raise KeyError("secret")

    assert OutputType(Odd).check('{"number": 1}').refusal is not None


def test_a_type_that_is_none_is_refused() -> None:
    """An output_type is a pydantic model whose JSON is an object."""
    for wrong in (int, Invoice(number=1, lines=[]), "Invoice", RootModel[list[int]]):
        with pytest.raises(ConfigurationError, match="output_type"):
            PromptHandler(model="scripted:echo", db="memory://", output_type=wrong)  # type: ignore[arg-type]


def test_a_schema_is_closed_where_every_field_is_wanted() -> None:
    """Only a schema whose objects name and want all their fields can be held to strictly."""

    class Open(BaseModel):
        invoice: Invoice

    class Optional(BaseModel):
        model_config = ConfigDict(extra="forbid")
        number: int = 0

    assert OutputType(Invoice).spec.closed
    assert not OutputType(Open).spec.closed
    assert not OutputType(Optional).spec.closed
    assert json.dumps(OutputType(Invoice).spec.schema) in OutputType(Invoice).spec.instruction
