"""What crosses into Temporal: ids and small facts, never the transcript.

Plain dataclasses, so that any data converter and any language can send them. Their annotations are types,
not text: Temporal's converter would compile the text anew for every payload. Only what differs from the
defaults is sent (`sparse`): every byte is kept by the server for each iteration.
"""

from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from dataclasses import Field as DataclassField
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

D = TypeVar("D", bound="DataclassInstance")

WORKFLOW = "RunWorkflow"
TASK_QUEUE = "thoughtgear"
START_RUN = "thoughtgear.start_run"
RUN_ITERATION = "thoughtgear.run_iteration"
CLOSE_RUN = "thoughtgear.close_run"
DELIVER = "thoughtgear.deliver"


@dataclass
class Carried:
    """What a workflow that continues as new hands to its successor: everything that a handler can change.

    `rows` are the last iterations (number, tools, tokens in and out, seconds waited), `totals` their sums
    over the whole run, `facts` what the first activity told.
    """

    iteration: int = 1
    version: int = 0
    by_value: bool = False
    woken: bool = False
    waited: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    rows: list[list[Any]] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)


@dataclass
class RunInput:
    """The argument of `RunWorkflow`. By reference: `run_id`. By value: `prompt` and what goes with it."""

    prompt: str | None = None
    handler: str = "default"
    run_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    metadata: dict[str, Any] | None = None
    carried: Carried | None = None


@dataclass
class RunResult:
    """What `RunWorkflow` returns. `output` is there only when the run was started by value."""

    run_id: str
    status: str
    output: str | None = None
    iterations: int = 0
    usage: dict[str, int] = field(default_factory=dict)


@dataclass
class StartInput:
    """The argument of the `start_run` activity: a prompt by value, and the execution that names the run."""

    prompt: str
    execution: str
    handler: str = "default"
    session_id: str | None = None
    user_id: str | None = None
    metadata: dict[str, Any] | None = None


@dataclass
class IterationInput:
    """The argument of the `run_iteration` activity. `version` is the last acknowledged one; 0: none yet.
    `lane` names the first workflow of those that continue one another."""

    run_id: str
    iteration: int
    version: int = 0
    handler: str = "default"
    by_value: bool = False
    lane: str = ""


@dataclass
class CloseInput:
    """The argument of the `close_run` activity. `start` instead of `run_id`: nobody knows whether the run
    was created. `error` is a type and a message."""

    status: Literal["failed", "cancelled"]
    run_id: str | None = None
    handler: str = "default"
    error: list[str] = field(default_factory=list)
    start: StartInput | None = None
    by_value: bool = False


@dataclass
class DeliverInput:
    """The argument of the `deliver` activity: a message by value to a run."""

    run_id: str
    text: str
    request_id: str
    handler: str = "default"


@dataclass
class IterationResult:
    """What an iteration reports: where the run stands now, in ids and small facts.

    `iteration` is the next one to run. `wait` is in seconds and says, with `reason`, how long to wait
    before it is worth trying (`waiting`, or `in_progress`: another attempt holds the run); `paced`: the wait
    is the executor's pace, and nothing that the store could show ends it. `tools` and `tokens` (input,
    output) are of the iteration that just ran; `usage` is the run's, once it is over.
    """

    status: Literal["running", "waiting", "in_progress", "done", "failed", "cancelled"]
    iteration: int
    version: int
    tools: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    wait: float = 0.0
    reason: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    paced: bool = False


@dataclass
class Report(IterationResult):
    """What the activities report to the workflow: an iteration's result and, only where they are news, more.

    At the start `run_id` and `facts` (model, session, and which search attributes the namespace has); at
    the end `iterations`, `usage`, `error` (type and message) and, by value, `output`. `stale`: the run was
    over before this workflow did anything.
    """

    run_id: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    iterations: int = 0
    error: list[str] = field(default_factory=list)
    output: str | None = None
    stale: bool = False


def sparse(record: Any) -> dict[str, Any]:
    """Return a dataclass as a dict without what equals its default, all the way down."""
    return {
        item.name: sparse(value) if is_dataclass(value) else value
        for item in fields(record)
        if (value := getattr(record, item.name)) != _default(item)
    }


def _default(item: DataclassField[Any]) -> Any:
    return item.default_factory() if item.default_factory is not MISSING else item.default


def restored(kind: type[D], value: dict[str, Any]) -> D:
    """Return the dataclass that `sparse` made a dict of. What a newer version has put there is left out."""
    known = {item.name for item in fields(kind)}
    return kind(**{name: item for name, item in value.items() if name in known})
