"""What holds for every provider over HTTP, each in its own words."""

import asyncio
import json

import pytest
from dialects import DIALECTS, OVER_HTTPX
from replay_server import plain, replay, stream

from thoughtgear.errors import ConfigurationError, ModelRejectedError, ModelUnavailableError
from thoughtgear.protocols import ModelProvider, RequestedCall
from thoughtgear.registry import open_model

KEY = "sk-verysecret"


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.name)
def dialect(request):
    """A provider and its server's words."""
    return request.param


@pytest.fixture(params=OVER_HTTPX, ids=lambda dialect: dialect.name)
def http(request, monkeypatch):
    """A provider with the settings of HTTP; the environment names no key and no server."""
    for name in (request.param.key, request.param.address):
        monkeypatch.delenv(name, raising=False)
    return request.param


@pytest.fixture
def asked(ask, dialect):
    """Ask the dialect's provider once, of a server that answers so."""

    async def asking(answer, **settings):
        async with replay(answer) as server:
            provider = dialect.make(server.base_url, **settings)
            try:
                return (await ask(provider, "hi"))[0]
            finally:
                await provider.aclose()
                assert len(server.bodies) == 1

    return asking


async def test_texts_and_parallel_calls_are_read(ask, dialect):
    """Pieces of text come as they are sent; calls come in their order with their arguments."""
    async with replay(
        stream(dialect.say(["So ", "it is."], [("a", "{}"), ("a", '{"n": 1}')], dialect.reasons[1]))
    ) as server:
        provider = dialect.make(server.base_url)
        reply, pieces = await ask(provider, "hi")
        await provider.aclose()
    assert (reply.text, pieces) == ("So it is.", ["So ", "it is."])
    assert list(reply.calls) == [RequestedCall("a", "{}"), RequestedCall("a", '{"n": 1}')]
    assert (reply.stop_reason, reply.model, reply.request_id) == ("tool_calls", "m-1", "req_7")
    assert (reply.usage.input_tokens, reply.usage.cached_tokens, reply.usage.output_tokens) == (20, 16, 9)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("left", [0.0, 0.3, 0.6, 0.9])
async def test_a_stream_cut_short_is_unavailable(asked, dialect, whole, left):
    """Without a reason for its end there is no reply, whether the connection ended well or broke."""
    body = dialect.text("half", " of", " it", reason="")
    with pytest.raises(ModelUnavailableError, match=r"cut short|connection failed"):
        await asked(stream(body[: int(len(body) * left)] or b":\n", whole=whole))


async def test_what_comes_after_the_reason_may_be_missing(asked, dialect):
    """With a reason, a last line that is missing, or a connection that drops or hangs, loses nothing."""
    body = dialect.text("ok")
    for answer in (stream(body.rstrip(b"\n")), stream(body, whole=False)):
        reply = await asked(answer)
        assert (reply.text, reply.stop_reason) == ("ok", "stop")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *[(status, ModelUnavailableError) for status in (408, 409, 429, 500, 502, 503, 529)],
        *[(status, ModelRejectedError) for status in (302, 400, 401, 402, 403, 404, 413, 422)],
    ],
)
async def test_a_status_decides_whether_to_try_again(asked, dialect, status, error):
    """Overload and faults may be tried again, refusals not; type and id are named, free text is not."""
    said = {"message": "your prompt SECRET", "type": "some_type", "status": "some_type"}
    body = {"error": said, "__type": "some_type", "message": "your prompt SECRET"}
    with pytest.raises(error) as caught:
        await asked(plain(status, json.dumps(body).encode(), request_id="req_9", retry_after="7"))
    assert f"{dialect.name} at 127.0.0.1: HTTP {status}, some_type (request req_9)" in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert (caught.value.status, caught.value.request_id) == (status, "req_9")
    assert (caught.value.retryable, caught.value.retry_after) == (error is ModelUnavailableError, 7.0)


@pytest.mark.parametrize(
    ("word", "status", "error"),
    [
        ("overloaded_error", 503, ModelUnavailableError),
        ("api_error", 500, ModelUnavailableError),
        ("rate_limit_error", 429, ModelUnavailableError),
        ("invalid_request_error", 400, ModelRejectedError),
    ],
)
async def test_an_error_inside_of_a_stream(asked, dialect, word, status, error):
    """An error after the first pieces is the same error as it would have been before them, and says that a
    reply had begun."""
    body = dialect.text("a", reason="") + dialect.failure(word, status)
    with pytest.raises(error, match=word if dialect.name != "bedrock" else "Exception") as caught:
        await asked(stream(body))
    assert "SECRET" not in str(caught.value)
    assert caught.value.begun


async def test_a_page_is_no_reply(asked):
    """A web page with status 200 is final and says what to check."""
    with pytest.raises(ModelRejectedError, match="check base_url"):
        await asked(plain(200, b"<html>Log in, please</html>", "text/html"))


@pytest.mark.parametrize("body", [b"[]", b"{}", b"null"])
async def test_other_json_is_no_reply(ask, http, body):
    """JSON with status 200 that is no reply is final and says what to check."""
    async with replay(plain(200, body)) as server:
        provider = http.make(server.base_url)
        with pytest.raises(ModelRejectedError, match="check base_url"):
            await ask(provider, "hi")
        await provider.aclose()


