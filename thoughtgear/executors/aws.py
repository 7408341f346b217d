"""AWS's services as the executors call them: boto3 off the event loop, its errors in our words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from thoughtgear.errors import ConfigurationError, ExecutorUnavailableError

T = TypeVar("T")

CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 5, 30, 3


def aws_client(service: str, connections: int = 10, **settings: Any) -> Any:
    """Return a boto3 client; its region and credentials come from AWS's own environment and files unless
    `settings` has them. The extra has the service's name. Raises `ConfigurationError`."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            f"boto3 is not installed; run: pip install 'thoughtgear[{service}]'"
        ) from exc
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
        max_pool_connections=connections,
    )
    try:
        return boto3.client(service, **{"config": config, **settings})
    except (BotoCoreError, ValueError) as exc:
        raise ConfigurationError(f"There can be no client of AWS {service}: {exc}") from exc


async def ask(what: str, call: Callable[..., T], **parameters: Any) -> T:
    """Call a method of a client in a thread. Raises `ExecutorUnavailableError` with AWS's own code: its text
    may quote the request."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return await asyncio.to_thread(call, **parameters)
    except ClientError as exc:
        code = str(exc.response.get("Error", {}).get("Code", "unknown"))[:80]
        raise ExecutorUnavailableError(f"{what} refuses ({code}); the run is in the store.") from None
    except BotoCoreError as exc:
        raise ExecutorUnavailableError(
            f"{what} can't be reached ({type(exc).__name__}); the run is in the store."
        ) from None
