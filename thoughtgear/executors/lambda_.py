"""The executor that AWS Lambda drives: one invocation per iteration, each fires the next."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Self

from thoughtgear.errors import ConfigurationError, ExecutorUnavailableError
from thoughtgear.executors.aws import ask, aws_client
from thoughtgear.executors.chain import ChainExecutor
from thoughtgear.executors.turns import CLAIM_SECONDS, Turn, event_of

Invoke = Callable[[dict[str, Any]], Any]
"""Fires an event at the function, and does not wait for what becomes of it. Plain (called in a thread) or
async; whatever it raises means that the event was not taken."""

ACCEPTED = 202


class LambdaExecutor(ChainExecutor):
    """Has a function drive the runs: each invocation runs one iteration and fires the next event.

    `invoke` fires an event, a dict; `from_boto3` has AWS's own. The function is made by
    `make_lambda_handler` of a handler with this executor, and reaches the same store. One executor serves one
    handler.
    """

    name = "lambda"

    def __init__(self, invoke: Invoke, *, claim_seconds: float = CLAIM_SECONDS) -> None:
        """`claim_seconds`: how long the run of an invocation that died stays untouched by others. Raises
        `ConfigurationError`."""
        super().__init__(claim_seconds)
        if not callable(invoke):
            raise ConfigurationError("LambdaExecutor takes a function that fires an event, a dict.")
        self._invoke = invoke

    @classmethod
    def from_boto3(
        cls,
        function_name: str,
        *,
        client: Any = None,
        claim_seconds: float = CLAIM_SECONDS,
        **settings: Any,
    ) -> Self:
        """Fire at a function of AWS by its name or ARN. `client` is a boto3 client of Lambda; without, one is
        made of `settings` (`region_name`, `endpoint_url`, …) and AWS's environment. Raises
        `ConfigurationError`."""
        if not isinstance(function_name, str) or not function_name.strip():
            raise ConfigurationError("LambdaExecutor.from_boto3 needs the name or ARN of a function.")
        aws = client if client is not None else aws_client("lambda", **settings)

        async def invoke(event: Mapping[str, Any]) -> None:
            answer = await ask(
                "AWS Lambda",
                aws.invoke,
                FunctionName=function_name,
                InvocationType="Event",
                Payload=json.dumps(event).encode(),
            )
            if answer["StatusCode"] != ACCEPTED:
                raise ExecutorUnavailableError(f"AWS Lambda answers {answer['StatusCode']}.")

        return cls(invoke, claim_seconds=claim_seconds)

    async def follow(self, turn: Turn) -> None:
        """Fire the event of a turn. Raises `ExecutorUnavailableError`."""
        event = event_of(turn)
        try:
            if inspect.iscoroutinefunction(self._invoke):
                await self._invoke(event)
            else:
                made = await asyncio.to_thread(self._invoke, event)
                if inspect.isawaitable(made):
                    await made
        except ExecutorUnavailableError:
            raise
        except Exception as exc:
            raise ExecutorUnavailableError(
                f"The event could not be fired ({type(exc).__name__}); the run is in the store: go on with "
                "continue_run."
            ) from exc


def from_environment() -> LambdaExecutor:
    """What `executor="lambda"` is: it fires at the function that `THOUGHTGEAR_LAMBDA_FUNCTION` names; inside
    of a function, at itself. Raises `ConfigurationError`."""
    name = os.environ.get("THOUGHTGEAR_LAMBDA_FUNCTION") or os.environ.get("AWS_LAMBDA_FUNCTION_NAME")
    if not name:
        raise ConfigurationError('executor="lambda" needs THOUGHTGEAR_LAMBDA_FUNCTION, a name or an ARN.')
    return LambdaExecutor.from_boto3(name)
