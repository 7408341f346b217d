"""The handlers that a worker serves, by name, and what the worker knows of its namespace."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import timedelta

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from thoughtgear.errors import ConfigurationError
from thoughtgear.handler import PromptHandler

SEARCH_ATTRIBUTES = ("ThoughtgearStatus", "ThoughtgearHandler", "ThoughtgearModel", "ThoughtgearSession")
"""Of type Keyword. The workflow sets those that the namespace has."""

Serve = Callable[[PromptHandler], PromptHandler]

_PASSING = (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.UNAVAILABLE, RPCStatusCode.RESOURCE_EXHAUSTED)

PROBE = timedelta(seconds=5)

log = logging.getLogger("thoughtgear")


class Roster:
    """Several handlers on one worker."""

    def __init__(self, handlers: Iterable[PromptHandler]) -> None:
        self._given: dict[str, PromptHandler] = {}
        self._served: dict[str, PromptHandler] = {}
        self._attributes: list[str] | None = None
        self.add(handlers)

    def add(self, handlers: Iterable[PromptHandler], serve: Serve = lambda handler: handler) -> None:
        """Add handlers; what `serve` makes of each is what runs. The same one again changes nothing. Raises
        `ConfigurationError`."""
        for handler in handlers:
            _check_reach(handler)
            known = self._given.setdefault(handler.name, handler)
            if known is not handler:
                raise ConfigurationError(
                    f"Two handlers of one worker are named {handler.name!r}; give one of them another name."
                )
            if handler.name not in self._served:
                self._served[handler.name] = serve(handler)

    def find(self, name: str, *, last: bool = False) -> PromptHandler:
        """Return the handler. An unknown one may be known to another worker of a rolling deploy, so the
        failure is retryable unless this was the `last` try."""
        handler = self._served.get(name)
        if handler is None:
            known = ", ".join(sorted(self._served)) or "none"
            raise ApplicationError(
                f"This worker has no handler of the name {name[:100]!r}; it has: {known[:300]}.",
                type="UnknownHandlerError",
                non_retryable=last,
            )
        return handler

    async def search_attributes(self, client: Client) -> list[str]:
        """Return which of our search attributes the namespace has, asked once. To set another one would
        fail workflow tasks for ever, so where the server does not tell, there are none."""
        if self._attributes is None:
            try:
                self._attributes = await search_attributes_of(client)
            except RPCError as exc:
                log.info("Search attributes are off: the server did not list them (%s).", exc.status.name)
                if exc.status == RPCStatusCode.UNAVAILABLE:
                    return []
                self._attributes = []
        return self._attributes


async def search_attributes_of(client: Client) -> list[str]:
    """Return which of our search attributes the namespace has. Raises `RPCError`."""
    request = ListSearchAttributesRequest(namespace=client.namespace)
    answer = await client.operator_service.list_search_attributes(request, timeout=PROBE)
    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    return [name for name in SEARCH_ATTRIBUTES if answer.custom_attributes.get(name) == keyword]


def _check_reach(handler: PromptHandler) -> None:
    if handler.store.reach == "process":
        raise ConfigurationError(
            f"Handler {handler.name!r} keeps its runs in the memory of one process, where a second worker "
            "finds none; use db='sqlite:///thoughtgear.db' or another store that outlives a process."
        )
