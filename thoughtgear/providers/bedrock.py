"""Amazon Bedrock's Converse API, by boto3 in a thread: it signs the requests and reads the event stream."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, DataNotFoundError, NoRegionError

from thoughtgear.errors import ConfigurationError, ModelError, ModelRejectedError, ModelUnavailableError
from thoughtgear.protocols import ModelReply, ModelRequest, OnText
from thoughtgear.providers.answers import MOST_CALLS, paid_for
from thoughtgear.providers.bedrock_failures import translated
from thoughtgear.providers.bedrock_reply import ConverseBuilder
from thoughtgear.providers.bedrock_request import converse_arguments
from thoughtgear.providers.bedrock_stream import EventsFromThread, ReadError
from thoughtgear.providers.failures import request_id
from thoughtgear.providers.http import check_settings


class BedrockProvider:
    """A model behind Amazon Bedrock's ConverseStream.

    Region and credentials are found where AWS's own tools find them. Makes one request per reply and never
    retries. A request that is given up is hung up on; one that AWS has not begun to answer is left behind in
    its thread, for `read_timeout` at the most.
    """

    def __init__(
        self,
        name: str = "",
        *,
        region: str | None = None,
        profile: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        session_token: str | None = None,
        base_url: str | None = None,
        options: Mapping[str, Any] | None = None,
        connect_timeout: float = 10.0,
        read_timeout: float = 120.0,
        max_reply_bytes: int = 32 * 1024 * 1024,
        prompt_cache: bool | None = None,
        json_schema: bool | None = None,
    ) -> None:
        """`name` is the id of a model or of an inference profile. `options` go with each request; times are
        in seconds. `prompt_cache` sets cache points, `json_schema` holds answers to the schema of an output
        type (None: of models that are known to take them). Raises `ConfigurationError`."""
        if not name:
            raise ConfigurationError(
                'No model name; use for example "bedrock:us.anthropic.claude-sonnet-4-5-20250929-v1:0".'
            )
        keys = (access_key_id, secret_access_key, session_token)
        texts = (name, region, profile, base_url, *keys)
        check_settings(texts, (connect_timeout, read_timeout, max_reply_bytes), {}, options or {})
        self.model = name
        self._options, self._cache, self._json_schema = dict(options or {}), prompt_cache, json_schema
        self._max_reply_bytes = max_reply_bytes
        self._session = {"region_name": region, "profile_name": profile, **_keys(*keys)}
        self._endpoint = base_url
        self._times = {"connect_timeout": connect_timeout, "read_timeout": read_timeout}
        self._opened: Any = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"BedrockProvider(name={self.model!r}, region={self._session['region_name']!r})"

    def _client(self) -> Any:
        """The client, made on first use: it reads AWS's descriptions of its services."""
        with self._lock:
            if self._opened is None:
                given = {name: value for name, value in self._session.items() if value is not None}
                # One try: retrying belongs to the executor.
                config = Config(
                    retries={"total_max_attempts": 1},
                    max_pool_connections=100,
                    user_agent_extra="thoughtgear",
                    **self._times,
                )
                try:
                    session = boto3.Session(**given)
                    self._opened = session.client(
                        "bedrock-runtime", endpoint_url=self._endpoint, config=config
                    )
                except NoRegionError:
                    raise ConfigurationError(
                        "No region for Bedrock: set AWS_REGION or pass region=…"
                    ) from None
                except (BotoCoreError, DataNotFoundError, ValueError) as exc:
                    raise ConfigurationError(f"Bedrock can't be set up ({type(exc).__name__}).") from exc
            return self._opened

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        """Ask once. Raises `ModelUnavailableError` or `ModelRejectedError`; see `ModelProvider`."""
        request = replace(request, options={**self._options, **request.options})
        arguments = converse_arguments(self.model, request, cache=self._cache, json_schema=self._json_schema)
        builder, events = ConverseBuilder(), EventsFromThread(self._client, arguments)
        try:
            async with events:
                await self._read(events, builder, on_text)
            self._check_end(events, builder)
        except ModelError as exc:
            exc.paid = paid_for(builder.usage, builder.model, self.model, events.host)
            raise
        made = builder.build(self.model, request_id(events.headers))
        return replace(made, asked=self.model, host=events.host)

    async def _read(self, events: EventsFromThread, builder: ConverseBuilder, on_text: OnText) -> None:
        try:
            await self._collect(events, builder, on_text)
        except ReadError as exc:
            error = translated(events.where, exc.cause, begun=builder.started, answered=exc.answered)
            if not builder.finished:
                raise error or exc.cause from exc.cause

    async def _collect(self, events: EventsFromThread, builder: ConverseBuilder, on_text: OnText) -> None:
        size = 0
        async for event in events:
            size += len(repr(event))
            if size > self._max_reply_bytes:
                most = f"{self._max_reply_bytes} bytes; limit it with the option maxTokens"
                raise ModelRejectedError(f"{events.where}: the reply is over {most}")
            piece = builder.add(event)
            if builder.parts > MOST_CALLS:
                raise ModelRejectedError(f"{events.where}: the reply asks for more than {MOST_CALLS:,} calls")
            if piece:
                await on_text(piece)

    def _check_end(self, events: EventsFromThread, builder: ConverseBuilder) -> None:
        number = request_id(events.headers)
        if not builder.finished:
            raise ModelUnavailableError(
                f"{events.where}: the reply was cut short", request_id=number, begun=builder.started
            )
        builder.check_end(events.where, number)

    async def aclose(self) -> None:
        """Close the connections. The provider may be used again."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()


def _keys(
    access_key_id: str | None, secret_access_key: str | None, token: str | None
) -> dict[str, str | None]:
    if (access_key_id is None) != (secret_access_key is None):
        raise ConfigurationError("access_key_id and secret_access_key belong together: give both or none.")
    return {
        "aws_access_key_id": access_key_id,
        "aws_secret_access_key": secret_access_key,
        "aws_session_token": token,
    }
