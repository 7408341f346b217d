"""What is sent to Converse, as botocore validates and serialises it; what is read of its event streams."""

import asyncio
import base64
import json
import random
import threading

import boto3
import pytest
from botocore.validate import ParamValidator
from conversations import CONVERSATION, PNG, TOOL, asked, attached, reasoned, turn, user
from dialects import BEDROCK, bedrock, bedrock_events
from event_stream import frames
from replay_server import replay, stream
from story import Story
from test_hostile_providers import ENDS, mutations

from thoughtgear import registry
from thoughtgear.errors import ConfigurationError, ModelRejectedError, ModelUnavailableError
from thoughtgear.models import ReplyPart, Usage
from thoughtgear.protocols import ModelProvider, ModelRequest, RequestedCall
from thoughtgear.providers.bedrock import BedrockProvider
from thoughtgear.providers.bedrock_request import converse_arguments
from thoughtgear.registry import open_model

CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
THOUGHT = {"reasoningText": {"text": "Hm.", "signature": "c2ln"}}
HIDDEN = {"redactedContent": "ZGF0YQ=="}
LOGIN = {"region_name": "us-east-1", "aws_access_key_id": "id", "aws_secret_access_key": "hidden"}
SHAPE = (
    boto3.Session(**LOGIN)
    .client("bedrock-runtime")
    .meta.service_model.operation_model("ConverseStream")
    .input_shape
)


def sent(*messages, model="m", cache=None, **more) -> dict:
    return converse_arguments(model, asked(*messages, **more), cache=cache)


@pytest.mark.parametrize("choice", ["auto", "required", "read_file", {"any": {}}])
@pytest.mark.parametrize("model", ["m", CLAUDE])
async def test_botocore_accepts_and_serialises_what_is_sent(ask, model, choice):
    """Botocore, which allows no unknown argument, validates all that is sent; nothing of it is lost on the
    way to the server, and the request is signed."""
    options = {"temperature": 0.5, "thinking": {"type": "enabled"}, "tool_choice": choice}
    thinking = turn(3, {}, native=reasoned("bedrock", model, THOUGHT, HIDDEN))
    request = asked(*CONVERSATION, *thinking, context="Be brief.", **options)
    arguments = converse_arguments(model, request)
    assert ParamValidator().validate(arguments, SHAPE).generate_report() == ""
    async with replay(stream(BEDROCK.text("ok"))) as server:
        login = {"region": "us-east-1", "access_key_id": "id", "secret_access_key": "hidden"}
        provider = BedrockProvider(model, base_url=server.base_url, **login)
        await ask(provider, request)
        await provider.aclose()
    [body] = server.bodies
    assert body == json.loads(
        json.dumps({k: v for k, v in arguments.items() if k != "modelId"}, default=as_sent)
    )
    assert server.headers[0]["authorization"].startswith("AWS4-HMAC-SHA256 Credential=id/")
    assert body["additionalModelRequestFields"] == {"thinking": {"type": "enabled"}}
    assert body["inferenceConfig"] == {"temperature": 0.5}


def as_sent(value: bytes) -> str:
    return base64.b64encode(value).decode()


def test_roles_alternate_and_results_come_first():
    """What calls gave and what the user says behind it is one message, in the order of the calls; errors are
    errors, and no text is blank."""
    wire = sent(*CONVERSATION)["messages"]
    assert [message["role"] for message in wire] == ["user", "assistant"] * 4 + ["user"]
    ids = [block["toolUse"]["toolUseId"] for block in wire[1]["content"] if "toolUse" in block]
    assert [block["toolResult"]["toolUseId"] for block in wire[2]["content"]] == ids
    assert [next(iter(block)) for block in wire[6]["content"]] == ["toolResult", "text"]
    assert wire[6]["content"][0]["toolResult"]["status"] == "error"
    assert all(block["text"].strip() for m in wire for block in m["content"] if "text" in block)
    empty = sent(user("Hi."), *turn(1, {}, content=""))["messages"][2]["content"][0]["toolResult"]
    assert empty["content"] == [{"text": "(nothing)"}]


def test_reasoning_goes_back_where_it_stood():
    """Reasoning stands unchanged before the text and the call that followed it; that of another model doesn't
    stand there, and none is asked for in the middle of that turn."""
    messages = [
        user("Hi."),
        *turn(1, {}, text="Ah.", native=reasoned("bedrock", "m", THOUGHT, HIDDEN, text=3)),
    ]
    thinking = {"type": "enabled", "budget_tokens": 2000}
    blocks = sent(*messages, thinking=thinking)["messages"][1]["content"]
    assert blocks[0] == {"reasoningContent": THOUGHT}
    assert blocks[1] == {"reasoningContent": {"redactedContent": b"data"}}
    assert [next(iter(block)) for block in blocks[2:]] == ["text", "toolUse"]
    other = sent(*messages, model="another", thinking=thinking)
    assert [next(iter(block)) for block in other["messages"][1]["content"]] == ["text", "toolUse"]
    assert "additionalModelRequestFields" not in other


