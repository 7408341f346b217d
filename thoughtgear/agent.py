"""What an iteration works with: the parts of a handler, and nothing of how it is driven."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from thoughtgear.callbacks import Callbacks
from thoughtgear.loop import Limits
from thoughtgear.models import RunState
from thoughtgear.protocols import ModelProvider, OrmAdapter
from thoughtgear.sessions import Sessions
from thoughtgear.threads import ToolThreads
from thoughtgear.tools import ToolBox
from thoughtgear.transcript import Transcripts

Context = str | Callable[[RunState], str | Awaitable[str]]


@dataclass(frozen=True)
class Agent:
    """The parts of a `PromptHandler`."""

    name: str
    context: Context
    toolbox: ToolBox
    model: ModelProvider
    store: OrmAdapter
    sessions: Sessions
    transcripts: Transcripts
    threads: ToolThreads
    callbacks: Callbacks
    limits: Limits
    model_options: Mapping[str, Any] = field(default_factory=dict)

    async def context_for(self, state: RunState) -> str:
        """Return the system context, which may be a (sync or async) function of the run."""
        if isinstance(self.context, str):
            return self.context
        made = self.context(state)
        return await made if inspect.isawaitable(made) else made
