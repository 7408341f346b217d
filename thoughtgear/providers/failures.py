"""How an HTTP provider fails: statuses, error objects and network errors as `ModelError`s.

A provider's free text is never passed on: it can echo the prompt. What is: its name, the HTTP status, the
error's code and type where they look like identifiers, and the request id.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from thoughtgear.errors import ModelError, ModelRejectedError, ModelUnavailableError
from thoughtgear.models import now

_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,63}")
"""No dash: keys begin with `sk-`."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/=-]{0,127}")
_REQUEST_IDS = ("x-request-id", "request-id", "x-amzn-requestid")
_RETRYABLE_STATUS = frozenset((408, 409, 425, 429))
OUT_OF_MONEY = frozenset(
    ("insufficient_quota", "billing_error", "billing_hard_limit_reached", "billing_not_active")
)
REJECTED = frozenset(
    (
        "authentication_error",
        "content_filter",
        "content_policy_violation",
        "context_length_exceeded",
        "exceed_context_size_error",
        "invalid_api_key",
        "invalid_prompt",
        "invalid_request_error",
        "model_not_found",
        "not_found_error",
        "not_supported_error",
        "permission_error",
        "request_too_large",
    )
)
_ADVICE = {
    401: "check the API key",
    402: "check the account's balance",
    403: "check what the API key may do",
    404: "check the model's name and base_url",
}


@dataclass(frozen=True)
class Failure:
    """What an error object says, reduced to what may be passed on."""

    code: str = ""
    type: str = ""
    status: int | None = None
    wait: float | None = None

    @classmethod
    def parse(cls, body: Any) -> Failure | None:
        """Find the error object in a decoded body or event; None where there is none."""
        if isinstance(body, list) and len(body) == 1:
            return cls.parse(body[0]) if isinstance(body[0], Mapping) else None
        if not isinstance(body, Mapping):
            return None
        error = body.get("error") or _named_error(body)
        if isinstance(error, str):
            return cls(type=identifier(error))
        if not isinstance(error, Mapping):
            return cls() if error else None
        code = error.get("code")
        kind = identifier(error.get("type")) or identifier(error.get("status"))
        return cls(code=identifier(code), type=kind, status=_status(code), wait=_asked_wait(error))

    @property
    def names(self) -> list[str]:
        """The code and the type, without blanks and repeats."""
        return list(dict.fromkeys(name for name in (self.code, self.type) if name))


def _named_error(body: Mapping[str, Any]) -> Any:
    """An error that is the body itself, or stands in a response that failed."""
    if body.get("object") == "error" or body.get("type") == "error":
        return body
    response = body.get("response") if body.get("type") == "response.failed" else None
    return (response.get("error") or True) if isinstance(response, Mapping) else None


def identifier(value: Any, pattern: re.Pattern[str] = _CODE) -> str:
    """Return `value` if it is a short identifier, else nothing: it may be free text."""
    return value if isinstance(value, str) and pattern.fullmatch(value) else ""


def _status(code: Any) -> int | None:
    """The HTTP status, from servers that put it into the error object as its code."""
    status = int(code) if isinstance(code, str) and re.fullmatch("[45][0-9][0-9]", code) else code
    return status if isinstance(status, int) and 400 <= status <= 599 else None


def _asked_wait(error: Mapping[str, Any]) -> float | None:
    """Seconds that the details of the error object ask to wait, as Google's do."""
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, Mapping) else None
        if isinstance(delay, str) and delay.endswith("s"):
            return _number(delay[:-1])
    return None


def request_id(headers: Mapping[str, str]) -> str | None:
    """The provider's own id of the request, where it gives one."""
    found = (identifier(headers.get(name), _REQUEST_ID) for name in _REQUEST_IDS)
    return next(filter(None, found), None)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the provider asks to wait: `retry-after-ms`, or `Retry-After` in seconds or as a date."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    return seconds if seconds is not None or value is None else _seconds_until(value)


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _seconds_until(date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(date)
    except ValueError:
        return None
    # A date of RFC 5322 without a zone is read as naive; HTTP dates are in GMT.
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now()).total_seconds())


def http_error(where: str, status: int, headers: Mapping[str, str], failure: Failure) -> ModelError:
    """The error for an answer with a status that is no success."""
    broke = bool(OUT_OF_MONEY.intersection(failure.names))
    retryable = (status in _RETRYABLE_STATUS or status >= 500) and not broke
    advice = _ADVICE[402] if broke else _ADVICE.get(status, "")
    return _error(
        where,
        ", ".join([f"HTTP {status}", *failure.names]),
        advice,
        retryable=retryable,
        status=status,
        headers=headers,
        wait=failure.wait,
    )


def stream_error(where: str, headers: Mapping[str, str], failure: Failure) -> ModelError:
    """The error for an error object inside of an answer that began as a success.

    What isn't known to be permanent is taken as a stream cut short: the request may be tried again.
    """
    if failure.status is not None:
        return http_error(where, failure.status, headers, failure)
    rejected = bool((REJECTED | OUT_OF_MONEY).intersection(failure.names))
    what = ", ".join(["error in the stream", *failure.names])
    return _error(where, what, "", retryable=not rejected, status=None, headers=headers)


def network_error(where: str, exc: httpx.HTTPError, *, begun: bool = False) -> ModelUnavailableError:
    """The error for a request that got no whole answer."""
    if isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout):
        return ModelUnavailableError(f"{where}: no connection ({type(exc).__name__}); check base_url")
    # The text of a protocol error can quote what was sent or received; its class says enough.
    return ModelUnavailableError(f"{where}: the connection failed ({type(exc).__name__})", begun=begun)


def _error(
    where: str,
    what: str,
    advice: str,
    *,
    retryable: bool,
    status: int | None,
    headers: Mapping[str, str],
    wait: float | None = None,
) -> ModelError:
    number = request_id(headers)
    message = f"{where}: {what}" + (f" (request {number})" if number else "")
    message += f"; {advice}" if advice else ""
    kind = ModelUnavailableError if retryable else ModelRejectedError
    asked = retry_after(headers)
    return kind(message, retry_after=wait if asked is None else asked, status=status, request_id=number)
