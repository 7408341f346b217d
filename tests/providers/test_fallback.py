"""Models that stand in for one another, over HTTP through the real handler."""

import io
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from dialects import ANTHROPIC, GEMINI, OPENAI
from replay_server import Replay, plain, replay, stream
from rich.console import Console

from thoughtgear.errors import ConfigurationError, ModelError, ModelRejectedError, ModelUnavailableError
from thoughtgear.handler import PromptHandler
from thoughtgear.models import Message, Usage
from thoughtgear.prices import Price
from thoughtgear.prompts import File
from thoughtgear.protocols import ModelReply, ModelRequest
from thoughtgear.providers import fallback
from thoughtgear.providers.fallback import FallbackModel
from thoughtgear.providers.scripted import ScriptedProvider
from thoughtgear.registry import open_models
from thoughtgear.render import RunView

BUSY = plain(529, b'{"error": {"type": "overloaded_error", "message": "SECRET"}}')
FIRST, SECOND = stream(ANTHROPIC.text("By the first.")), stream(GEMINI.text("By the second."))


@dataclass
class Pair:
    """Two servers that may change their answers, and a handler that asks them."""

    first: Replay
    second: Replay
    handler: PromptHandler
    texts: list[str] = field(default_factory=list)

    async def prompt(self, **options):
        state = await self.handler.handle_prompt("Hello", **options)
        return state, (await self.handler.history(state.run_id))[-1]

    @property
    def asked(self) -> tuple[int, int]:
        return len(self.first.bodies), len(self.second.bodies)


@pytest.fixture
def pair(tmp_path, quick):
    @asynccontextmanager
    async def opened(first, second, **settings):
        async with replay(first) as one, replay(second) as two:
            model, other = ANTHROPIC.make(one.base_url), GEMINI.make(two.base_url)
            db = f"sqlite:///{tmp_path}/r.db"
            async with PromptHandler(model=model, fallback=[other], db=db, **settings) as handler:
                yield Pair(one, two, handler)

    return opened


async def test_the_next_model_answers_when_one_is_out(pair):
    """A model that is overloaded is passed over at once; the reply names who gave it, and the transcript and
    the view of the run say why."""
    async with pair(BUSY, SECOND) as both:
        state, reply = await both.prompt()
        assert (state.status, state.output, reply.model) == ("done", "By the second.", "m-1")
        [note] = reply.passed_over
        assert note == "m-1: anthropic at 127.0.0.1: HTTP 529, overloaded_error"
        assert both.asked == (1, 1)
    err = io.StringIO()
    RunView(Console(file=io.StringIO()), Console(file=err, width=200)).message(reply)
    assert note in err.getvalue()


async def test_a_model_that_is_out_is_left_alone_for_a_while(pair):
    """It isn't asked for a few seconds, and then first again."""
    async with pair(BUSY, SECOND) as both:
        for _ in range(3):
            state, reply = await both.prompt()
            assert state.output == "By the second."
        assert both.asked == (1, 3)
        assert reply.passed_over == ["m-1: was out"]
        both.first.answer = FIRST
        both.handler.model._places[0].out_until = 0.0  # as if the while were over
        state, reply = await both.prompt()
    assert (state.output, reply.passed_over) == ("By the first.", [])


async def test_a_refusal_is_final(pair):
    """A request that the first model refuses is nobody else's."""
    async with pair(plain(401, b"{}"), SECOND) as both:
        state, _ = await both.prompt()
        assert (state.status, state.error.type, both.asked) == ("failed", "ModelRejectedError", (1, 0))


async def test_a_reply_that_broke_off_is_begun_anew_by_the_next_attempt(pair):
    """What was streamed is not gone on with by another model: the reply counts as lost, and the next attempt
    asks the next model."""
    async with pair(stream(ANTHROPIC.text("half", reason="")), SECOND) as both:
        pieces: list[str] = []
        state, reply = await both.prompt()
        assert (state.status, state.output, both.asked) == ("done", "By the second.", (1, 1))
        assert reply.passed_over == ["m-1: was out"]
        with pytest.raises(ModelUnavailableError) as caught:
            await FallbackModel([ANTHROPIC.make(both.first.base_url), both.handler.model]).reply(
                ModelRequest("", [Message(seq=0, role="user", text="Hi.")]), collect(pieces)
            )
        assert (caught.value.begun, pieces) == (True, ["half"])


def collect(pieces: list[str]):
    async def told(piece: str) -> None:
        pieces.append(piece)

    return told


async def test_a_model_that_says_nothing_is_passed_over(pair):
    """One that takes a request and does not answer is out after its read_timeout, within the same attempt."""

    async def silent(reader, writer) -> None:
        await reader.read()

    async with pair(silent, SECOND) as both:
        model = FallbackModel(
            [ANTHROPIC.make(both.first.base_url, read_timeout=0.1), GEMINI.make(both.second.base_url)]
        )
        pieces: list[str] = []
        request = ModelRequest("", [Message(seq=0, role="user", text="Hi.")])
        reply = await model.reply(request, collect(pieces))
        await model.aclose()
    assert (reply.text, pieces) == ("By the second.", ["By the second."])
    assert reply.passed_over == ["m-1: anthropic at 127.0.0.1: the connection failed (ReadTimeout)"]


