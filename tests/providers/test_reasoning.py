"""What goes back of reasoning, where the provider would refuse it: cut, unsigned, or nothing behind it."""

import asyncio
import json
import re

import pytest
from conversations import asked, assistant, listed, reasoned, turn, user
from dialects import ANTHROPIC, BEDROCK, OPENAI, RESPONSES, anthropic_events, bedrock_events, responses_events
from event_stream import frames
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from pydantic import TypeAdapter
from replay_server import events, named_events, replay, stream
from story import Story

from thoughtgear.handler import PromptHandler
from thoughtgear.models import Native, ReplyPart
from thoughtgear.providers import anthropic_request, responses_request
from thoughtgear.providers.bedrock_request import converse_arguments
from thoughtgear.providers.openai import OpenAIProvider

ADAPTIVE = {"type": "adaptive"}
BUDGET = {"type": "enabled", "budget_tokens": 2000}
ITEM = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "c2VjcmV0"}
SIGNED = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}


async def replied(dialect, body: bytes, ask):
    async with replay(stream(body)) as server:
        provider = dialect.make(server.base_url)
        try:
            return (await ask(provider, "hi"))[0]
        finally:
            await provider.aclose()


def said(reply, provider: str) -> list:
    """A conversation that goes on after a reply."""
    native = reply.native and reply.native.model_copy(update={"model": "m"})
    return [user("Hi."), assistant(reply.text).model_copy(update={"native": native}), user("Go on.")]


async def test_thinking_that_was_cut_is_not_sent_back(ask):
    """Thinking that a limit of tokens cut has no signature: it is left out, and what was signed is not."""
    events = anthropic_events(["So"], [], "max_tokens")
    blocks = [(1, SIGNED), (2, {**SIGNED, "signature": ""})]
    opened = [{"type": "content_block_start", "index": n, "content_block": block} for n, block in blocks]
    reply = await replied(ANTHROPIC, named_events(*events[:-2], *opened, *events[-2:]), ask)
    body = json.loads(anthropic_request.encode_request("m", asked(*said(reply, "anthropic"))))
    assert body["messages"][1]["content"] == [{"type": "text", "text": "So"}, SIGNED]


async def test_converse_gets_back_what_is_signed_alone(ask):
    """Reasoning without a signature, which DeepSeek's and other open models write, is left out."""
    for signature, kept in (("c2ln", True), ("", False)):
        deltas = [{"text": "Hm."}, *([{"signature": signature}] if signature else [])]
        reasons = [{"delta": {"reasoningContent": delta}, "contentBlockIndex": 9} for delta in deltas]
        events = bedrock_events(["So."], [], "end_turn")
        wire = [events[0], *({"contentBlockDelta": delta} for delta in reasons), *events[1:]]
        reply = await replied(BEDROCK, frames(*wire), ask)
        content = converse_arguments("m", asked(*said(reply, "bedrock")))["messages"][1]["content"]
        assert [*content[-1]] == ["text"]
        assert ("reasoningContent" in content[0]) == kept


def test_reasoning_that_led_to_nothing_is_left_out():
    """A reply of reasoning alone is no message: newer models take it for words put into their mouths. The
    Responses API refuses reasoning that nothing came of."""
    for provider, own in (
        ("anthropic", SIGNED),
        ("bedrock", {"reasoningText": {"text": "Hm.", "signature": "s"}}),
    ):
        alone = assistant("").model_copy(update={"native": reasoned(provider, "m", own, calls=0)})
        request = asked(user("Hi."), alone, user("Well?"))
        wire = (
            json.loads(anthropic_request.encode_request("m", request))
            if provider == "anthropic"
            else converse_arguments("m", request)
        )
        assert [message["role"] for message in wire["messages"]] == ["user"]
    parts = [ReplyPart(own=ITEM), ReplyPart(letters=3), ReplyPart(own={**ITEM, "id": "rs_2"})]
    cut = assistant("So.").model_copy(update={"native": Native(provider="openai", model="m", parts=parts)})
    items = responses_request.wire_input("m", asked(user("Hi."), cut, user("Well?")))
    assert items[1:3] == [ITEM, {"role": "assistant", "content": "So."}]
    assert "rs_2" not in json.dumps(items)


def test_adaptive_thinking_stays_in_a_turn_that_another_model_began():
    """Only thinking with a budget has to be left out there, of Claude on Bedrock, too."""
    messages = [user("Hi."), *turn(1, {})]
    for thinking, kept in ((ADAPTIVE, True), (BUDGET, False)):
        options = {"thinking": thinking}
        body = json.loads(anthropic_request.encode_request("m", asked(*messages, **options)))
        fields = converse_arguments("m", asked(*messages, **options)).get("additionalModelRequestFields", {})
        assert ("thinking" in body, "thinking" in fields) == (kept, kept)


async def test_the_phase_of_a_message_goes_back(ask):
    """What a model said on the way, and its answer, go back under their phase; one that is none doesn't."""
    for phase in ("commentary", "SECRET"):
        events = responses_events(["So."], [("look", "{}")], "completed")
        for event in events:
            if event.get("item", {}).get("type") == "message":
                event["item"] = {**event["item"], "phase": phase}
        reply = await replied(RESPONSES, named_events(*events), ask)
        body = json.loads(responses_request.encode_request("m", asked(*said(reply, "openai"))))
        assert listed(TypeAdapter(ResponseCreateParamsStreaming).validate_python(body)) == body
        known = {"phase": phase} if phase == "commentary" else {}
        assert body["input"][1] == {"role": "assistant", "content": "So.", **known}


