"""thoughtgear: durable language-model agents.

The public names are loaded on first use (PEP 562), so that importing a workflow imports no driver.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thoughtgear.callbacks import Callbacks as Callbacks
    from thoughtgear.client import RunClient as RunClient
    from thoughtgear.context import Summarise as Summarise
    from thoughtgear.context import Trim as Trim
    from thoughtgear.errors import OutcomeUnknownError as OutcomeUnknownError
    from thoughtgear.events import StreamEvent as StreamEvent
    from thoughtgear.executors.failover import FailoverExecutor as FailoverExecutor
    from thoughtgear.executors.lambda_ import LambdaExecutor as LambdaExecutor
    from thoughtgear.executors.lambda_handler import make_lambda_handler as make_lambda_handler
    from thoughtgear.executors.local import LocalExecutor as LocalExecutor
    from thoughtgear.executors.scheduled import ScheduledExecutor as ScheduledExecutor
    from thoughtgear.executors.sqs import SqsExecutor as SqsExecutor
    from thoughtgear.executors.sqs_worker import SqsWorker as SqsWorker
    from thoughtgear.executors.temporal import TemporalExecutor as TemporalExecutor
    from thoughtgear.handler import PromptHandler as PromptHandler
    from thoughtgear.loop import Limits as Limits
    from thoughtgear.models import Message as Message
    from thoughtgear.models import RunState as RunState
    from thoughtgear.notes import memory_tools as memory_tools
    from thoughtgear.outcomes import Done as Done
    from thoughtgear.outcomes import Void as Void
    from thoughtgear.prices import Price as Price
    from thoughtgear.prompts import File as File
    from thoughtgear.tools import Tool as Tool
    from thoughtgear.tools import ToolContext as ToolContext
    from thoughtgear.tools import tool as tool
    from thoughtgear.worker import ThoughtgearPlugin as ThoughtgearPlugin
    from thoughtgear.worker import build_worker as build_worker

_WHERE = {
    "Callbacks": "callbacks",
    "FailoverExecutor": "executors.failover",
    "File": "prompts",
    "Done": "outcomes",
    "LambdaExecutor": "executors.lambda_",
    "Limits": "loop",
    "LocalExecutor": "executors.local",
    "Message": "models",
    "OutcomeUnknownError": "errors",
    "Price": "prices",
    "PromptHandler": "handler",
    "RunClient": "client",
    "RunState": "models",
    "ScheduledExecutor": "executors.scheduled",
    "SqsExecutor": "executors.sqs",
    "SqsWorker": "executors.sqs_worker",
    "TemporalExecutor": "executors.temporal",
    "ThoughtgearPlugin": "worker",
    "StreamEvent": "events",
    "Summarise": "context",
    "Tool": "tools",
    "ToolContext": "tools",
    "Trim": "context",
    "Void": "outcomes",
    "build_worker": "worker",
    "make_lambda_handler": "executors.lambda_handler",
    "memory_tools": "notes",
    "tool": "tools",
}

__all__ = sorted(_WHERE)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'thoughtgear' has no attribute {name!r}")
    return getattr(importlib.import_module(f"thoughtgear.{_WHERE[name]}"), name)