async def test_a_limit_and_a_filter_are_told_apart(asked, dialect):
    """At a limit a text is kept, and nothing at all refused; what a filter stopped is refused always."""
    limit, filtered = dialect.reasons[2:4]
    assert (await asked(stream(dialect.text("half", reason=limit)))).stop_reason == "length"
    with pytest.raises(ModelRejectedError, match="limit of tokens before it said anything"):
        await asked(stream(dialect.say((), (), limit)))
    with pytest.raises(ModelRejectedError, match="content filter"):
        await asked(stream(dialect.text("half", reason=filtered)))


async def test_a_reply_over_the_limit_is_rejected(asked, dialect):
    """A reply that doesn't end is stopped by its size."""
    with pytest.raises(ModelRejectedError, match=r"over 4000 bytes; limit it with the option m\w+"):
        await asked(stream(dialect.text(*["x" * 500] * 20)), max_reply_bytes=4000)


async def test_a_silent_server_times_out(asked, dialect):
    """A server that goes silent for longer than the read time-out is unavailable."""
    with pytest.raises(ModelUnavailableError, match="ReadTimeout"):
        await asked(stream(dialect.text("a", reason=""), hang=True), read_timeout=0.1)


async def test_no_server_is_unavailable(ask, dialect):
    """A port where nobody listens says so."""
    provider = dialect.make("http://127.0.0.1:9")
    with pytest.raises(ModelUnavailableError, match="no connection"):
        await ask(provider, "hi")
    await provider.aclose()


async def test_cancelling_closes_the_request(ask, dialect):
    """A cancelled call hangs up at once, so that the server can stop."""
    async with replay(stream(hang=True)) as server:
        provider = dialect.make(server.base_url)
        task = asyncio.create_task(ask(provider, "hi"))
        await server.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(2):
            await server.closed.wait()
        await provider.aclose()


def test_a_missing_key_is_found_before_the_first_run(http):
    """Without a key the provider's own address is refused, with the variable to set."""
    with pytest.raises(ConfigurationError, match=f"set {http.key} or pass api_key"):
        open_model(f"{http.name}:m")


async def test_the_environment_names_server_and_key(monkeypatch, ask, http):
    """The variables are the defaults; the key goes into its header alone and is in no repr."""
    async with replay(stream(http.text("ok"))) as server:
        monkeypatch.setenv(http.address, server.base_url + "/")
        monkeypatch.setenv(http.key, KEY + "\n")
        provider = open_model({"provider": http.name, "name": "m", **http.settings})
        await ask(provider, "hi")
        await provider.aclose()
    assert server.headers[0][http.header].removeprefix("Bearer ") == KEY
    assert KEY not in str(server.bodies) + str(server.paths) + repr(provider)
    assert isinstance(provider, ModelProvider)
    assert provider.model == "m"


async def test_settings_reach_the_server(ask, http):
    """An empty key sends none; headers and options of the settings are sent, and those of a request win."""
    async with replay(stream(http.text("ok"))) as server:
        settings = {
            **http.settings,
            "name": "m",
            "base_url": server.base_url,
            "api_key": "",
            "headers": {"X-Team": "a"},
        }
        provider = open_model({"provider": http.name, **settings, "options": {"metadata": {"a": "b"}}})
        await ask(provider, "hi")
        await provider.aclose()
    assert http.header not in server.headers[0]
    assert server.headers[0]["x-team"] == "a"
    assert '"metadata": {"a": "b"}' in json.dumps(server.bodies[0])


async def test_an_error_that_echoes_the_key_does_not_pass_it_on(asked):
    """A server that puts the key where its error's type stands can't bring it into a log."""
    error = {"code": KEY, "type": KEY, "message": KEY, "status": KEY}
    body = json.dumps({"error": error, "__type": KEY, "message": KEY}).encode()
    with pytest.raises(ModelRejectedError, match="HTTP 401; check the API key") as caught:
        await asked(plain(401, body))
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{"api_key": "sk-a\nb"}, {"api_key": "sk-ü"}, {"headers": {"A": "a\r\nb"}}]
)
def test_headers_that_can_not_be_sent_are_refused(http, settings):
    """The error doesn't quote the value."""
    with pytest.raises(ConfigurationError, match="can't send") as caught:
        http.make("http://127.0.0.1", **settings)
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [{"options": 5}, {"options": {1: 2}}, {"read_timeout": 0}, {"headers": {"A": 1}}, {"nonsense": 1}],
)
def test_settings_that_are_none_are_refused(http, settings):
    """A setting of a wrong type, or of an unknown name, is a clear error."""
    with pytest.raises(ConfigurationError, match=r"model's|no setting 'nonsense'; it has name"):
        open_model({"provider": http.name, "name": "m", "base_url": "http://127.0.0.1", **settings})


async def test_a_proxy_of_the_environment_is_used(monkeypatch, ask, http):
    """A request goes to the proxy that the environment names, for its own address."""
    async with replay(stream(http.text("ok"))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.base_url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        provider = http.make("http://models.example")
        await ask(provider, "hi")
        await provider.aclose()
    assert proxy.paths[0].startswith("http://models.example/")
