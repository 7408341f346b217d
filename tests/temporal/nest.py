"""The handlers of `test_canaries.py`, for a worker process: in each, something with a canary goes wrong.

Canaries are made at run time, so that no source line in a stack is taken for one.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from thoughtgear import Callbacks, PromptHandler, tool
from thoughtgear.providers.scripted import ScriptedProvider, call

NEST = os.environ["NEST"]
FOLDER = Path(os.environ["NEST_FOLDER"])
STORE = f"sqlite:///{FOLDER}/runs.db"
MODEL_URL = os.environ.get("NEST_MODEL_URL", "http://127.0.0.1:1")


def canary(name: str) -> str:
    return f"{NEST}-{name}"


class CanaryError(Exception):
    """Its message is a canary, and so is that of its cause."""

    def __init__(self, name: str) -> None:
        super().__init__(canary(name))
        self.__cause__ = KeyError(canary(f"{name}-cause"))


@tool
async def fail(path: str) -> str:
    """Raise."""
    raise CanaryError("tool-raised")


@tool
def give(path: str) -> str:
    """Return."""
    return canary("tool-returned")


@tool
async def hang() -> str:
    """Hang until the run is cancelled."""
    (FOLDER / "hanging").touch()
    await asyncio.Event().wait()
    return ""


def answer(*_: Any) -> Any:
    raise CanaryError("callback-raised")


def raise_context(state: Any) -> str:
    raise CanaryError("context-raised")


def refuse(request: Any) -> Any:
    raise CanaryError("model-raised")


CALLS = [
    call("fail", path=canary("argument")),
    call("give", path=canary("argument")),
    call("give", pathh=canary("bad-argument")),
    call(canary("unknown-tool"), x=1),
]
SHOUTING = Callbacks(
    on_tool_start=answer,
    on_tool_end=answer,
    on_iteration=answer,
    on_done=answer,
    on_error=answer,
    on_partial_reply=answer,
)


def handler(name: str, model: Any, **options: Any) -> PromptHandler:
    made = model if isinstance(model, dict) else ScriptedProvider(replies=model)
    return PromptHandler(name, **{"model": made, "db": STORE, "context": canary("context"), **options})


def handlers() -> list[PromptHandler]:
    key, url = canary("api-key"), MODEL_URL.replace("://", f"://user:{canary('url')}@")
    rejected = {"provider": "openai", "name": "m", "api_key": key, "base_url": f"{url}/{canary('path')}"}
    return [
        handler("tools", [CALLS, canary("reply")], tools=[fail, give]),
        handler("callbacks", [[call("give", path="a")], canary("reply")], tools=[give], callbacks=SHOUTING),
        handler("context", ["Never said."], context=raise_context),
        handler("model", refuse, callbacks=SHOUTING),
        handler("rejected", rejected),
        handler("hanging", [[call("hang")]], tools=[hang]),
        handler(
            "lost", ["Never said."], db=f"postgresql://u:{canary('password')}@127.0.0.1:1/d?connect_timeout=1"
        ),
    ]
