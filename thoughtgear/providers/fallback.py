"""Models that stand in for one another: the next is asked when one is out."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from thoughtgear.errors import ModelError, ModelRejectedError, ModelUnavailableError
from thoughtgear.protocols import ModelProvider, ModelReply, ModelRequest, OnText

OUT_SECONDS = 10.0
OUT_SECONDS_MOST = 60.0
"""How long a model that was out is not asked, where it didn't say how long, and at the most."""

log = logging.getLogger("thoughtgear")


@dataclass
class _Place:
    """A model in the order, and until when (on the monotonic clock) it is left alone."""

    model: ModelProvider
    out_until: float = 0.0

    def out(self, error: ModelError) -> None:
        seconds = OUT_SECONDS if error.retry_after is None else error.retry_after
        self.out_until = time.monotonic() + min(seconds, OUT_SECONDS_MOST)


@dataclass
class Told:
    """Passes the text of a reply on, and knows whether there was any."""

    on_text: OnText
    anything: bool = False

    async def __call__(self, piece: str) -> None:
        self.anything = True
        await self.on_text(piece)


class FallbackModel:
    """Asks the first model that is not out; each in turn, one request each.

    A model is out for a while after it was unavailable. A reply that broke off is not begun anew here, where
    its text was streamed already: the next attempt asks another model. A model that stands in and refuses the
    request, because it takes no such file for example, is passed over; the first one's refusal is final.
    `model` is the first one's name; a reply names who gave it and, in `passed_over`, why not another.
    """

    def __init__(self, models: Sequence[ModelProvider]) -> None:
        self._places = [_Place(model) for model in models]
        self.model = models[0].model

    def __repr__(self) -> str:
        return f"FallbackModel({', '.join(repr(place.model) for place in self._places)})"

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        """Ask until one answers. Raises `ModelRejectedError`, and `ModelUnavailableError` when all are out:
        it can be tried again when the first of them is back."""
        passed: list[str] = []
        lost: list[ModelReply] = []
        said = Told(on_text)
        for place in self._due(passed):
            try:
                reply = await place.model.reply(self._for(place, request), said)
            except (ModelUnavailableError, ModelRejectedError) as exc:
                lost += exc.paid.bought if isinstance(exc.paid, ModelReply) else []
                exc.paid = _together(lost)
                self._pass_over(place, exc, passed, said=said.anything)
            else:
                place.out_until = 0.0
                name, paid = reply.model or place.model.model, [*lost, *reply.also_paid]
                return replace(reply, model=name, passed_over=passed, also_paid=paid)
        waits = [place.out_until - time.monotonic() for place in self._places]
        wait = min((wait for wait in waits if wait > 0), default=0.0)
        out = ModelUnavailableError(f"No model can answer. {'; '.join(passed)}", retry_after=wait)
        out.paid = _together(lost)
        raise out

    def _due(self, passed: list[str]) -> list[_Place]:
        """The models to ask: those that are not out, or else the one that is back first."""
        moment = time.monotonic()
        due = [place for place in self._places if place.out_until <= moment]
        if not due:
            return [min(self._places, key=lambda place: place.out_until)]
        passed += [f"{place.model.model}: was out" for place in self._places if place not in due]
        return due

    def _for(self, place: _Place, request: ModelRequest) -> ModelRequest:
        """The request: options are in the words of the first model, but for `tool_choice`."""
        if place is self._places[0]:
            return request
        choice: Any = request.options.get("tool_choice")
        return replace(request, options={"tool_choice": choice} if isinstance(choice, str) else {})

    def _pass_over(self, place: _Place, exc: ModelError, passed: list[str], *, said: bool) -> None:
        """Note it and return where another one may be asked, else raise the error. `said`: of this reply the
        reader has seen something."""
        if isinstance(exc, ModelUnavailableError):
            place.out(exc)
            if exc.begun or said:
                exc.begun = True
                raise exc
        elif place is self._places[0]:
            raise exc
        elif said:
            place.out(exc)
            lost = ModelUnavailableError(str(exc), status=exc.status, request_id=exc.request_id, begun=True)
            lost.paid = exc.paid
            raise lost from exc
        passed.append(f"{place.model.model}: {exc}")
        log.warning("model %s is passed over: %s", place.model.model, exc)

    async def aclose(self) -> None:
        """Close all of them."""
        for place in self._places:
            await place.model.aclose()


def _together(lost: Sequence[ModelReply]) -> ModelReply | None:
    """Replies that were paid for and are none, as an error carries them."""
    return replace(lost[-1], also_paid=lost[:-1]) if lost else None