def test_cache_points_stand_where_a_model_takes_them():
    """A Claude that is known to cache gets three points; others none, unless they are asked for."""
    for model, cache, points in [(CLAUDE, None, 3), ("m", None, 0), ("m", True, 3), (CLAUDE, False, 0)]:
        body = sent(*CONVERSATION, model=model, cache=cache, context="Be brief.")
        assert str(body).count("cachePoint") == points


def test_tools_that_are_gone_are_declared():
    """Calls in the conversation want declared tools, also after the handler has lost them."""
    body = sent(user("Hi."), *turn(1, {}), tools=())
    assert [tool["toolSpec"]["name"] for tool in body["toolConfig"]["tools"]] == ["read_file"]
    assert "toolConfig" not in sent(user("Hi."), tools=())


def test_files_are_sent_with_the_prompt():
    """Images go by their format, documents with a name that is unique and plain."""
    files = (
        attached("c", "image/png"),
        attached("d.pdf", "application/pdf"),
        attached("d.pdf", "application/pdf"),
    )
    _, image, one, two = sent(user("Look.", *files))["messages"][0]["content"]
    assert image["image"] == {"format": "png", "source": {"bytes": PNG}}
    assert (one["document"]["name"], two["document"]["name"]) == ("1 d pdf", "2 d pdf")
    with pytest.raises(ModelRejectedError, match="is audio/wav; this provider takes"):
        sent(user("Hi.", attached("c", "audio/wav")))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"messages": []}, "may not set messages"),
        ({"toolConfig": {}}, "may not set toolConfig"),
        ({"top_k": object()}, "not JSON"),
        ({"tool_choice": "none"}, "no tool_choice"),
        ({"tool_choice": "absent"}, "tool's name"),
    ],
)
def test_options_that_can_not_be_sent(options, match):
    """What the loop depends on, what is no JSON and what Converse doesn't have is refused with a reason."""
    with pytest.raises(ModelRejectedError, match=match):
        converse_arguments("m", ModelRequest("", [user("Hi.")], [TOOL], {}, options))


async def test_an_option_that_botocore_refuses_is_not_quoted(ask):
    """A value of a wrong type is refused without a request, and without its text in the error."""
    async with replay(stream(BEDROCK.text("ok"))) as server:
        provider = bedrock(server.base_url, options={"maxTokens": "SECRET"})
        with pytest.raises(ModelRejectedError, match="check the options") as caught:
            await ask(provider, "hi")
        await provider.aclose()
    assert (server.bodies, "SECRET" in str(caught.value)) == ([], False)


def block(index: int, **delta) -> dict:
    return {"contentBlockDelta": {"delta": delta, "contentBlockIndex": index}}


def called(index: int, name: str, *pieces: str) -> list[dict]:
    start = {"toolUse": {"toolUseId": f"t{index}", "name": name}}
    opened = {"contentBlockStart": {"start": start, "contentBlockIndex": index}}
    closed = {"contentBlockStop": {"contentBlockIndex": index}}
    return [opened, *(block(index, toolUse={"input": piece}) for piece in pieces), closed]


COUNTS = {"inputTokens": 3, "outputTokens": 89, "totalTokens": 2192}
COUNTS |= {"cacheReadInputTokens": 2000, "cacheWriteInputTokens": 100}
RECORDED = frames(
    {"messageStart": {"role": "assistant"}},
    block(0, reasoningContent={"text": "First "}),
    block(0, reasoningContent={"text": "this."}),
    block(0, reasoningContent={"signature": "c2ln"}),
    {"contentBlockStop": {"contentBlockIndex": 0}},
    block(1, reasoningContent={"redactedContent": "ZGF0YQ=="}),
    block(2, text="Grüße,\u2028"),
    block(2, text="Wal \U0001f40b"),
    *called(3, "read_file", '{"path": "a', '.txt"}'),
    *called(4, "list"),
    {"messageStop": {"stopReason": "tool_use"}},
    {"metadata": {"usage": COUNTS, "metrics": {"latencyMs": 5}}},
)
TEXT = "Grüße,\u2028Wal \U0001f40b"


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.long)])
async def test_a_reply_is_the_same_wherever_the_network_cuts_it(ask, step):
    """Text, calls, reasoning and usage are the same for a stream that is cut at any byte."""
    cut = 0

    async def answer(reader, writer) -> None:
        await stream(*filter(None, (RECORDED[:cut], RECORDED[cut:])))(reader, writer)

    async with replay(answer) as server:
        provider = bedrock(server.base_url)
        for cut in range(0, len(RECORDED), step):  # noqa: B007  the server reads it
            reply, pieces = await ask(provider, "hi")
            assert "".join(pieces) == reply.text == TEXT
            assert list(reply.calls) == [
                RequestedCall("read_file", '{"path": "a.txt"}'),
                RequestedCall("list", "{}"),
            ]
            own = {"reasoningText": {"text": "First this.", "signature": "c2ln"}}
            kept = [ReplyPart(own=own), ReplyPart(own=HIDDEN), ReplyPart(letters=len(TEXT))]
            assert reply.native.parts == [*kept, ReplyPart(call=0), ReplyPart(call=1)]
            assert reply.usage == Usage(
                input_tokens=2103, cached_tokens=2000, cache_write_tokens=100, output_tokens=89
            )
            assert (reply.stop_reason, reply.request_id) == ("tool_calls", "req_7")
        await provider.aclose()
    assert set(server.paths) == {"/v1/model/m-1/converse-stream"}


