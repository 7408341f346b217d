"""How Bedrock fails: botocore's exceptions as `ModelError`s."""

from __future__ import annotations

from typing import Any

from botocore.eventstream import ParserError as EventParserError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  botocore's
    CredentialRetrievalError,
    EventStreamError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from thoughtgear.errors import ModelError, ModelRejectedError, ModelUnavailableError, ThoughtgearError
from thoughtgear.providers.failures import Failure, http_error, identifier, stream_error

IN_STREAM = {
    "internalserverexception": 500,
    "modelstreamerrorexception": 500,
    "modeltimeoutexception": 408,
    "serviceunavailableexception": 503,
    "throttlingexception": 429,
    "validationexception": 400,
}
"""The status that an exception inside of an answer would have had before it."""

MODEL_ERROR = 424
"""The model failed, through no fault of the request."""


def translated(where: str, exc: Exception, *, begun: bool, answered: bool) -> ModelError | None:
    """The error for an exception; None for one that is not botocore's. Its text is not passed on: it can hold
    the prompt. `begun`: of the reply something has come; `answered`: the server had sent its headers."""
    if isinstance(exc, EventStreamError):
        error = _in_stream(where, exc)
    elif isinstance(exc, ClientError):
        error = _answered(where, exc)
    elif isinstance(exc, NoCredentialsError | PartialCredentialsError):
        text = f"{where}: no AWS credentials; set them where AWS's own tools find them"
        error = ModelRejectedError(text)
    elif isinstance(exc, ParamValidationError):
        error = ModelRejectedError(f"{where}: botocore refuses the request; check the options")
    elif isinstance(exc, EventParserError | ResponseParserError) and not begun:
        error = ModelRejectedError(f"{where}: the answer is no stream of Converse; check base_url")
    elif isinstance(exc, ConnectionError):
        error = ModelUnavailableError(f"{where}: no connection ({type(exc).__name__}); check base_url")
    elif isinstance(exc, HTTPClientError | HTTPError | EventParserError | ResponseParserError | OSError):
        error = ModelUnavailableError(f"{where}: the connection failed ({type(exc).__name__})")
    elif isinstance(exc, CredentialRetrievalError):
        error = ModelUnavailableError(f"{where}: AWS gave no credentials ({type(exc).__name__})")
    elif isinstance(exc, BotoCoreError):
        error = ModelRejectedError(f"{where}: botocore failed ({type(exc).__name__})")
    elif answered and not isinstance(exc, ThoughtgearError):  # botocore's parser stumbles over wrong types
        error = ModelUnavailableError(f"{where}: the reply can't be read ({type(exc).__name__})")
    else:
        return None
    error.begun = begun
    return error


def _answered(where: str, exc: ClientError) -> ModelError:
    about: Any = exc.response.get("ResponseMetadata", {})
    status = int(about.get("HTTPStatusCode", 0))
    headers = about.get("HTTPHeaders", {})
    failure = Failure(code=identifier(exc.response.get("Error", {}).get("Code")))
    if status != MODEL_ERROR:
        return http_error(where, status, headers, failure)
    known = http_error(where, status, headers, failure)
    return ModelUnavailableError(str(known), status=status, request_id=known.request_id)


def _in_stream(where: str, exc: EventStreamError) -> ModelError:
    code = identifier(exc.response.get("Error", {}).get("Code"))
    status = IN_STREAM.get(code.lower())
    return stream_error(where, {}, Failure(code=code, status=status))
