"""The provider against recorded streams, broken ones too."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_server import events, plain, replay, stream

from thoughtgear.errors import ModelRejectedError, ModelUnavailableError
from thoughtgear.models import Usage
from thoughtgear.protocols import RequestedCall
from thoughtgear.providers.openai import OpenAIProvider
from thoughtgear.providers.pieces import JsonObject


def chunk(delta: dict | None = None, finish: str | None = None, **more) -> dict:
    choices = [{"index": 0, "delta": delta or {}, "finish_reason": finish}]
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m-1"} | {
        "choices": choices,
        **more,
    }


def called(index=None, id_=None, name=None, arguments=None) -> dict:
    function = {k: v for k, v in (("name", name), ("arguments", arguments)) if v is not None}
    delta = {"index": index, "id": id_, "type": "function", "function": function}
    return chunk({"tool_calls": [{k: v for k, v in delta.items() if v is not None}]})


USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 16},
    "completion_tokens_details": {"reasoning_tokens": 4},
}
RECORDED = events(
    chunk({"role": "assistant", "content": None}),
    chunk({"content": "Grüße,\u2028"}),
    chunk({"content": "Wal \U0001f40b"}),
    called(0, "call_a", "read_file", ""),
    called(0, arguments='{"path": '),
    called(1, "call_b", "list", ""),
    called(0, arguments='"a.txt"}'),
    called(1, arguments="{}"),
    chunk({}, "tool_calls"),
    chunk(choices=[], usage=USAGE),
    "[DONE]",
)
TEXT = "Grüße,\u2028Wal \U0001f40b"
CALLS = [RequestedCall("read_file", '{"path": "a.txt"}'), RequestedCall("list", "{}")]
DONE = events(chunk({}, "tool_calls"), "[DONE]")


async def ask_server(answer, ask, **settings):
    async with replay(answer) as server:
        provider = OpenAIProvider("m", base_url=server.base_url, **settings)
        try:
            return await ask(provider, "hi")
        finally:
            await provider.aclose()


async def test_a_reply_is_the_same_wherever_the_network_cuts_it(ask):
    """Text, calls and usage are the same for a stream that is cut at any byte, on one kept connection."""
    cut = 0

    async def answer(reader, writer) -> None:
        await stream(*filter(None, (RECORDED[:cut], RECORDED[cut:])))(reader, writer)

    async with replay(answer) as server:
        provider = OpenAIProvider("m", base_url=server.base_url, keep_alive=True)
        for cut in range(len(RECORDED)):  # noqa: B007  the server reads it
            reply, pieces = await ask(provider, "hi")
            assert "".join(pieces) == reply.text == TEXT
            assert list(reply.calls) == CALLS
            assert reply.usage == Usage(
                input_tokens=20, output_tokens=9, cached_tokens=16, reasoning_tokens=4
            )
            assert (reply.model, reply.stop_reason, reply.request_id) == ("m-1", "tool_calls", "req_7")
        assert server.connections == 1
        await provider.aclose()


async def test_the_official_client_puts_the_same_calls_together(ask):
    """The `openai` package reads the same text and calls from the recorded stream."""
    async with replay(stream(RECORDED)) as server:
        provider = OpenAIProvider("m", base_url=server.base_url)
        reply, _ = await ask(provider, "hi")
        await provider.aclose()
        async with (
            openai.AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client,
            client.chat.completions.stream(model="m", messages=[{"role": "user", "content": "hi"}]) as theirs,
        ):
            message = (await theirs.get_final_completion()).choices[0].message
    assert message.content == reply.text
    assert [(c.function.name, c.function.arguments) for c in message.tool_calls] == [
        (c.name, c.arguments) for c in reply.calls
    ]


@pytest.mark.parametrize(
    "deltas",
    [
        [called(None, "x", "a", "{}"), called(None, "y", "a", '{"n": 1}')],
        [called(None, None, "a", "{}"), called(None, None, "a", '{"n": 1}')],
        [called(None, "x", "a", "{}"), called(None, "x", "a", '{"n": 1}')],
        [called(0, "x", "a", "{}"), called(0, "y", "a", '{"n": 1}')],
        [called(0, None, "a", "{}"), called(0, None, "a", '{"n": 1}')],
        [called(0, "x", "a", "{"), called(0, "x", "a", "}"), called(1, "x", "a", '{"n": 1}')],
        [called(0, "x", "a", "{"), called(0, "y", None, "}"), called(1, "z", "a", '{"n": 1}')],
        [called(None, "x", "a", ""), called(None, "y", "a", '{"n"'), called(None, None, None, ": 1}")],
        [called(1, "x", "a", ""), called(2, "y", "a", '{"n": 1}'), called(1, "x", None, "{}")],
        [called(0, "x", "a", {}), called(1, "y", "a", {"n": 1})],
    ],
    ids=[
        "no index",
        "no index, no id",
        "no index, one id for all",
        "index 0 for all",
        "index 0 for all, no id",
        "name and id in each delta",
        "a fresh id in each delta",
        "no arguments for none",
        "counted from 1, interleaved",
        "arguments as an object",
    ],
)
async def test_calls_of_servers_that_number_them_badly(ask, deltas):
    """Two calls stay two calls, each with its own arguments, however the server numbers them."""
    reply, _ = await ask_server(stream(events(*deltas), DONE), ask)
    assert list(reply.calls) == [RequestedCall("a", "{}"), RequestedCall("a", '{"n": 1}')]


OBJECTS = st.dictionaries(
    st.text(), st.recursive(st.text() | st.none(), lambda inner: st.dictionaries(st.text(), inner))
)


@settings(max_examples=50, deadline=None)
@given(OBJECTS, st.booleans(), st.lists(st.integers(0, 200), max_size=8))
def test_arguments_are_whole_at_their_last_brace(value, ascii_only, cuts):
    """Wherever a JSON object is cut into pieces, it is whole with its last one and not before."""
    text = json.dumps(value, ensure_ascii=ascii_only)
    made = JsonObject()
    for begin, end in pairwise([0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]):
        assert not made.whole or begin == len(text)
        made.add(text[begin:end])
    assert made.whole
    assert made.text() == text


async def test_a_stream_without_done_is_whole_when_the_reason_was_given(ask):
    """With a finish_reason a missing [DONE], or a connection that drops after it, loses nothing."""
    body = events(chunk({"content": "ok"}, "stop"))
    for answer in (stream(body), stream(body, whole=False), stream(body.rstrip(b"\n"))):
        reply, _ = await ask_server(answer, ask)
        assert (reply.text, reply.stop_reason) == ("ok", "stop")


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("left", [0.0, 0.3, 0.6])
async def test_a_stream_cut_short_is_unavailable(ask, whole, left):
    """Without a finish_reason there is no reply, whether the connection ended well or broke."""
    body = events(chunk({"content": "half"}), chunk({"content": "of it"}))
    with pytest.raises(ModelUnavailableError, match=r"cut short|connection failed"):
        await ask_server(stream(body[: int(len(body) * left)] or b":\n", whole=whole), ask)


async def test_pings_and_a_hanging_end_do_no_harm(ask):
    """Comments are skipped, and a server that keeps the connection open after [DONE] holds nobody up."""
    body = b": ping\r\n\r\n" + events(chunk({"content": "ok"}, "stop"), "[DONE]")
    async with asyncio.timeout(5):
        reply, _ = await ask_server(stream(body, hang=True), ask)
    assert reply.text == "ok"


async def test_an_answer_that_is_not_streamed_is_understood(ask):
    """A server that ignores `stream` gives the same reply, its text in one piece."""
    message = {"role": "assistant", "content": "hello", "tool_calls": None}
    body = {"id": "c-1", "model": "m-2", "choices": [{"index": 0, "message": message}], "usage": USAGE}
    reply, pieces = await ask_server(plain(200, json.dumps(body).encode()), ask)
    assert (reply.text, pieces, reply.usage.input_tokens) == ("hello", ["hello"], 20)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *[(status, ModelUnavailableError) for status in (408, 409, 429, 500, 502, 503, 529)],
        *[(status, ModelRejectedError) for status in (302, 400, 401, 402, 403, 404, 413, 422)],
    ],
)
async def test_a_status_decides_whether_to_try_again(ask, status, error):
    """Overload and faults may be tried again, refusals not; code and ids are named, free text is not."""
    body = {"error": {"message": "your prompt SECRET", "type": "some_type", "code": "some_code"}}
    with pytest.raises(error) as caught:
        await ask_server(plain(status, json.dumps(body).encode(), x_request_id="req_9"), ask)
    assert f"HTTP {status}, some_code, some_type (request req_9)" in str(caught.value)
    assert "openai at 127.0.0.1" in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert (caught.value.status, caught.value.request_id) == (status, "req_9")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "0.5"}, 0.5),
        ({"retry_after": "7", "retry_after_ms": "250"}, 0.25),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "-3"}, None),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry_after": "Wednesday, 21-Oct-15 07:28:00 GMT"}, 0.0),
        ({"retry_after": "Wed Oct 21 07:28:00 2015"}, 0.0),
        ({"retry_after": "Wed, 21 Oct 0001 07:28:00 +2359"}, 0.0),
        ({"retry_after": "Wed, 99 Oct 2015 07:28:00 GMT"}, None),
        ({"retry_after": "Wed, 21 Oct 99999 07:28:00 GMT"}, None),
        ({"retry_after": "1e400"}, None),
        ({"retry_after_ms": "-1", "retry_after": "2"}, 2.0),
        ({}, None),
    ],
)
async def test_the_wait_that_the_provider_asks_for(ask, headers, seconds):
    """Retry-After is read in seconds, milliseconds or as a date; nonsense is no wait."""
    with pytest.raises(ModelUnavailableError) as caught:
        await ask_server(plain(429, b"slow down", **headers), ask)
    assert caught.value.retry_after == seconds


async def test_a_date_to_wait_for_is_seconds_from_now(ask):
    """A Retry-After date in the future is the time until then."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    with pytest.raises(ModelUnavailableError) as caught:
        await ask_server(plain(503, b"", retry_after=date), ask)
    assert 80 < caught.value.retry_after <= 90


