"""Anthropic's Messages API over HTTP."""

from __future__ import annotations

from typing import Any

from thoughtgear.errors import ConfigurationError
from thoughtgear.protocols import ModelRequest
from thoughtgear.providers.anthropic_reply import MessageBuilder
from thoughtgear.providers.anthropic_request import encode_request
from thoughtgear.providers.http import HttpProvider, Vendor

VERSION = "2023-06-01"
TTLS = ("5m", "1h")


class AnthropicProvider(HttpProvider):
    """A Claude model behind the Messages API. `ANTHROPIC_API_KEY` and `ANTHROPIC_BASE_URL` are the defaults.

    Reasoning is returned with its signature, as the API demands it. The context, the tools and the
    conversation are marked for the prompt cache.
    """

    vendor = Vendor(
        name="anthropic",
        title="Anthropic",
        url="https://api.anthropic.com",
        keys=("ANTHROPIC_API_KEY",),
        address="ANTHROPIC_BASE_URL",
        example="claude-sonnet-4-5",
        host=".anthropic.com",
    )

    def __init__(
        self,
        name: str = "",
        *,
        prompt_cache: str | None = "5m",
        json_schema: bool | None = None,
        **settings: Any,
    ) -> None:
        """`prompt_cache` is how long the prompt cache keeps what was sent: "5m", "1h", or None for no marks.
        `json_schema` holds answers to the schema of an output type (None: of models that are known to be
        held to one). The other settings are those of `HttpProvider`. Raises `ConfigurationError`."""
        super().__init__(name, **settings)
        if prompt_cache is not None and prompt_cache not in TTLS:
            raise ConfigurationError('prompt_cache is "5m", "1h" or None.')
        self._cache, self._json_schema = prompt_cache, json_schema

    def _auth(self, key: str) -> dict[str, str]:
        return {"X-Api-Key": key}

    def _own_headers(self, api_key: str | None) -> dict[str, str]:
        return {**super()._own_headers(api_key), "Anthropic-Version": VERSION}

    def _encode(self, request: ModelRequest) -> tuple[str, bytes]:
        below = "/messages" if self._base_url.path.rstrip("/").endswith("/v1") else "/v1/messages"
        return below, encode_request(self.model, request, cache=self._cache, json_schema=self._json_schema)

    def _builder(self) -> MessageBuilder:
        return MessageBuilder()
