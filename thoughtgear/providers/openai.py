"""OpenAI over HTTP: the Responses API there, Chat Completions of every server that speaks its protocol."""

from __future__ import annotations

from typing import Any, Literal

from thoughtgear.errors import ConfigurationError
from thoughtgear.protocols import ModelRequest
from thoughtgear.providers import openai_request, responses_request
from thoughtgear.providers.answers import Builder
from thoughtgear.providers.http import HttpProvider, Vendor
from thoughtgear.providers.openai_reply import ReplyBuilder
from thoughtgear.providers.responses_reply import ResponseBuilder


class OpenAIProvider(HttpProvider):
    """A model of OpenAI, or behind an endpoint like its own. `OPENAI_API_KEY` and `OPENAI_BASE_URL` are the
    defaults."""

    vendor = Vendor(
        name="openai",
        title="OpenAI",
        url="https://api.openai.com/v1",
        keys=("OPENAI_API_KEY",),
        address="OPENAI_BASE_URL",
        example="gpt-4o-mini",
        host=".openai.com",
    )

    def __init__(
        self,
        name: str = "",
        *,
        api: Literal["responses", "chat"] | None = None,
        return_reasoning: bool = True,
        **settings: Any,
    ) -> None:
        """`api` is which of its two protocols is spoken (None: "responses" with OpenAI itself, "chat" with
        everyone else). A server of Chat Completions that sends reasoning gets it back with the transcript,
        unless `return_reasoning` is False. The other settings are those of `HttpProvider`. Raises
        `ConfigurationError`."""
        super().__init__(name, **settings)
        if api not in (None, "responses", "chat"):
            raise ConfigurationError('The api of an OpenAI model is "responses" or "chat".')
        official = self._base_url.host.endswith(self.vendor.host)
        self._return_reasoning = return_reasoning
        self._official, self._responses = official, official if api is None else api == "responses"

    def _auth(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def _encode(self, request: ModelRequest) -> tuple[str, bytes]:
        if self._responses:
            return "/responses", responses_request.encode_request(self.model, request)
        return "/chat/completions", openai_request.encode_request(
            self.model, request, pdf=self._official, reasoning=self._return_reasoning
        )

    def _builder(self) -> Builder:
        return ResponseBuilder() if self._responses else ReplyBuilder()
