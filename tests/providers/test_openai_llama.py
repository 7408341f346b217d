"""The provider against a real llama.cpp server."""

import socket
from typing import Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict

from thoughtgear.errors import ModelRejectedError, ModelUnavailableError
from thoughtgear.handler import PromptHandler
from thoughtgear.models import Message, ToolCall, ToolResult
from thoughtgear.protocols import ModelRequest, ToolSpec
from thoughtgear.providers.openai import OpenAIProvider

READ_FILE = ToolSpec(
    "read_file",
    "Read a file.",
    {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
)
SHORT = {"max_tokens": 16, "temperature": 0, "seed": 1}


def user(text: str) -> Message:
    return Message(seq=0, role="user", text=text)


@pytest.fixture
async def provider(llama_url):
    provider = OpenAIProvider("smollm2", base_url=llama_url)
    yield provider
    await provider.aclose()


async def test_a_chat_is_streamed_and_counted(provider, ask):
    """The pieces add up to the reply, and the usage counts what was read and written."""
    request = ModelRequest("You are brief.", [user("Name three colours.")], options=SHORT)
    reply, pieces = await ask(provider, request)
    assert len(pieces) > 3
    assert "".join(pieces) == reply.text
    assert 0 < reply.usage.output_tokens <= 16
    assert reply.usage.input_tokens > 10
    assert reply.stop_reason in ("stop", "length")
    assert reply.request_id


async def test_a_repeated_prompt_is_read_from_the_prompt_cache(provider, ask):
    """The same prefix gives cached tokens, counted apart."""
    request = ModelRequest("You are brief.", [user("Name three rivers of Europe.")], options=SHORT)
    await ask(provider, request)
    reply, _ = await ask(provider, request)
    assert 0 < reply.usage.cached_tokens < reply.usage.input_tokens


async def test_replies_in_a_row_all_arrive(provider, ask):
    """A server that closes its connections a moment after the reply costs no request."""
    for number in range(20):
        request = ModelRequest("", [user(f"{number % 3}")], options={"max_tokens": 4})
        assert (await ask(provider, request))[0].stop_reason == "length"


async def test_tools_and_their_results_are_accepted(provider, ask):
    """A conversation with parallel calls, results out of order and malformed arguments gets an answer."""
    calls = [
        ToolCall(id="0.0", name="read_file", arguments={"path": "a.txt"}),
        ToolCall(id="0.1", name="read_file", arguments='{"path": '),
    ]
    results = [
        ToolResult(call_id="0.1", name="read_file", status="error", content="not JSON"),
        ToolResult(call_id="0.0", name="read_file", content="hello"),
    ]
    messages = [
        user("Read a.txt."),
        Message(seq=1, role="assistant", tool_calls=calls),
        *[Message(seq=2 + n, role="tool", tool_result=result) for n, result in enumerate(results)],
    ]
    reply, _ = await ask(provider, ModelRequest("", messages, tools=[READ_FILE], options=SHORT))
    assert reply.text or reply.calls


async def test_a_structured_answer_is_an_option(provider, ask):
    """An option reaches the server as it is: the answer keeps to the given JSON Schema."""
    schema = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"]}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    request = ModelRequest(
        "", [user("Say seven.")], options={**SHORT, "max_tokens": 60, "response_format": form}
    )
    reply, _ = await ask(provider, request)
    assert reply.text.replace(" ", "").replace("\n", "") == '{"n":7}'


async def test_the_official_client_reads_the_same(provider, ask, llama_url):
    """The `openai` package reads the same text and the same usage from the same request."""
    reply, _ = await ask(provider, ModelRequest("", [user("Count to five.")], options=SHORT))
    async with openai.AsyncOpenAI(base_url=llama_url, api_key="none", max_retries=0) as client:
        theirs = await client.chat.completions.create(
            model="smollm2", messages=[{"role": "user", "content": "Count to five."}], **SHORT
        )
    assert reply.text == theirs.choices[0].message.content
    assert reply.stop_reason == theirs.choices[0].finish_reason
    assert reply.usage.output_tokens == theirs.usage.completion_tokens


async def test_a_prompt_over_the_context_is_rejected(provider, ask):
    """A real 400 is final, names the server's error type, and doesn't repeat the prompt."""
    with pytest.raises(ModelRejectedError, match="HTTP 400, exceed_context_size_error") as caught:
        await ask(provider, "walrus " * 4000)
    assert caught.value.status == 400
    assert "walrus" not in str(caught.value)


async def test_a_wrong_path_is_rejected(llama_url, ask):
    """A base_url that leads nowhere is final and says what to check."""
    provider = OpenAIProvider("smollm2", base_url=llama_url.replace("/v1", "/v9"))
    with pytest.raises(ModelRejectedError, match=r"HTTP 404.*check the model's name and base_url"):
        await ask(provider, "hi")
    await provider.aclose()


async def test_a_closed_port_is_unavailable(ask):
    """A server that isn't there may be there later."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        provider = OpenAIProvider("m", base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        with pytest.raises(ModelUnavailableError, match="no connection"):
            await ask(provider, "hi")
    await provider.aclose()


class Colour(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Literal["red", "green", "blue"]
    dark: bool


async def test_a_final_answer_is_held_to_a_schema(llama_url):
    """A model too small to write JSON by itself gives an answer that fits, for the server holds it to the
    schema; nothing has to be sent back."""
    model = {
        "provider": "openai",
        "name": "smollm2",
        "base_url": llama_url,
        "options": SHORT | {"max_tokens": 64},
    }
    async with PromptHandler(model=model, db="memory://", output_type=Colour) as handler:
        state = await handler.handle_prompt("Name a colour.")
    assert (state.status, state.sent_back) == ("done", 0)
    assert Colour.model_validate_json(state.output).name in ("red", "green", "blue")


async def test_a_server_that_is_gone_is_stood_in_for(llama_url):
    """The real server answers for one that is not there, and the transcript says so."""
    gone = {"provider": "openai", "name": "gone", "base_url": "http://127.0.0.1:9/v1"}
    there = {"provider": "openai", "name": "smollm2", "base_url": llama_url, "options": SHORT}
    async with PromptHandler(model=gone, fallback=[there], db="memory://") as handler:
        state = await handler.handle_prompt("Name a colour.")
        reply = (await handler.history(state.run_id))[-1]
    assert state.status == "done"
    assert reply.passed_over == ["gone: openai at 127.0.0.1: no connection (ConnectError); check base_url"]