async def test_an_account_without_money_is_rejected(ask):
    """`insufficient_quota` comes as a 429, but waiting doesn't help."""
    body = {"error": {"message": "…", "type": "insufficient_quota", "code": "insufficient_quota"}}
    with pytest.raises(ModelRejectedError, match="HTTP 429, insufficient_quota; check the account's balance"):
        await ask_server(plain(429, json.dumps(body).encode()), ask)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "SECRET", "type": "server_error"}, ModelUnavailableError),
        ({"message": "SECRET", "code": 502}, ModelUnavailableError),
        ({"message": "SECRET", "code": "429"}, ModelUnavailableError),
        ({"message": "SECRET", "type": "who_knows"}, ModelUnavailableError),
        ({"message": "SECRET", "type": "invalid_request_error"}, ModelRejectedError),
        ({"message": "SECRET", "code": 400}, ModelRejectedError),
        ({"message": "SECRET", "code": "insufficient_quota"}, ModelRejectedError),
        ("SECRET words", ModelUnavailableError),
    ],
)
async def test_an_error_inside_of_a_stream(ask, error, kind):
    """An error object after the first pieces is the same error as it would have been before them."""
    body = events(chunk({"content": "a"}), {"error": error})
    with pytest.raises(kind) as caught:
        await ask_server(stream(body, b"data: [DONE]\n\n"), ask)
    assert "SECRET" not in str(caught.value)


