"""How the provider is set up."""

import asyncio
import gc
import threading
import weakref
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from dialects import GEMINI, OPENAI
from replay_server import events, plain, replay, stream

from thoughtgear.errors import ConfigurationError, ModelRejectedError
from thoughtgear.models import Message
from thoughtgear.protocols import ModelProvider, ModelRequest
from thoughtgear.providers.loops import ClientPerLoop
from thoughtgear.providers.openai import OpenAIProvider
from thoughtgear.registry import open_model

KEY = "sk-verysecret"
OK = stream(events({"choices": [{"delta": {"content": "ok"}, "finish_reason": "stop"}]}, "[DONE]"))


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    """The environment names no server and no key."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_a_missing_key_is_found_before_the_first_run():
    """Without a key OpenAI itself is refused, with the variable to set."""
    with pytest.raises(ConfigurationError, match="set OPENAI_API_KEY"):
        open_model("openai:gpt-4o-mini")


def test_other_servers_need_no_key():
    """A server of one's own may have none."""
    provider = open_model({"provider": "openai", "name": "m", "base_url": "http://127.0.0.1:1/v1"})
    assert isinstance(provider, ModelProvider)
    assert provider.model == "m"


async def test_the_environment_names_server_and_key(monkeypatch, ask):
    """OPENAI_BASE_URL and OPENAI_API_KEY are the defaults, and the key goes into the header alone."""
    async with replay(OK) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url + "/")
        monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
        provider = open_model("openai:m")
        await ask(provider, "hi")
        await provider.aclose()
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert server.bodies[0]["model"] == "m"
    assert KEY not in str(server.bodies)


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({}, "/responses"),
        ({"api": "chat"}, "/chat/completions"),
        ({"base_url": "http://127.0.0.1:1/v1"}, "/chat/completions"),
        ({"base_url": "http://127.0.0.1:1/v1", "api": "responses"}, "/responses"),
    ],
)
def test_openai_itself_is_asked_by_its_newer_protocol(monkeypatch, settings, path):
    """The Responses API is spoken with OpenAI, Chat Completions with others, unless `api` says otherwise."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    provider = open_model({"provider": "openai", "name": "gpt-5", **settings})
    assert provider._encode(ModelRequest("", [Message(seq=0, role="user", text="Hi.")]))[0] == path


def test_an_api_that_is_none_is_refused():
    """The error names the two there are."""
    with pytest.raises(ConfigurationError, match='"responses" or "chat"'):
        OpenAIProvider("m", base_url="http://127.0.0.1/v1", api="completions")


async def test_an_empty_key_sends_none(monkeypatch, ask):
    """With api_key="" the key of the environment stays here."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    async with replay(OK) as server:
        provider = OpenAIProvider("m", base_url=server.base_url, api_key="", headers={"X-Team": "a"})
        await ask(provider, "hi")
        await provider.aclose()
    assert "authorization" not in server.headers[0]
    assert server.headers[0]["x-team"] == "a"


def test_the_key_is_not_shown():
    """The repr names the model and the host, neither the key nor a password of the URL."""
    provider = OpenAIProvider("m", api_key=KEY, base_url="https://me:hidden@models.example/v1")
    assert repr(provider) == "OpenAIProvider(name='m', host='models.example')"


async def test_an_error_that_echoes_the_key_does_not_pass_it_on(ask):
    """A server that puts the key where its error codes stand can't bring it into a log."""
    body = f'{{"error": {{"code": "{KEY}", "type": "{KEY}", "message": "{KEY}"}}}}'.encode()
    async with replay(plain(401, body)) as server:
        provider = OpenAIProvider("m", api_key=KEY, base_url=server.base_url)
        with pytest.raises(ModelRejectedError, match="HTTP 401; check the API key") as caught:
            await ask(provider, "hi")
        await provider.aclose()
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{"api_key": "sk-a\nb"}, {"api_key": "sk-ü"}, {"headers": {"X-A": "a\r\nb"}}]
)
def test_headers_that_can_not_be_sent_are_refused(settings):
    """The error doesn't quote the value."""
    with pytest.raises(ConfigurationError, match="can't send") as caught:
        OpenAIProvider("m", base_url="http://127.0.0.1/v1", **settings)
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize("base_url", ["127.0.0.1:8080", "ftp://host/v1", "http://", "http://host:port/v1"])
def test_a_base_url_that_is_none_is_refused(base_url):
    """The error shows what one looks like."""
    with pytest.raises(ConfigurationError, match="an example: http://"):
        OpenAIProvider("m", base_url=base_url)