@pytest.mark.parametrize("dialect", [ANTHROPIC, OPENAI, RESPONSES, BEDROCK], ids=lambda d: d.name)
async def test_what_a_filter_stopped_is_counted(tmp_path, quick, dialect):
    """The provider counts the tokens of a reply that its filter stops: the run that fails has them."""
    state, _ = await Story(tmp_path, dialect.make).run(stream(dialect.text("No", reason=dialect.reasons[3])))
    assert (state.status, state.error.type) == ("failed", "ModelRejectedError")
    assert (state.usage.input_tokens, state.usage.output_tokens, state.model_replies) == (20, 9, 0)


async def test_what_a_failed_response_had_cost_is_counted(tmp_path, quick):
    """A response that fails with its counts is lost, asked for again, and counted."""
    events = responses_events(["So."], [], "completed")
    failed = {**events[-1]["response"], "status": "failed", "error": {"code": "server_error", "message": "x"}}
    body = named_events(*events[:-1], {**events[-1], "type": "response.failed", "response": failed})
    made = Story(tmp_path, RESPONSES.make)
    state, _ = await made.run(stream(body), stream(RESPONSES.text("Fine.")))
    assert (state.output, state.usage.input_tokens, state.model_replies) == ("Fine.", 40, 1)


async def test_a_gateway_that_says_that_its_model_failed_is_asked_again(tmp_path, quick):
    """A reply that ends for `error`, or for a call that is none, is no answer."""
    for reason in ("error", "function_call_filter: MALFORMED_FUNCTION_CALL"):
        text = ("half",) if reason == "error" else ()
        made = Story(tmp_path, OPENAI.make)
        state, _ = await made.run(stream(OPENAI.say(text, (), reason)), stream(OPENAI.text("Fine.")))
        assert (state.output, made.asked) == ("Fine.", 2)


def chat(*deltas: dict, reason: str = "tool_calls") -> bytes:
    made = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    return events(*map(json.dumps, [*made, end]), "[DONE]")


def call_delta(**more) -> dict:
    return {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "look", "arguments": "{}"}, **more}]}


DETAIL = {"type": "reasoning.text", "index": 0, "format": "anthropic-claude-v1"}
HIDDEN_DETAIL = {"type": "reasoning.encrypted", "index": 1, "id": "r", "data": "c2VjcmV0"}
SIGNATURE = {"google": {"thought_signature": "c2ln"}}


@pytest.mark.parametrize(
    ("deltas", "own", "beside"),
    [
        ([{"reasoning_content": "H"}, {"reasoning_content": "m."}], {"reasoning_content": "Hm."}, {}),
        ([{"reasoning": "H"}, {"reasoning": "m."}], {"reasoning": "Hm."}, {}),
        (
            [
                {"reasoning": "H", "reasoning_details": [{**DETAIL, "text": "H"}]},
                {"reasoning_details": [{**DETAIL, "text": "m."}]},
                {"reasoning_details": [{**DETAIL, "signature": "c2ln"}, HIDDEN_DETAIL]},
            ],
            {"reasoning_details": [{**DETAIL, "text": "Hm.", "signature": "c2ln"}, HIDDEN_DETAIL]},
            {},
        ),
        ([{}], {}, {"extra_content": SIGNATURE}),
    ],
    ids=["deepseek", "vllm", "openrouter", "google"],
)
async def test_a_compatible_server_gets_its_reasoning_back(tmp_path, quick, deltas, own, beside):
    """What a server of Chat Completions sends of reasoning comes back with the reply that it belongs to, and
    to nobody else: DeepSeek, and Gemini behind others, refuse calls without it."""
    called = chat(*deltas, {"content": "So."}, call_delta(**beside))
    done = chat({"content": "Done."}, reason="stop")

    async def answer(reader, writer) -> None:
        await stream(called if len(server.bodies) == 1 else done)(reader, writer)

    async with replay(answer) as server:
        for name, back in (("m", True), ("m", True), ("m", False), ("another", True)):
            model = OpenAIProvider(name, base_url=server.base_url, return_reasoning=back)
            db = f"sqlite:///{tmp_path}/r.db"
            async with PromptHandler(model=model, db=db, tools=[look]) as handler:
                state = await handler.handle_prompt("Hi.", session_id="s")
            assert (state.status, state.output) == ("done", "Done.")
    for body in server.bodies[1:3]:
        first = body["messages"][1]
        assert (first["role"], first["content"]) == ("assistant", "So.")
        assert {name: first.get(name) for name in own} == own
        assert {name: first["tool_calls"][0].get(name) for name in beside} == beside
    for body in server.bodies[3:]:
        assert not {*own, *beside} & set(re.findall(r"[a-z_]+", json.dumps(body["messages"])))


def look() -> str:
    """Look."""
    return "seen"


async def test_hostile_reasoning_is_bounded_and_breaks_nothing(tmp_path, quick):
    """Fields of any type are read over; very many small pieces take no time that grows with their square."""
    wrong = [5, None, [], {}, "x", [5], [{}], [{"type": [], "text": 5}]]
    names = ("reasoning", "reasoning_content", "reasoning_details")
    body = chat(*({name: value} for name in names for value in wrong), call_delta(extra_content=5))
    piece = {"reasoning_details": [{**DETAIL, "text": "x"}]}
    many = chat(*[piece] * 20_000, {"content": "Fine."}, reason="stop")
    made = Story(tmp_path, OPENAI.make)
    async with asyncio.timeout(20):
        state, history = await made.run(stream(body), stream(many))
    assert (state.status, state.output) == ("done", "Fine.")
    assert len(history[-1].native.parts[0].own["reasoning_details"][0]["text"]) == 20_000
