"""What a function or a worker is sent: checked, and turned into what the handler is given."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from thoughtgear.errors import InvalidInputError, LimitExceededError
from thoughtgear.loop import Limits
from thoughtgear.prompts import File

PROBLEMS = 5
"""How many mistakes of an event are told."""


class _Event(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, alias_generator=to_camel
    )


class EventFile(_Event):
    """A file of a prompt: its bytes in base64. A path would be one of the function's own disk."""

    name: str
    data: str = Field(repr=False)
    media_type: str | None = None


class StartEvent(_Event):
    """`{"action": "start", "text": …}`: a prompt. The same `requestId` again is the same run."""

    action: Literal["start"]
    text: str = Field(repr=False)
    files: list[EventFile] = Field(default_factory=list)
    session_id: str | None = None
    user_id: str | None = None
    request_id: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    stream: bool = False

    def loaded(self, limits: Limits) -> list[File]:
        """Return the files. Raises `InvalidInputError`, and `LimitExceededError` before it decodes one."""
        if len(self.files) > limits.files:
            raise LimitExceededError(f"A prompt takes {limits.files} files, not {len(self.files)}.")
        return [File(file.name, _decoded(file, limits), file.media_type) for file in self.files]


class ContinueEvent(_Event):
    """`{"action": "continue", "runId": …}`: the next iteration. The executor's own events carry the turn."""

    action: Literal["continue"]
    run_id: str
    epoch: int | None = Field(default=None, ge=0)
    failures: int = Field(default=0, ge=0)
    cuts: int = Field(default=0, ge=0)
    reached: str = Field(default="", max_length=16)
    not_before: float = Field(default=0.0, ge=0, strict=False)


_ANY: TypeAdapter[StartEvent | ContinueEvent] = TypeAdapter(
    Annotated[StartEvent | ContinueEvent, Field(discriminator="action")]
)


def read_event(event: Any) -> StartEvent | ContinueEvent:
    """Return the event. Raises `InvalidInputError`: it says where the mistakes are, and repeats no value."""
    if not isinstance(event, dict) or event.get("action") not in ("start", "continue"):
        raise InvalidInputError(
            'An event is {"action": "start", "text": …} or {"action": "continue", "runId": …}.'
        )
    try:
        return _ANY.validate_python(event)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_context=False, include_input=False)
        told = "; ".join(f"{_place(error['loc'])}: {error['type']}" for error in errors[:PROBLEMS])
        raise InvalidInputError(f"The event is not valid: {told}.") from None


def _place(loc: tuple[int | str, ...]) -> str:
    return ascii(".".join(str(part) for part in loc[1:])[:60] or "event")


def _encoded(size: int) -> int:
    return (size + 2) // 3 * 4


def _decoded(file: EventFile, limits: Limits) -> bytes:
    if len(file.data) > _encoded(limits.file_bytes):
        raise LimitExceededError(f"A file of this event has more than {limits.file_bytes:,} bytes.")
    try:
        return base64.b64decode(file.data, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidInputError("The data of a file is no base64.") from exc