async def test_a_page_is_no_reply(ask):
    """A web page with status 200, as a log-in proxy sends, is final and says what to check."""
    with pytest.raises(ModelRejectedError, match="no chat completion; check base_url"):
        await ask_server(plain(200, b"<html>Log in</html>", "text/html"), ask)


async def test_a_reply_over_the_limit_is_rejected(ask):
    """A reply that doesn't end is stopped by its size."""
    body = events(*[chunk({"content": "x" * 500})] * 20)
    with pytest.raises(ModelRejectedError, match="over 4000 bytes"):
        await ask_server(stream(body), ask, max_reply_bytes=4000)


async def test_a_silent_server_times_out(ask):
    """A server that goes silent for longer than the read time-out is unavailable."""
    with pytest.raises(ModelUnavailableError, match="ReadTimeout"):
        await ask_server(stream(events(chunk({"content": "a"})), hang=True), ask, read_timeout=0.1)


async def test_cancelling_closes_the_request(ask):
    """A cancelled call hangs up at once, so that the server can stop."""
    async with replay(stream(hang=True)) as server:
        provider = OpenAIProvider("m", base_url=server.base_url)
        task = asyncio.create_task(ask(provider, "hi"))
        await server.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(2):
            await server.closed.wait()
        await provider.aclose()


async def test_one_reply_is_one_request(ask):
    """A failure is not tried again by the provider: one policy decides, the executor's."""
    async with replay(plain(500, b"{}")) as server:
        provider = OpenAIProvider("m", base_url=server.base_url)
        with pytest.raises(ModelUnavailableError):
            await ask(provider, "hi")
        await provider.aclose()
    assert len(server.bodies) == 1
