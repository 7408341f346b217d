"""The scripted model."""

import asyncio
import json
import os
import subprocess
import sys

import pytest

from thoughtgear.errors import ConfigurationError, ModelRejectedError
from thoughtgear.models import Message, ToolCall, ToolResult
from thoughtgear.protocols import ModelProvider, ModelReply, ModelRequest, RequestedCall
from thoughtgear.providers.scripted import ScriptedProvider, call
from thoughtgear.registry import open_model

HI = Message(seq=0, role="user", text="hi")
LATER = Message(seq=3, role="user", text="and this?")
SAID = Message(seq=1, role="assistant", text="said")
READ = Message(seq=1, role="assistant", tool_calls=[ToolCall(id="1.0", name="read")])
GAVE = Message(seq=2, role="tool", tool_result=ToolResult(call_id="1.0", name="read", content="x" * 400))


def request(*messages: Message) -> ModelRequest:
    return ModelRequest("", messages)


@pytest.mark.parametrize(
    ("messages", "conversation", "run"),
    [
        ([HI], "0", "0"),
        ([HI, READ, GAVE], "1", "1"),
        ([HI, READ, GAVE, LATER], "1", "1"),
        ([HI, READ, GAVE, SAID, HI], "2", "0"),
        ([HI, READ, GAVE, SAID, HI, READ, GAVE, LATER, SAID], "4", "2"),
    ],
    ids=["first", "after tools", "a message in mid-run", "second run", "second run, later"],
)
async def test_the_reply_follows_from_the_request(ask, messages, conversation, run):
    """The n-th reply is for the n-th assistant message, of the conversation or of the run; asking again,
    or another provider with the same script, changes nothing."""
    script = [str(n) for n in range(5)]
    for _ in range(2):
        for provider in (ScriptedProvider(replies=script), ScriptedProvider(replies=script)):
            assert (await ask(provider, request(*messages)))[0].text == conversation
        assert (await ask(ScriptedProvider(replies=script, per_run=True), request(*messages)))[0].text == run


async def later(_: ModelRequest) -> str:
    return "later"


@pytest.mark.parametrize(
    ("line", "text", "calls"),
    [
        ("text", "text", []),
        (call("read", path="a", name="b"), "", [("read", {"path": "a", "name": "b"})]),
        ([call("a"), call("b", n=1)], "", [("a", {}), ("b", {"n": 1})]),
        ({"name": "read", "arguments": {"path": "ü"}}, "", [("read", {"path": "ü"})]),
        ([{"name": "a"}, {"name": "b", "arguments": '{"n": 1}'}], "", [("a", {}), ("b", {"n": 1})]),
        ({"text": "see", "calls": [{"name": "a"}]}, "see", [("a", {})]),
        (ModelReply(text="t", calls=[RequestedCall("a", "{}")]), "t", [("a", {})]),
        (lambda asked: asked.messages[0].text, "hi", []),
        (lambda _: [call("a")], "", [("a", {})]),
        (later, "later", []),
    ],
)
async def test_the_forms_of_a_line(ask, line, text, calls):
    """A line is a text, a call, calls, a whole reply, their JSON forms, or a function that says one."""
    reply, _ = await ask(ScriptedProvider(replies=[line]), request(HI))
    assert reply.text == text
    assert [(made.name, json.loads(made.arguments)) for made in reply.calls] == calls
    assert reply.stop_reason == ("tool_calls" if calls else "stop")


async def test_one_function_can_be_the_whole_script(ask):
    """A function in place of the list speaks every line: such a script has no end."""
    provider = ScriptedProvider(replies=lambda asked: str(len(asked.messages)))
    assert (await ask(provider, request(HI, READ, GAVE)))[0].text == "3"


@pytest.mark.parametrize("line", [None, 7, ["text"], [7], {"name": 7}, {"calls": "a"}])
def test_a_line_that_is_none_is_found_at_once(line):
    """A mistake in the script is an error of the constructor."""
    with pytest.raises(ConfigurationError):
        ScriptedProvider(replies=["fine", line])


async def test_past_the_end_is_an_error(ask):
    """A script that is too short fails the run and says which reply is missing."""
    with pytest.raises(ModelRejectedError, match="has 1 replies and reply 2 was asked for"):
        await ask(ScriptedProvider(replies=["only"]), request(HI, READ, GAVE))


async def test_echo_repeats_the_last_user_message(ask):
    """`scripted:echo` needs no script; `scripted` alone asks for one."""
    provider = open_model("scripted:echo")
    assert isinstance(provider, ModelProvider)
    assert (await ask(provider, request(HI, READ, GAVE, LATER)))[0].text == "and this?"
    with pytest.raises(ConfigurationError, match="pass replies="):
        open_model("scripted")


async def test_a_reply_is_streamed_in_pieces(ask):
    """Pieces have the asked length and add up to the text; without a length there is one."""
    assert (await ask(ScriptedProvider(replies=["abcdefg"], chunk=3), "hi"))[1] == ["abc", "def", "g"]
    assert (await ask(ScriptedProvider(replies=["abcdefg"]), "hi"))[1] == ["abcdefg"]
    assert (await ask(ScriptedProvider(replies=[call("a")]), "hi"))[1] == []


async def test_usage_grows_with_the_texts(ask):
    """Four letters are a token, tool results count as input."""
    reply, _ = await ask(ScriptedProvider(replies=["", "x" * 40]), request(HI, READ, GAVE))
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (102, 10)


def test_the_ledger_counts_the_replies_of_all_processes(tmp_path):
    """Each bought reply is one line, whole, from however many processes at once."""
    ledger = tmp_path / "ledger.jsonl"
    code = (
        "import asyncio, sys\n"
        "from thoughtgear.protocols import ModelRequest\n"
        "from thoughtgear.providers.scripted import ScriptedProvider\n"
        "model = ScriptedProvider(replies=['ok'], ledger=sys.argv[1])\n"
        "async def main():\n"
        "    for _ in range(200): await model.reply(ModelRequest('', []), print)\n"
        "async def quiet(piece): pass\n"
        "print = quiet\n"
        "asyncio.run(main())\n"
    )
    buyers = [subprocess.Popen([sys.executable, "-c", code, str(ledger)]) for _ in range(3)]
    assert [buyer.wait(20) for buyer in buyers] == [0, 0, 0]
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert len(lines) == 600
    assert {line["pid"] for line in lines} == {buyer.pid for buyer in buyers}
    assert {line["n"] for line in lines} == {0}


async def test_a_cancelled_delay_buys_nothing(ask, tmp_path):
    """A call that is cancelled while it waits ends at once and is not in the ledger."""
    ledger = tmp_path / "ledger.jsonl"
    provider = ScriptedProvider(replies=["slow"], delay=60, ledger=ledger)
    task = asyncio.create_task(ask(provider, "hi"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not ledger.exists()


async def test_a_line_of_the_ledger_says_when_who_and_which(ask, tmp_path):
    """A line holds the time, the process and the number of the reply."""
    ledger = tmp_path / "ledger.jsonl"
    await ask(ScriptedProvider(replies=["a", "b"], ledger=str(ledger)), request(HI, SAID))
    line = json.loads(ledger.read_text())
    assert (line["pid"], line["n"]) == (os.getpid(), 1)
    assert line["time"] > 1_700_000_000
