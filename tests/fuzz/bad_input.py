"""Hypothesis cases of bad input: what they are made of, and what may come of them.

`@cases(number, …)` makes two tests of one claim: `number` cases every day, the same ones each time, and
twenty times as many, each time others, among the long tests.
"""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from thoughtgear.errors import ThoughtgearError

LONG = 20
"""How many times as many cases the long tests try."""

HANG_SECONDS = 60.0
"""What a case may take before it counts as a hang."""

COUNTED: dict[str, int] = {}
"""How many cases each claim is tried with every day."""


def cases(number: int, **strategies: SearchStrategy[Any]) -> Callable[[Callable[..., Any]], Any]:
    """Turn a claim about one case into a test over many; an async one gets a loop of its own per case."""

    def make(claim: Callable[..., Any]) -> Any:
        COUNTED[f"{claim.__module__}.{claim.__name__}"] = number

        def plain(**drawn: Any) -> None:
            if inspect.iscoroutinefunction(claim):
                asyncio.run(asyncio.wait_for(claim(**drawn), HANG_SECONDS))
            else:
                claim(**drawn)

        @pytest.mark.parametrize(
            "times", [pytest.param(1, id="everyday"), pytest.param(LONG, id="long", marks=pytest.mark.long)]
        )
        def test(times: int) -> None:
            limits = settings(
                max_examples=number * times,
                derandomize=times == 1,
                deadline=None,
                database=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            )
            limits(given(**strategies)(plain))()

        test.__name__, test.__doc__, test.__module__ = claim.__name__, claim.__doc__, claim.__module__
        return test

    return make


@contextmanager
def only_typed(*secrets: str) -> Iterator[None]:
    """Let the library's own errors pass, and no other; they, and what a traceback shows, hold no secret."""
    try:
        yield
    except ThoughtgearError as exc:
        shown = "".join(traceback.format_exception(exc))
        if not str(exc).strip() or any(secret in shown for secret in secrets):
            raise AssertionError("the error says nothing, or too much") from exc


NASTY = (
    "",
    " ",
    "\x00",
    "\ud800",
    "a\udfffb",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "con",
    "CON.txt",
    "nul",
    "a\nb",
    "\u2028",
    "\u202egnp.exe",
    "\x1b]0;title\x07",
    "\x9b31m",
    "ﬀ",
    "\U000e0001",
    "e\u0301" * 40,
    "\ufeffx",
    "%00",
    "%2e%2e%2f",
    "'; DROP TABLE run_states; --",
    '{"$gt": ""}',
    "$where",
    "a.b",
    "[red]x[/red]",
    "x" * 513,
    "é" * 300,
    "-rf",
    "~",
    "${HOME}",
    "{0.__class__}",
    "%s%n",
)

LETTERS = st.characters(exclude_categories=())  # all of them, with lone surrogates
TEXTS = st.one_of(st.sampled_from(NASTY), st.text(LETTERS, max_size=40), st.text(max_size=40))
LONG_TEXTS = st.builds(lambda text, times: text * times, TEXTS, st.sampled_from((1, 1, 1, 50, 5000)))
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from((0, -1, 2**31, 2**53, 2**63, 2**64)),
    st.builds(pow, st.sampled_from((10, -10)), st.sampled_from((401, 4401))),  # no repr: too many digits
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)


def _nested(depth: int, inner: Any, lists: bool) -> Any:
    for _ in range(depth):
        inner = [inner] if lists else {"a": inner}
    return inner


DEEP = st.builds(_nested, st.sampled_from((1, 19, 20, 21, 100)), SCALARS, st.booleans())
VALUES = st.one_of(
    st.recursive(
        SCALARS,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
        max_leaves=8,
    ),
    DEEP,
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=4)
"""What JSON could say, and what Python takes for it."""

STRANGE = st.one_of(VALUES, st.binary(max_size=8), st.builds(object), st.sets(st.integers(), max_size=2))
"""Anything at all."""
