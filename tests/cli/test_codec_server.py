"""The codec server, as Temporal's own command line and a browser speak to it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from google.protobuf.json_format import MessageToDict
from temporalio.api.common.v1 import Payload, Payloads
from terminal import Command, Terminal

from thoughtgear.codec import KEYS, EncryptionCodec
from thoughtgear.codec_server import BODY_BYTES, CodecServerSettings
from thoughtgear.devserver import DevServer, find_server
from thoughtgear.errors import ConfigurationError
from thoughtgear.worker_process import WorkerProcess

OLD, NEW = os.urandom(32), os.urandom(32)
ENVIRONMENT = {KEYS: f"new:{base64.b64encode(NEW).decode()},old:{base64.b64encode(OLD).decode()}"}
TOKEN, UI = "a-token-of-16-characters", "http://localhost:8233"
PLAIN = Payload(metadata={"encoding": b"json/plain"}, data=b'"a canary"')


@dataclass
class Server:
    """A codec server that runs, and a client of its address."""

    command: Command
    http: httpx.AsyncClient

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json", "x-namespace": "default", **headers}
        return await self.http.post(path, content=content, headers=headers)


@pytest.fixture
async def started(terminal: Terminal) -> AsyncIterator[Callable[..., Any]]:
    """Starts a codec server with these options."""
    clients: list[httpx.AsyncClient] = []

    async def start(*options: str, **environment: str) -> Server:
        command = await terminal.start(
            "codec-server", "--port", "0", *options, **{**ENVIRONMENT, **environment}
        )
        await command.until_says("answers browsers")
        clients.append(httpx.AsyncClient(base_url=command.word_after("codec server at ")))
        return Server(command, clients[-1])

    yield start
    for client in clients:
        await client.aclose()


def message(*payloads: Payload) -> dict[str, Any]:
    found: dict[str, Any] = MessageToDict(Payloads(payloads=payloads))
    return found


async def test_the_protocol(started: Callable[..., Any]) -> None:
    """Payloads are encoded with the first key and decoded with any, plain ones pass, at any depth of the
    path; whoever has not the token gets nothing; what can't be read is a 400 that quotes nothing of it; and
    the log has no payload. SIGTERM ends it with 0."""
    server = await started("--token", TOKEN, "--origin", UI)
    good = {"authorization": f"Bearer {TOKEN}"}
    encoded = (await server.post("/encode", message(PLAIN), **good)).json()
    [old] = await EncryptionCodec({"old": OLD}).encode([PLAIN])
    both = message(old, PLAIN)["payloads"] + encoded["payloads"]
    decoded = await server.post("/some/where/default/decode", {"payloads": both}, **good)
    assert decoded.json() == message(PLAIN, PLAIN, PLAIN)
    assert (decoded.headers["content-type"], decoded.headers["cache-control"]) == (
        "application/json",
        "no-store",
    )
    assert base64.b64decode(encoded["payloads"][0]["metadata"]["encryption-key-id"]) == b"new"

    for headers in (
        {},
        {"authorization": "Bearer another"},
        {"authorization": TOKEN},
        {"authorization": f"Basic {TOKEN}"},
    ):
        assert (await server.post("/decode", message(old), **headers)).status_code == 401

    [foreign] = await EncryptionCodec({"lost": NEW}).encode([PLAIN])
    for body, says in [
        (message(foreign), "encrypted with key 'lost'"),
        (b'{"payloads": [{"data": "canary!"}]}', "no Payloads message"),
        (b"[canary", "no Payloads message"),
        (b'{"payloads": ' + b"[" * 100_000, "no Payloads message"),
        (b"\xff", "no Payloads message"),
    ]:
        refused = await server.post("/decode", body, **good)
        assert (refused.status_code, says in refused.text, "canary" in refused.text) == (400, True, False)
    assert (await server.post("/decode", b" " * (BODY_BYTES + 1), **good)).status_code == 413
    assert (await server.http.get("/decode", headers=good)).status_code == 405
    assert (await server.post("/other", message(PLAIN), **good)).status_code == 404

    server.command.terminate()
    ended = await server.command.ended()
    assert (ended.code, ended.out) == (0, "")
    assert "decode for namespace 'default': 200" in ended.err
    assert not [
        word
        for word in ("canary", TOKEN, old.data.hex(), encoded["payloads"][0]["data"])
        if word in ended.err
    ]


async def test_browsers(started: Callable[..., Any]) -> None:
    """A browser may send the interface's headers from the origin that was named, and from no other; without a
    token, only to a name of this machine."""
    server = await started("--no-token", "--origin", UI)
    asks = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,x-namespace,authorization",
    }
    allowed = await server.http.options("/decode", headers={"origin": UI, **asks})
    refused = await server.http.options("/decode", headers={"origin": "http://evil.test", **asks})
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, UI)
    assert {"content-type", "x-namespace", "authorization"} <= set(
        allowed.headers["access-control-allow-headers"].lower().replace(" ", "").split(",")
    )
    assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (400, False)

    sent = await server.post("/encode", message(PLAIN), origin=UI)
    assert (sent.status_code, sent.headers["access-control-allow-origin"]) == (200, UI)
    assert (await server.post("/encode", message(PLAIN), origin="http://evil.test")).status_code == 403
    assert (await server.post("/encode", message(PLAIN), host="evil.test")).status_code == 400
    assert (await server.post("/encode", message(PLAIN), host="localhost:8081")).status_code == 200


async def test_what_cannot_be_served(terminal: Terminal) -> None:
    """Without a token, without keys, or where the port is taken, it does not start, and says why."""
    undecided = await terminal.type("codec-server", **ENVIRONMENT)
    keyless = await terminal.type("codec-server", "--no-token", "--port", "0")
    assert (undecided.code, "--no-token" in undecided.err) == (2, True)
    assert (keyless.code, KEYS in keyless.err, "Traceback" in keyless.err) == (1, True, False)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"token": "short"}, "16 characters"),
        ({"host": "0.0.0.0"}, "127.0.0.1 only"),
        ({"origins": ("*",)}, "no origin"),
        ({"origins": ("localhost:8233",)}, "no origin"),
        ({"origins": (UI + "/",)}, "no origin"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], says: str) -> None:
    """A guessable token, an open port without one, and what is no origin are ConfigurationErrors."""
    with pytest.raises(ConfigurationError, match=says):
        CodecServerSettings(**settings)


async def test_the_whole_way(
    terminal: Terminal,
    server: DevServer,
    started: Callable[..., Any],
    start_worker: Callable[..., WorkerProcess],
) -> None:
    """With keys in the environment, `worker` and `run` encrypt; `temporal workflow show` reads the history
    through the codec server with the token, and without it sees ciphertext; what `temporal workflow start`
    sends through it is encrypted, and runs."""
    start_worker("agent:handler", **ENVIRONMENT)
    place = ("-t", "agent:handler", "--address", server.address)
    ran = await terminal.type("run", *place, "--json", "Hello", **ENVIRONMENT)
    workflow = f"thoughtgear-{json.loads(ran.out)['run_id']}"
    codec_server = await started("--token", TOKEN)
    url = f"{codec_server.http.base_url}/{{namespace}}"

    async def temporal(*words: str, through: bool = True) -> str:
        options = ("--codec-endpoint", url, "--codec-auth", f"Bearer {TOKEN}") if through else ()
        process = await asyncio.create_subprocess_exec(
            find_server(), "workflow", *words, *options, "--address", server.address, "-o", "json",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
        assert process.returncode == 0
        return out.decode()

    hidden, shown = [
        payloads_of(await temporal("show", "-w", workflow, through=each)) for each in (False, True)
    ]
    given = json.dumps({"prompt": "By hand"})
    await temporal(
        "start", "--type", "RunWorkflow", "--task-queue", "thoughtgear", "-w", "hand", "--input", given
    )
    result = json.loads(await temporal("result", "-w", "hand"))["result"]
    by_hand = payloads_of(await temporal("show", "-w", "hand", through=False))
    assert json.loads(ran.out)["output"] == "The word is HELLO."
    assert {encoding for encoding, _ in hidden + by_hand} == {"binary/encrypted"}
    assert {encoding for encoding, _ in shown} <= {"json/plain", "binary/null"}
    assert {'"thoughtgear \\u00b7 default"', '"iteration 2"'} <= {data for _, data in shown}
    assert result["output"] == "The word is HELLO."


def payloads_of(history: str) -> list[tuple[str, str]]:
    """Encoding and data of all payloads but the search attributes, which no codec touches."""
    found: list[tuple[str, str]] = []

    def look(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("metadata"), dict) and "encoding" in value["metadata"]:
                encoding = base64.b64decode(value["metadata"]["encoding"]).decode()
                found.append((encoding, base64.b64decode(value.get("data", "")).decode(errors="replace")))
            for key, item in value.items():
                if key != "searchAttributes":
                    look(item)
        elif isinstance(value, list):
            for item in value:
                look(item)

    look(json.loads(history))
    return found
