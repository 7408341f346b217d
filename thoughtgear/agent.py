"""What an iteration works with: the parts of a handler, and nothing of how it is driven."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from thoughtgear.callbacks import Callbacks
from thoughtgear.context import Trim
from thoughtgear.errors import ConfigurationError
from thoughtgear.foreign import contained
from thoughtgear.loop import Limits
from thoughtgear.models import RunState
from thoughtgear.pace import Pace
from thoughtgear.prices import PriceList
from thoughtgear.protocols import ModelProvider, OrmAdapter
from thoughtgear.sessions import Sessions
from thoughtgear.structured import OutputType
from thoughtgear.summaries import Summaries
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
    reconcile_threads: ToolThreads
    callbacks: Callbacks
    limits: Limits
    model_options: Mapping[str, Any] = field(default_factory=dict)
    output_type: OutputType | None = None
    context_policy: Trim | None = None
    prices: PriceList = field(default_factory=lambda: PriceList(None))
    pace: Pace | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.limits, Limits):
            raise ConfigurationError("limits= is a Limits(…).")
        if self.limits.cost is not None and self.prices.empty:
            raise ConfigurationError("Limits(cost=…) needs prices=…, or it would never stop a run.")

    @cached_property
    def summaries(self) -> Summaries:
        """Those of its conversations."""
        return Summaries(self.store)

    async def context_for(self, state: RunState) -> str:
        """Return the system context, which may be a (sync or async) function of the run. Raises
        `ConfigurationError` when that gives no text."""
        if isinstance(self.context, str):
            return self.context
        made = await contained("The context function", self.context, state)
        if not isinstance(made, str):
            raise ConfigurationError(f"The context function returned a {type(made).__name__}, not a text.")
        return made
