"""Maps errors to Temporal's. What Temporal records of a failure is in the history for good: our own messages,
which hold no prompt, reply or tool text, and of foreign exceptions the class name alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError

from thoughtgear.errors import ThoughtgearError, ToolInputError
from thoughtgear.logs import loggable
from thoughtgear.loop import retry_delay

MESSAGE = 500
"""How many characters of a message are recorded."""

LONGEST_RETRY = 60.0
"""Seconds. A provider that asks for more gets a durable timer in the workflow instead."""

log = logging.getLogger("thoughtgear")


@contextmanager
def recorded() -> Iterator[None]:
    """Raise what happens inside as an `ApplicationError` without cause and context."""
    try:
        yield
    except ApplicationError:
        raise
    except Exception as exc:
        failure = to_failure(exc, activity.info().attempt if activity.in_activity() else 1)
    else:
        return
    raise failure from None  # inside of a `with`, the context would be recorded, too


def to_failure(exc: Exception, attempt: int = 1) -> ApplicationError:
    """Return the failure that Temporal may record; a foreign exception goes to the log, see `loggable`.

    What is retryable says when, because Temporal's own policy is the same for every run that fails at once.
    """
    name = type(exc).__name__
    if not isinstance(exc, ThoughtgearError) or isinstance(exc, ToolInputError):
        log.error("The activity raised %s", name, exc_info=loggable(exc))
        message = f"The worker raised {name}; its log has the details."
        return ApplicationError(message, type=name, non_retryable=True)
    return ApplicationError(
        str(exc)[:MESSAGE],
        type=name,
        non_retryable=not exc.retryable,
        next_retry_delay=_delay(exc, attempt) if exc.retryable else None,
    )


def retry_after(exc: ThoughtgearError) -> float | None:
    """Return the seconds that the provider asks to wait, or None."""
    value: float | None = getattr(exc, "retry_after", None)
    return value


def _delay(exc: ThoughtgearError, attempt: int) -> timedelta:
    """Temporal takes a delay of nothing as none."""
    return timedelta(seconds=max(retry_delay(attempt, retry_after(exc)), 0.001))
