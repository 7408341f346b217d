"""What a URL or a dict says about an S3 store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from thoughtgear.adapters.options import first, switch
from thoughtgear.errors import ConfigurationError
from thoughtgear.locations import Location, on_servers

RIGHT_URL = (
    "Use s3://bucket/path?endpoint=https://host&region=name. Credentials come from where AWS's own tools find"
    " them, or stand in s3://access_key_id:secret_access_key@bucket with %2F for / and %2B for +."
)
MAX_PATH_BYTES = 128
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_PATH = re.compile(r"(?!\.{1,2}(/|$))[A-Za-z0-9!_.*'() -]+(/(?!\.{1,2}(/|$))[A-Za-z0-9!_.*'() -]+)*")
_ADDRESSING = ("auto", "path", "virtual")
_TEXTS = ("endpoint", "region", "addressing", "profile")
_SECRETS = ("access_key_id", "secret_access_key", "session_token")
_NUMBERS = {"pool_size": 16.0, "connect_timeout": 5.0, "read_timeout": 20.0}
KNOWN = ("bucket", "path", "create", *_TEXTS, *_SECRETS, *_NUMBERS)


@dataclass(frozen=True)
class S3Settings:
    """Where the objects are. `prefix` ends in a slash or is empty; `session` is what `boto3.Session` takes.

    `create` makes the store where there is none, `pool_size` is the number of connections and of threads, the
    times are seconds for one try of a request.
    """

    bucket: str
    prefix: str
    endpoint: str | None
    region: str | None
    addressing: str
    session: Mapping[str, str] = field(repr=False)
    create: bool
    pool_size: int
    connect_timeout: float
    read_timeout: float

    @property
    def location(self) -> Location:
        """Where the objects are. A bucket of AWS has one name, whichever endpoint leads to it."""
        parts = urlsplit(self.endpoint or "https://s3.amazonaws.com")
        port = parts.port or (80 if parts.scheme == "http" else 443)
        host = parts.hostname or ""
        server = ("aws", 0) if host.endswith(".amazonaws.com") else (host, port)
        return on_servers("s3", [server], parts.path.rstrip("/"), self.bucket, self.prefix)

    @classmethod
    def from_url(cls, url: str) -> S3Settings:
        """Read `s3://bucket/path?option=value`. Raises `ConfigurationError`, which repeats nothing."""
        try:
            parts = urlsplit(url)
            query = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        except ValueError:
            raise ConfigurationError(f"This store URL can't be read. {RIGHT_URL}") from None
        login, _, bucket = parts.netloc.rpartition("@")
        key, _, secret = login.partition(":")
        # A secret that is not escaped ends the address too early: its rest would be taken for a path.
        if parts.scheme != "s3" or parts.fragment or "@" in parts.path or ":" in bucket:
            raise ConfigurationError(f"This store URL is not one of S3. {RIGHT_URL}")
        given = {"access_key_id": unquote(key), "secret_access_key": unquote(secret)}
        named = {name: value for name, value in given.items() if value}
        return cls.from_dict({**named, **query, "bucket": bucket, "path": unquote(parts.path)})

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> S3Settings:
        """Read `bucket`, `path` and the options of a URL. Raises `ConfigurationError`."""
        given = {name: value for name, value in settings.items() if value not in (None, "")}
        unknown = given.keys() - set(KNOWN)
        if unknown:
            known = ", ".join(KNOWN)
            raise ConfigurationError(f"An S3 store has no setting {first(unknown)}; it has {known}.")
        numbers = {name: _number(given, name, default) for name, default in _NUMBERS.items()}
        endpoint = _endpoint(given.get("endpoint"))
        return cls(
            bucket=_bucket(given.get("bucket")),
            prefix=_prefix(str(given.get("path", ""))),
            endpoint=endpoint,
            region=str(given["region"]) if "region" in given else None,
            addressing=_addressing(given.get("addressing", "path" if endpoint else "auto")),
            session=_session(given),
            create=switch(given, "create", True),
            pool_size=int(numbers["pool_size"]),
            connect_timeout=numbers["connect_timeout"],
            read_timeout=numbers["read_timeout"],
        )


def _bucket(name: Any) -> str:
    if not isinstance(name, str) or not _BUCKET.fullmatch(name):
        raise ConfigurationError(f"An S3 store needs the name of a bucket. {RIGHT_URL}")
    return name


def _prefix(path: str) -> str:
    path = path.strip("/")
    if not path:
        return ""
    if not _PATH.fullmatch(path) or len(path) > MAX_PATH_BYTES:
        raise ConfigurationError(
            f"The path of an S3 store has up to {MAX_PATH_BYTES} letters, digits, spaces and !_.*'()- "
            "between single slashes."
        )
    return f"{path}/"


def _endpoint(url: Any) -> str | None:
    if url is None:
        return None
    try:
        parts = urlsplit(str(url))
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigurationError("The endpoint of an S3 store is a URL without a login: https://host:port.")
    return str(url)


def _addressing(name: Any) -> str:
    if name not in _ADDRESSING:
        raise ConfigurationError(f"The addressing of an S3 store is one of {', '.join(_ADDRESSING)}.")
    return str(name)


def _session(given: Mapping[str, Any]) -> dict[str, str]:
    if ("access_key_id" in given) != ("secret_access_key" in given):
        raise ConfigurationError("access_key_id and secret_access_key belong together: give both or none.")
    keys = {f"aws_{name}": str(given[name]) for name in _SECRETS if name in given}
    return {**keys, "profile_name": str(given["profile"])} if "profile" in given else keys


def _number(given: Mapping[str, Any], name: str, default: float) -> float:
    try:
        number = float(given.get(name, default))
    except (TypeError, ValueError, OverflowError):
        number = 0.0
    if not 0 < number <= 3600 or (name == "pool_size" and not number.is_integer()):
        raise ConfigurationError(f"{name} must be a number above 0, up to 3600; pool_size a whole one.")
    return number
