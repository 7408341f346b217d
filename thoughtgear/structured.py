"""Answers that have to be JSON of a pydantic model: what the model is told of it, and the check."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from thoughtgear.errors import ConfigurationError, ToolInputError
from thoughtgear.protocols import OutputSpec
from thoughtgear.schema import Arguments, of_model

_FENCED = re.compile(r"\s*```(?:json)?[ \t]*\n(.*)\n\s*```\s*", re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """A final answer that was checked: its JSON, or `refusal`, which tells the model what is wrong."""

    text: str
    refusal: str | None = None


class OutputType:
    """What a run's final answer has to be. Raises `ConfigurationError` for what is no pydantic model, or
    none whose JSON is an object."""

    def __init__(self, model: type[BaseModel]) -> None:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise ConfigurationError("output_type is a class that inherits from pydantic's BaseModel.")
        self.name = model.__name__
        self._arguments: Arguments = of_model(model, "output_type")
        schema: dict[str, Any] = self._arguments.schema
        if schema.get("type") != "object":
            raise ConfigurationError(
                f"output_type: the JSON of {self.name} is no object; put it into a field."
            )
        self.spec = OutputSpec(re.sub(r"[^A-Za-z0-9_-]", "_", self.name)[:64], schema)

    @classmethod
    def of(cls, model: type[BaseModel] | None) -> OutputType | None:
        """Return the type for a model, if there is one."""
        return None if model is None else cls(model)

    def check(self, text: str) -> Answer:
        """Check an answer. A code fence around it, which models like to write, is no part of it."""
        fenced = _FENCED.fullmatch(text)
        answer = (fenced[1] if fenced else text).strip()
        if answer in ("", "null"):
            return Answer(answer, self._refusal("- there is no JSON in it"))
        try:
            self._arguments.check(self.name, answer)
        except ToolInputError as exc:
            problems = str(exc).partition("\n")[2].replace("no such argument", "no such field")
            return Answer(answer, self._refusal(problems or "- it is not valid"))
        return Answer(answer)

    def _refusal(self, problems: str) -> str:
        return f"This answer does not fit. What is wrong:\n{problems}\n\n{self.spec.instruction}"
