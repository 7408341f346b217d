"""Every error of the library, in one tree.

    ThoughtgearError
    ├── ConfigurationError            a handler, tool, store URL or setting that can't work
    ├── InvalidInputError             also a ValueError: input that no retry mends
    │   ├── LimitExceededError        a prompt, file, inbox or record over its limit
    │   ├── RequestConflictError      one request id, two different prompts
    │   └── ToolInputError            a model's arguments; the message is for the model, never for a log
    ├── RunNotFoundError              also a LookupError
    │   └── RunDeletedError           a request id whose run was deleted
    ├── RunNotOverError               a run that is not over is not deleted, unless by force
    ├── SessionBusyError              on_busy="reject" and the session's last run goes on
    ├── RunFailedError                the run ended as failed
    ├── RunCancelledError             the run ended as cancelled
    ├── WaitTimeoutError              also a TimeoutError: the run goes on
    ├── ExecutorUnavailableError      retryable: the run is durable, and nothing was told to drive it
    ├── ScheduleExistsError           a schedule of this name is there already
    ├── ScheduleNotFoundError         also a LookupError
    ├── RunBusyError                  retryable: another attempt holds the run
    ├── OutcomeUnknownError           raised by a tool that can't tell whether it took effect
    ├── SupersededError               a newer attempt holds the run; the store is untouched
    ├── StoreError
    │   ├── ConflictError             someone else committed first; nothing was written
    │   ├── CopyConflictError         a copy met something else under the same id, and left it as it is
    │   ├── StoreUnavailableError     retryable: the outcome may be unknown
    │   ├── NewerFormatError          retryable: a newer worker can read it
    │   ├── SchemaVersionError        retryable: the database is of another version of the library
    │   └── StateRegressionError      the store went back behind what was acknowledged
    ├── CodecError                    a payload from Temporal can't be read
    │   ├── UnknownKeyError           retryable: encrypted with a key that this process does not have
    │   ├── DecryptionError           another key under that id, or a payload that was changed
    │   └── PlaintextRefusedError     encryption is required, and the payload is not encrypted
    └── ModelError                    `retryable` and `retry_after` say what to do
        ├── ModelUnavailableError     retryable: network, time-out, 408, 409, 429, 5xx
        └── ModelRejectedError        400, 401, 403, 404: the same request fails again

`retryable` is what the executors look at: true means that the same iteration may be tried again
after a while; docs/errors.md has the whole table. Messages never hold prompt, reply or tool text,
because a driver may record them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class ThoughtgearError(Exception):
    """thoughtgear failed."""

    retryable = False

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class ConfigurationError(ThoughtgearError):
    """This configuration can't work."""


class InvalidInputError(ThoughtgearError, ValueError):
    """This input is not valid."""


class LimitExceededError(InvalidInputError):
    """This input is over a limit."""


class RequestConflictError(InvalidInputError):
    """This request id was used before, for another prompt."""


class ToolInputError(InvalidInputError):
    """These arguments do not fit the tool."""


class RunNotFoundError(ThoughtgearError, LookupError):
    """There is no such run in this store."""


class RunDeletedError(RunNotFoundError):
    """The run of this request id was deleted; a prompt that shall run anew needs a new request id."""


class RunNotOverError(ThoughtgearError):
    """This run is not over: cancel it first."""


class SessionBusyError(ThoughtgearError):
    """The session's last run is still going."""


class RunFailedError(ThoughtgearError):
    """The run failed."""


class RunCancelledError(ThoughtgearError):
    """The run was cancelled."""


class WaitTimeoutError(ThoughtgearError, TimeoutError):
    """The run is not over yet; it goes on."""


class ExecutorUnavailableError(ThoughtgearError):
    """What drives the runs can't be reached; the run is in the store, schedule it again.

    `run_id` is the stored run's, where it is known: `continue_run` goes on with it.
    """

    retryable = True

    def __init__(self, message: str | None = None, *, run_id: str | None = None) -> None:
        super().__init__(message)
        self.run_id = run_id


class ScheduleExistsError(ThoughtgearError):
    """There is a schedule of this name already."""


class ScheduleNotFoundError(ThoughtgearError, LookupError):
    """There is no schedule of this name."""


class RunBusyError(ThoughtgearError):
    """Another attempt is at work on this run."""

    retryable = True


class SupersededError(ThoughtgearError):
    """A newer attempt holds this run; nothing was written."""


class OutcomeUnknownError(ThoughtgearError):
    """The tool can't tell whether its call took effect."""


class StoreError(ThoughtgearError):
    """The store failed."""


class ConflictError(StoreError):
    """Someone else committed first; nothing was written."""


class CopyConflictError(StoreError):
    """The target of the copy has something else under the same id; it was left as it is.

    Or one of the two stores can't read what it has of it. `refused` says why, by run id, or by
    collection and key of a document.
    """

    def __init__(self, message: str | None = None, *, refused: Mapping[str, str] | None = None) -> None:
        self.refused = dict(refused or {})
        reasons = list(self.refused.values())
        more = f" And {len(reasons) - 5} more." if len(reasons) > 5 else ""
        super().__init__(message or " ".join(reasons[:5]) + more or None)


class StoreUnavailableError(StoreError):
    """The store can't be reached, or did not say whether it wrote."""

    retryable = True


class NewerFormatError(StoreError):
    """This record was written by a newer version; upgrade this worker."""

    retryable = True


class SchemaVersionError(StoreError):
    """The database's schema is of another version than this library. `older`: `thoughtgear db upgrade` brings
    it to this one."""

    retryable = True  # by a worker of that version, or after `thoughtgear db upgrade`

    def __init__(self, message: str | None = None, *, older: bool = False) -> None:
        super().__init__(message)
        self.older = older


class StateRegressionError(StoreError):
    """The store answers with a state older than one that it acknowledged."""


class CodecError(ThoughtgearError):
    """A payload from Temporal can't be read."""


class UnknownKeyError(CodecError):
    """The payload is encrypted with a key that this process does not have."""

    retryable = True


class DecryptionError(CodecError):
    """The payload can't be decrypted: it is damaged, or was encrypted by something else."""


class PlaintextRefusedError(CodecError):
    """Encryption is required, and this payload is not encrypted: its sender has no codec."""


class ModelError(ThoughtgearError):
    """The model call failed.

    `retry_after` is in seconds, `status` the HTTP status, `request_id` the provider's own. `begun`: a reply
    had begun to come and is lost; the provider may charge for it. `paid` is the `ModelReply` that holds what
    it counted of it, where it said so.
    """

    paid: object = None

    def __init__(
        self,
        message: str | None = None,
        *,
        retry_after: float | None = None,
        status: int | None = None,
        request_id: str | None = None,
        begun: bool = False,
    ) -> None:
        super().__init__(message)
        self.begun = begun
        self.retry_after = retry_after
        self.status = status
        self.request_id = request_id


class ModelUnavailableError(ModelError):
    """The model can't be reached or is overloaded; try again later."""

    retryable = True


class ModelRejectedError(ModelError):
    """The model refuses this request; the same request would fail again."""
