"""Objects in a bucket: each method is one request, made in a thread, with its condition.

botocore tries a request again when the network or the server failed. That repeats conditional writes, too: a
first try that was done and whose answer was lost makes the second one fail with 412. So whoever is told
that a condition failed reads the object back and looks for its own nonce before it believes that it has lost.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  botocore's own, which most of its network errors are
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    ResponseStreamingError,
)

from thoughtgear.adapters.layout import LAYOUT, check_layout, no_store
from thoughtgear.adapters.s3_probe import Probe
from thoughtgear.adapters.s3_settings import S3Settings
from thoughtgear.adapters.threads import Threads
from thoughtgear.errors import ConfigurationError, StoreError, StoreUnavailableError

T = TypeVar("T")

TRIES = 3
"""How often botocore tries a request."""

CONFLICT_TRIES = 8
"""How often a write is sent that the server refuses (409) because another one is under way."""

LIST_KEYS = 1000
"""The most keys that S3 lists in one answer."""

_LAYOUT_KEY, _LAYOUT = "layout", b"%d\n" % LAYOUT
_FAILED_CONDITION = {404, 412}
_TRANSIENT = {408, 429, 500, 502, 503, 504}
_TRANSIENT_CODES = {"SlowDown", "RequestTimeout", "Throttling", "InternalError", "ServiceUnavailable"}


@dataclass(frozen=True)
class Stored:
    """An object as it stands."""

    body: bytes
    etag: str


@dataclass(frozen=True)
class Listed:
    """What a listing says about an object: its key below the prefix, and its size in bytes."""

    key: str
    size: int


class Bucket:
    """The objects below the prefix of a bucket. Keys are given without the prefix.

    The first call of a process makes sure that the server honours the conditions of writes; one that does
    not would let two writers overwrite each other, and is refused. Where use is to make no store, its first
    write does that: whoever only looks writes nothing.
    """

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._threads = Threads("thoughtgear-s3", settings.pool_size)
        self._lock = threading.Lock()
        self._made: Any = None
        self._pid = 0
        self._probed = False
        where = settings.endpoint or "AWS"
        self.address = f"The bucket {settings.bucket} at {where}"
        self._below = f"below {settings.prefix.rstrip('/')!r}" if settings.prefix else "at its top"

    async def get(self, key: str, known: str | None = None) -> Stored | None:
        """Return an object or None. One whose ETag is still `known` comes without its body."""
        condition = {"IfNoneMatch": known} if known else {}

        def call(client: Any) -> Stored | None:
            try:
                answer = client.get_object(**self._at(key), **condition)
                return Stored(answer["Body"].read(), answer["ETag"])
            except ClientError as exc:
                if known and _status(exc) == 304:
                    return Stored(b"", known)
                if _code(exc) == "NoSuchKey":
                    return None
                raise

        return await self._run(call)

    async def put(self, key: str, body: bytes, replaces: str | None) -> str | None:
        """Write an object in the place of the one with the ETag `replaces`, or of none; return the new ETag,
        or None where the condition failed: perhaps because an earlier try had succeeded."""
        return await self._run(lambda client: self._put(client, key, body, replaces), writes=True)

    async def list(self, prefix: str, after: str = "", limit: int = LIST_KEYS) -> list[Listed]:
        """Return up to `limit` objects whose keys begin with `prefix` and sort above `after`."""

        def call(client: Any) -> list[Listed]:
            base = self._settings.prefix
            given: dict[str, Any] = {"Bucket": self._settings.bucket, "Prefix": base + prefix}
            if after:
                given["StartAfter"] = base + after
            answer = client.list_objects_v2(**given, MaxKeys=min(limit, LIST_KEYS))
            rows = answer.get("Contents", ())
            return [Listed(row["Key"][len(base) :], row["Size"]) for row in rows]

        return await self._run(call)

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete up to 1,000 objects, there or not."""

        def call(client: Any) -> None:
            names = [{"Key": self._settings.prefix + key} for key in keys]
            asked = {"Objects": names, "Quiet": True}
            answer = client.delete_objects(Bucket=self._settings.bucket, Delete=asked)
            if answer.get("Errors"):
                code = answer["Errors"][0].get("Code", "")
                raise StoreUnavailableError(f"{self.address} did not delete all objects: {code}.")

        if keys:
            await self._run(call, writes=True)

    async def delete_below(self, prefix: str, chosen: Callable[[str], bool] = lambda _: True) -> None:
        """Delete every object whose key begins with `prefix` and is chosen."""
        after = ""
        while found := await self.list(prefix, after):
            await self.delete([each.key for each in found if chosen(each.key)])
            after = found[-1].key

    async def make(self) -> bool:
        """Make the store where there is none, and return whether that was so."""
        return await self._threads.run(lambda: self._translating(self._make))

    def close(self) -> None:
        """End the threads and close the connections."""
        self._threads.close()
        if self._made is not None and self._pid == os.getpid():
            self._made.close()
        self._made = None

    def _put(self, client: Any, key: str, body: bytes, replaces: str | None) -> str | None:
        given = {"IfNoneMatch": "*"} if replaces is None else {"IfMatch": replaces}
        # A writer may be killed in the midst of a request: some servers would store what has come so far.
        given["ContentMD5"] = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        for tried in range(1, CONFLICT_TRIES + 1):
            try:
                return str(client.put_object(**self._at(key), Body=body, **given)["ETag"])
            except ClientError as exc:
                if _status(exc) in _FAILED_CONDITION and _code(exc) != "NoSuchBucket":
                    return None
                if _status(exc) != 409 or tried == CONFLICT_TRIES:
                    raise
            time.sleep(random.uniform(0, 0.01 * 2**tried))  # noqa: S311  spreads writers, hides nothing
        raise AssertionError("the last try returns or raises")

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._settings.bucket, "Key": self._settings.prefix + key}

    async def _run(self, call: Callable[[Any], T], *, writes: bool = False) -> T:
        return await self._threads.run(lambda: self._translating(lambda: call(self._client(writes=writes))))

    def _translating(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except (ClientError, BotoCoreError) as exc:
            raise self._translated(exc) from exc

    def _client(self, *, writes: bool = False) -> Any:
        create = self._settings.create
        with self._lock:
            if self._made is None or self._pid != os.getpid():
                client = _connect(self._settings)
                if not self._is_made(client):
                    if not create:
                        raise no_store(f"{self.address} has no store {self._below}")
                    self._put(client, _LAYOUT_KEY, _LAYOUT, None)
                self._made, self._pid, self._probed = client, os.getpid(), False
            if (create or writes) and not self._probed:
                self._probe(self._made)
                self._probed = True
            return self._made

    def _is_made(self, client: Any) -> bool:
        """Whether the layout's number is there. Raises `SchemaVersionError` for another one."""
        try:
            found = client.get_object(**self._at(_LAYOUT_KEY))["Body"].read()
        except ClientError as exc:
            if _code(exc) != "NoSuchKey":
                raise
            return False
        check_layout(found.decode(errors="replace").strip(), f"{self.address} {self._below}", "path")
        return True

    def _make(self) -> bool:
        client = _connect(self._settings)
        try:
            there = self._is_made(client)
            made = not there and self._put(client, _LAYOUT_KEY, _LAYOUT, None) is not None
            self._probe(client)
        finally:
            client.close()
        return made

    def _probe(self, client: Any) -> None:
        """Make sure, on the layout's own object, that conditions count."""
        Probe(
            lambda replaces: self._put(client, _LAYOUT_KEY, _LAYOUT, replaces),
            lambda: str(client.get_object(**self._at(_LAYOUT_KEY))["ETag"]),
            self.address,
        ).run()

    def _translated(self, exc: ClientError | BotoCoreError) -> Exception:
        if isinstance(exc, ClientError):
            return self._answered(exc)
        if isinstance(exc, NoCredentialsError | PartialCredentialsError | ProfileNotFound):
            return ConfigurationError(
                f"{self.address} needs credentials: give access_key_id and secret_access_key, "
                "or set them up as for AWS's own tools."
            )
        reason = type(exc).__name__
        network = ConnectionError | HTTPClientError | IncompleteReadError | ReadTimeoutError
        if isinstance(exc, network | ResponseStreamingError):
            return StoreUnavailableError(f"{self.address} can't be reached: {reason}.")
        return StoreError(f"{self.address} can't be used: {reason}.")

    def _answered(self, exc: ClientError) -> Exception:
        code, status = _code(exc), _status(exc)
        answer = f"{self.address} answered {exc.operation_name} with {code} ({status})."
        if code == "NoSuchBucket":
            return ConfigurationError(f"{self.address} is not there: create it.")
        if status in _TRANSIENT or status == 409 or code in _TRANSIENT_CODES:
            return StoreUnavailableError(answer)
        if status in (401, 403):
            rights = "s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket"
            return StoreError(f"{answer} The credentials need {rights}.")
        return StoreError(answer)


async def together(calls: Iterable[Awaitable[T]]) -> list[T]:
    """Await all, and only then raise the first error: nothing goes on behind the caller's back."""
    ended = await asyncio.gather(*calls, return_exceptions=True)
    for each in ended:
        if isinstance(each, BaseException):
            raise each
    return [each for each in ended if not isinstance(each, BaseException)]


def _connect(settings: S3Settings) -> Any:
    config = Config(
        retries={"mode": "standard", "total_max_attempts": TRIES},
        max_pool_connections=settings.pool_size,
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
        tcp_keepalive=True,
        # Servers other than AWS do not all know the newer checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": settings.addressing},
    )
    core = botocore.session.Session()
    core.register_component("data_loader", _descriptions())
    session = boto3.Session(**settings.session, region_name=settings.region, botocore_session=core)
    client = session.client("s3", endpoint_url=settings.endpoint, config=config)
    client.meta.events.register_last("before-call.s3", _send_at_once)
    return client


@cache
def _descriptions() -> Any:
    """Return what reads the description of the API: a tenth of a second, which later stores need not pay."""
    return botocore.session.Session().get_component("data_loader")


def _send_at_once(params: dict[str, Any], **_: Any) -> None:
    """Take back that the server is asked before the body is sent: it costs every write a round trip."""
    params["headers"].pop("Expect", None)


def _status(exc: ClientError) -> int:
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(exc: ClientError) -> str:
    return str(exc.response.get("Error", {}).get("Code", ""))