async def test_no_reader_sees_two_replies_in_one(pair):
    """A stand-in that is stopped by its filter, in the middle of what was streamed, is not followed by
    another one: the reply counts as lost."""
    cut = stream(GEMINI.text("half", reason="SAFETY"))
    pieces: list[str] = []
    async with pair(BUSY, cut) as both, replay(stream(OPENAI.text("By the third."))) as third:
        models = [ANTHROPIC.make(both.first.base_url), GEMINI.make(both.second.base_url)]
        model = FallbackModel([*models, OPENAI.make(third.base_url)])
        request = ModelRequest("", [Message(seq=0, role="user", text="Hi.")])
        with pytest.raises(ModelUnavailableError, match="content filter") as caught:
            await model.reply(request, collect(pieces))
        assert (caught.value.begun, pieces, third.bodies) == (True, ["half"], [])
        assert caught.value.paid.usage.output_tokens == 9
        reply = await model.reply(request, collect(pieces))
        await model.aclose()
    assert (reply.text, pieces) == ("By the third.", ["half", "By the third."])
    assert reply.passed_over == ["m-1: was out", "m-1: was out"]


class Lost:
    """A model whose reply is none, and paid for."""

    def __init__(self, name: str, error: type[ModelError]) -> None:
        self.model, self._error = name, error

    async def reply(self, request, on_text):
        failed = self._error("no")
        failed.paid = ModelReply(usage=Usage(input_tokens=100), model=self.model)
        raise failed

    async def aclose(self) -> None: ...


PAID = {name: Price(input=1e4, output=0) for name in ("m1", "m2", "m3")}


async def test_replies_of_models_that_are_passed_over_are_on_the_bill(tmp_path):
    """What a model that is passed over had counted is on the run's bill, at its own price, beside the reply
    of the one that stood in for it."""
    last = ScriptedProvider(replies=["Done."] * 2)
    models = [Lost("m1", ModelUnavailableError), Lost("m2", ModelRejectedError)]
    db, prices = f"sqlite:///{tmp_path}/r.db", [PAID, lambda reply: 0.25]
    nested = FallbackModel([models[0], FallbackModel([Lost("m3", ModelUnavailableError), last])])
    for model, fallback_ in ((models[0], [models[1], last]), (nested, [])):
        async with PromptHandler(model=model, fallback=fallback_, db=db, prices=prices) as handler:
            state = await handler.handle_prompt("Hello")
            [_, reply] = await handler.history(state.run_id)
        assert state.status == "done"
        assert state.usage.input_tokens == 200 + reply.usage.input_tokens
        assert state.bill.spent == pytest.approx(2 + (reply.cost or 0))


async def test_replies_are_on_the_bill_when_no_model_can_answer():
    """The error carries all that was paid for, one by one."""
    model = FallbackModel([Lost("m1", ModelUnavailableError), Lost("m2", ModelRejectedError)])
    with pytest.raises(ModelUnavailableError, match="No model can answer") as caught:
        await model.reply(ModelRequest("", [Message(seq=0, role="user", text="Hi.")]), collect([]))
    assert [each.model for each in caught.value.paid.bought] == ["m1", "m2"]


async def test_when_all_are_out_the_run_goes_on_later(pair):
    """The error says who was out and for how long; the run is done when one of them is back."""
    slow = plain(503, b"{}", retry_after="0.01")
    async with pair(plain(429, b"{}", retry_after="0.02"), slow) as both:
        request = ModelRequest("", [Message(seq=0, role="user", text="Hi.")])
        with pytest.raises(
            ModelUnavailableError, match=r"No model can answer\. m-1: .*429; m-1: .*503"
        ) as caught:
            await both.handler.model.reply(request, collect([]))
        assert 0 <= caught.value.retry_after <= 0.02
        times = 0

        async def back(reader, writer) -> None:
            nonlocal times
            times += 1
            await (slow if times < 3 else SECOND)(reader, writer)

        both.second.answer = back
        state, _ = await both.prompt()
    assert (state.status, state.output, times) == ("done", "By the second.", 3)


async def test_a_stand_in_that_takes_no_such_file_is_passed_over(pair, monkeypatch):
    """A file that only the first model takes waits until that one is back."""
    monkeypatch.setattr(fallback, "OUT_SECONDS", 0.05)
    async with pair(BUSY, SECOND) as both:

        async def back(reader, writer) -> None:
            await (BUSY if len(both.first.bodies) < 3 else FIRST)(reader, writer)

        both.first.answer = back
        state, _ = await both.prompt(files=[File("a.gif", b"GIF89a", "image/gif")])
        assert (state.status, state.output, both.asked) == ("done", "By the first.", (3, 0))


async def test_options_are_the_first_models(pair):
    """Options are in the first model's words and go to it alone; a word for tool_choice is everybody's, and
    settings of a fallback's own are kept."""
    options = {"metadata": {"user_id": "u"}, "tool_choice": "auto"}
    async with pair(BUSY, SECOND, model_options=options, tools=[look]) as both:
        await both.prompt()
        assert both.first.bodies[0]["metadata"] == {"user_id": "u"}
        assert "user_id" not in json.dumps(both.second.bodies[0])
        assert both.second.bodies[0]["toolConfig"] == {"functionCallingConfig": {"mode": "AUTO"}}


def look(path: str) -> str:
    """Look at a file."""
    return path


def test_a_fallback_is_a_list_of_models():
    """One that is none is refused; without one the model stays as it is."""
    for wrong in ("scripted:echo", {"provider": "scripted"}, 5):
        with pytest.raises(ConfigurationError, match="fallback is a list"):
            open_models("scripted:echo", wrong)
    assert isinstance(open_models("scripted:echo"), ScriptedProvider)
    both = open_models("scripted:echo", ["scripted:echo"])
    assert (both.model, repr(both).count("ScriptedProvider")) == ("echo", 2)
