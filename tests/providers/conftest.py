"""The real model server, once per module, and short ways to ask a provider."""

import subprocess
import sys
from pathlib import Path

import pytest

from thoughtgear import loop
from thoughtgear.models import Message
from thoughtgear.protocols import ModelReply, ModelRequest


@pytest.fixture(scope="module")
def llama_url():
    """The base_url of a llama.cpp server with SmolLM2-135M."""
    script = Path(__file__).with_name("llama_server.py")
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            address = server.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:")
            yield f"{address}/v1"
        finally:
            server.kill()


@pytest.fixture
def ask():
    """Ask a provider; returns the reply and the pieces that were streamed."""

    async def asking(provider, request: ModelRequest | str) -> tuple[ModelReply, list[str]]:
        pieces: list[str] = []

        async def on_text(piece: str) -> None:
            pieces.append(piece)

        if isinstance(request, str):
            request = ModelRequest("", [Message(seq=0, role="user", text=request)])
        return await provider.reply(request, on_text), pieces

    return asking


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backoff of milliseconds."""
    monkeypatch.setattr(loop, "RETRY_FIRST", 0.001)
