"""Chat Completions over HTTP: OpenAI, and every server that speaks its protocol."""

from __future__ import annotations

from thoughtgear.protocols import ModelRequest
from thoughtgear.providers.http import HttpProvider, Vendor
from thoughtgear.providers.openai_reply import ReplyBuilder
from thoughtgear.providers.openai_request import encode_request


class OpenAIProvider(HttpProvider):
    """A model behind a Chat Completions endpoint. `OPENAI_API_KEY` and `OPENAI_BASE_URL` are the defaults."""

    vendor = Vendor(
        name="openai",
        title="OpenAI",
        url="https://api.openai.com/v1",
        keys=("OPENAI_API_KEY",),
        address="OPENAI_BASE_URL",
        example="gpt-4o-mini",
        host=".openai.com",
    )

    def _auth(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def _encode(self, request: ModelRequest) -> tuple[str, bytes]:
        return "/chat/completions", encode_request(self.model, request)

    def _builder(self) -> ReplyBuilder:
        return ReplyBuilder()