async def test_a_damaged_stream_is_a_lost_reply(ask):
    """A checksum that doesn't fit, after the reply began, is tried again."""
    damaged = bytearray(RECORDED)
    damaged[len(frames({"messageStart": {"role": "assistant"}})) + 60] ^= 1
    async with replay(stream(bytes(damaged))) as server:
        provider = bedrock(server.base_url)
        with pytest.raises(ModelUnavailableError, match="ChecksumMismatch") as caught:
            await ask(provider, "hi")
        await provider.aclose()
    assert caught.value.begun


async def test_a_listener_that_fails_hangs_up(ask):
    """An error of whoever is told the text ends the request, and comes out."""

    async def told(piece: str) -> None:
        raise OSError("no room")

    async with replay(stream(BEDROCK.text("a", reason=""), hang=True)) as server:
        provider = bedrock(server.base_url)
        with pytest.raises(OSError, match="no room"):
            await provider.reply(asked(user("Hi.")), told)
        async with asyncio.timeout(2):
            await server.closed.wait()
        await provider.aclose()


async def test_no_thread_is_left_behind(ask):
    """After replies, cancelled ones too, no thread of theirs goes on."""
    async with replay(stream(BEDROCK.text("a", reason=""), hang=True)) as server:
        provider = bedrock(server.base_url)
        tasks = [asyncio.create_task(ask(provider, "hi")) for _ in range(20)]
        while len(server.bodies) < 20:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(5):
            while any(thread.name == "thoughtgear-bedrock" for thread in threading.enumerate()):
                await asyncio.sleep(0.01)
        await provider.aclose()


def test_settings_are_checked(monkeypatch):
    """A name is needed, half a login refused, and what a repr shows holds no secret."""
    provider = open_model(
        {"provider": "bedrock", "name": CLAUDE, "region": "us-east-1", "access_key_id": "id"}
        | {"secret_access_key": "hidden"}
    )
    assert isinstance(provider, ModelProvider)
    assert repr(provider) == f"BedrockProvider(name='{CLAUDE}', region='us-east-1')"
    for settings, match in [({}, "No model name"), ({"name": "m", "access_key_id": "x"}, "belong together")]:
        with pytest.raises(ConfigurationError, match=match):
            open_model({"provider": "bedrock", **settings})


async def test_what_aws_needs_is_said(monkeypatch, ask, tmp_path):
    """Without a region, or without credentials, the error says what to set, and is not tried again."""
    for name in (
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_PROFILE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ConfigurationError, match="set AWS_REGION or pass region"):
        await ask(BedrockProvider("m"), "hi")
    with pytest.raises(ModelRejectedError, match="no AWS credentials"):
        await ask(BedrockProvider("m", region="us-east-1", base_url="http://127.0.0.1:9"), "hi")


def test_the_extra_is_named(monkeypatch):
    """Without boto3 the error names the extra that brings what Bedrock needs."""

    def missing(module: str):
        raise ModuleNotFoundError(f"No module named {module!r}", name="boto3")

    monkeypatch.setattr(registry.importlib, "import_module", missing)
    with pytest.raises(ConfigurationError, match=r"thoughtgear\[bedrock\]"):
        open_model("bedrock:m")
    with pytest.raises(ConfigurationError, match=r"thoughtgear\[s3\]"):
        registry.open_store("s3://bucket/path")


@pytest.mark.parametrize("replies", [6, pytest.param(60, marks=pytest.mark.long)])
async def test_nonsense_of_wrong_types_ends_a_run(tmp_path, quick, replies):
    """Events in which some value has a wrong type become a result, a lost reply or a refusal."""
    rng = random.Random(5)
    whole = bedrock_events(["So ", "it is."], [("look", '{"path": "a"}')], "tool_use")
    for number in range(replies):
        mutated = [
            {name: mutations(body, rng) if rng.random() < 0.4 else body for name, body in event.items()}
            for event in whole
        ]
        folder = tmp_path / str(number)
        folder.mkdir()
        state, _ = await Story(folder, bedrock).run(stream(frames(*mutated)), stream(BEDROCK.text("Fine.")))
        assert state.over
        assert state.error is None or state.error.type in ENDS
