"""Run ids and labels: what they look like, and how they are made."""

from __future__ import annotations

import json
import re
import secrets
import time
import unicodedata
from hashlib import sha256

from thoughtgear.errors import InvalidInputError

_RUN_ID = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
_DEVICE = re.compile(r"\A(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|\Z)", re.IGNORECASE)
_RULE = (
    "A run id is 1 to 128 letters, digits, '_', '.' and '-', begins with a letter or digit, "
    "holds no '..', does not end in '.', and is no Windows device name."
)
LABEL_BYTES = 512


def check_run_id(text: str) -> str:
    """Return the id: safe as a file name, in a URL and as a workflow id. Raises `InvalidInputError`."""
    good = isinstance(text, str) and _RUN_ID.match(text) and ".." not in text and not text.endswith(".")
    if not good or _DEVICE.match(text):
        shown = isinstance(text, str) and "@" not in text  # else it may be a URL with a password
        got = repr(text[:60]) if shown else f"a {type(text).__name__}"
        raise InvalidInputError(f"{_RULE} Got {got}.")
    return text


def new_run_id() -> str:
    """Return a new id of 32 hexadecimal digits: the milliseconds since 1970, then 80 random bits, so that
    ids sort by the time they were made."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def run_id_for(handler: str, user_id: str | None, request_id: str) -> str:
    """Return the id of the run of a request: the same parts, in any process, give the same id."""
    parts = json.dumps([handler, user_id, request_id]).encode()
    return sha256(parts).hexdigest()[:40]


def request_id_of(namespace: str, workflow_id: str, execution: str) -> str:
    """Return the request id of a prompt that came by value: it follows from the workflow, so that a retry
    and a reset of that find the same run."""
    name = "\n".join((namespace, workflow_id, execution))
    return f"temporal-{sha256(name.encode()).hexdigest()[:32]}"


def check_label(text: str, what: str, limit: int = 200) -> str:
    """Return the label (a session, user or request id, a handler's name): any text of 1 to `limit`
    characters and at most 512 bytes, without control characters or line breaks. Raises
    `InvalidInputError` that names `what`."""
    if not isinstance(text, str) or not text.strip():
        raise InvalidInputError(f"{what} must be a text that is not empty.")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise InvalidInputError(f"{what} must not hold control characters or line breaks.")
    if len(text) > limit or len(text.encode()) > LABEL_BYTES:
        raise InvalidInputError(f"{what} must have at most {limit} characters and {LABEL_BYTES} bytes.")
    return text