def test_a_model_needs_a_name():
    """The error shows how to give one."""
    with pytest.raises(ConfigurationError, match='"openai:gpt-4o-mini"'):
        open_model("openai")


class Pong(BaseHTTPRequestHandler):
    """Answers in a thread, so that it outlives an event loop."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = events({"choices": [{"delta": {"content": "pong"}, "finish_reason": "stop"}]}, "[DONE]")
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def pong_url():
    """A server in a thread."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Pong) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def test_one_provider_serves_several_event_loops(pong_url, ask):
    """A provider that was used under one `asyncio.run` works under the next, closed between them or not."""
    provider = OpenAIProvider("m", base_url=pong_url, keep_alive=True)

    async def twice(*, close: bool) -> str:
        replies = [(await ask(provider, "ping"))[0].text for _ in range(2)]
        if close:
            await provider.aclose()
        return " ".join(replies)

    for close in (False, True, True):
        assert asyncio.run(twice(close=close)) == "pong pong"


def test_a_closed_event_loop_is_not_kept(pong_url, ask):
    """A provider that was left open under an earlier `asyncio.run` doesn't hold on to that loop."""
    provider = OpenAIProvider("m", base_url=pong_url)

    async def once() -> weakref.ref[asyncio.AbstractEventLoop]:
        await ask(provider, "ping")
        return weakref.ref(asyncio.get_running_loop())

    first, second = asyncio.run(once()), asyncio.run(once())
    gc.collect()
    assert first() is None
    assert second() is not None


async def test_loops_of_two_threads_open_their_clients_at_once():
    """While one loop's client is opened, that of another thread's loop is, and both are kept."""
    clients = ClientPerLoop(httpx.AsyncClient)
    found: list[httpx.AsyncClient] = []

    async def other() -> None:
        found.extend([clients.get(), clients.get()])

    class Meanwhile:
        """A loop that takes its time to say whether it is closed."""

        asked = False

        def is_closed(self) -> bool:
            if not self.asked:
                self.asked = True
                thread = threading.Thread(target=asyncio.run, args=(other(),))
                thread.start()
                thread.join(10)
            return True

    await asyncio.sleep(0)
    clients._clients[Meanwhile()] = httpx.AsyncClient()
    mine = clients.get()
    assert clients.get() is mine
    assert found[0] is found[1] is not mine
    assert found[0] in clients._clients.values()
    await clients.aclose()


async def test_the_query_of_an_address_stays(ask):
    """What stands behind a question mark of base_url goes with each request."""
    async with replay(stream(OPENAI.text("ok"))) as server:
        for base_url in (f"{server.base_url}?api-version=1", f"{server.base_url}/?api-version=1"):
            provider = OpenAIProvider("m", base_url=base_url)
            await ask(provider, "hi")
            await provider.aclose()
    async with replay(stream(GEMINI.text("ok"))) as other:
        provider = GEMINI.make(f"{other.base_url}?key=x")
        await ask(provider, "hi")
        await provider.aclose()
    assert server.paths == ["/v1/chat/completions?api-version=1"] * 2
    assert other.paths == ["/v1/models/m-1:streamGenerateContent?alt=sse&key=x"]


async def test_closing_twice_is_fine_and_use_after_it_too(pong_url, ask):
    """A closed provider opens new connections when it is asked again."""
    provider = OpenAIProvider("m", base_url=pong_url, keep_alive=True)
    for _ in range(2):
        assert (await ask(provider, "ping"))[0].text == "pong"
        await provider.aclose()
        await provider.aclose()
