"""What foreign clients may give to `RunWorkflow`: its argument, its signals, and what it carries over."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bad_input import LONG_TEXTS, OBJECTS, SCALARS, STRANGE, TEXTS, VALUES, cases, only_typed
from hypothesis import strategies as st

from thoughtgear.errors import InvalidInputError
from thoughtgear.payloads import Carried, IterationInput, Report, RunInput, restored
from thoughtgear.workflows import details
from thoughtgear.workflows.given import read_input, read_message

MARK = "x-my-secret-x"

FIELDS = st.sampled_from(("prompt", "handler", "run_id", "session_id", "user_id", "metadata", "carried"))
CARRIED = st.dictionaries(
    st.sampled_from(("iteration", "version", "by_value", "woken", "waited", "facts", "rows", "totals")),
    st.one_of(
        VALUES,
        st.lists(st.lists(SCALARS, max_size=6), max_size=3),
        st.lists(st.one_of(st.integers(), st.floats()), min_size=5, max_size=5),
        st.dictionaries(st.sampled_from(("model", "session", "search", "shown")), VALUES, max_size=3),
    ),
    max_size=4,
)


@cases(
    52,
    arguments=st.one_of(
        st.lists(STRANGE, max_size=3),
        st.lists(
            st.dictionaries(
                st.one_of(FIELDS, TEXTS), st.one_of(VALUES, LONG_TEXTS, st.just(MARK)), max_size=4
            ),
            min_size=1,
            max_size=1,
        ),
        st.builds(lambda field, value: [{"prompt": MARK, field: value}], FIELDS, STRANGE),
        st.builds(lambda field: [{MARK + " and more": 1, field: "x"}], FIELDS),
    ),
)
def test_an_argument_is_read_or_refused(arguments: list[Any]) -> None:
    """The argument of a workflow makes a `RunInput` of the right types, or an error that quotes no value."""
    with only_typed(MARK):
        given = read_input(arguments)
        assert bool(given.prompt) != bool(given.run_id)
        assert all(isinstance(value, str | None) for value in (given.prompt, given.handler, given.session_id))


@cases(43, value=CARRIED, tools=st.lists(TEXTS, max_size=3), tokens=st.lists(st.integers(), max_size=3))
def test_what_is_carried_never_stops_a_workflow(value: Any, tools: list[str], tokens: list[int]) -> None:
    """What passes as carried can be shown, counted on and sent: an error there has no end."""
    with only_typed():
        given = read_input([{"run_id": "r", "carried": value}])
        assert given.carried
        details.add_row(given.carried, Report("running", 2, 1, tools=tools, tokens=tokens[:2]))
        details.render(given.carried, run_id="r", status="running")
        for update in details.attributes(given.carried, handler="h", status="running"):
            assert isinstance(update.value, str)
        json.dumps(given.carried.iteration + 1)


@cases(
    26,
    message=st.one_of(
        STRANGE, st.dictionaries(st.sampled_from(("text", "request_id")), st.one_of(STRANGE, LONG_TEXTS))
    ),
)
def test_a_signal_is_a_message_or_dropped(message: Any) -> None:
    """A `send` signal gives a text that an activity takes, or nothing; it never raises."""
    found = read_message(message)
    if found is not None:
        text, request_id = found
        assert text
        assert request_id is None or request_id
        assert len(json.dumps([text, request_id])) < 2_000_000


@cases(13, value=OBJECTS)
def test_records_of_a_newer_version_are_restored(value: Any) -> None:
    """Fields that are not known are left out, whatever they are called."""
    restored(Carried, value)
    restored(IterationInput, {"run_id": "r", "iteration": 1, **value})
    restored(RunInput, value)


@pytest.mark.parametrize(
    "carried",
    [
        {"totals": [10**400, 0, 0, 0, 0.0], "rows": [[1, "", 0, 0, 0.0]]},
        {"totals": [1, 2, 3]},
        {"facts": {"search": 5}},
        {"facts": {"search": ["ThoughtgearModel"], "model": 5}},
        {"iteration": 0},
        {"waited": float("nan")},
        {"rows": [[1, "", 10**400, 0, 0.0]], "totals": [1, 0, 0, 0, 0.0]},
    ],
)
def test_what_would_fail_later_is_refused_at_once(carried: dict[str, Any]) -> None:
    """A foreign `carried` that would fail each workflow task, for ever, fails the workflow instead."""
    with pytest.raises(InvalidInputError):
        read_input([{"run_id": "r", "carried": carried}])


def test_a_prompt_in_the_place_of_a_name_is_not_quoted() -> None:
    """Of a field whose name is no name, the error tells that alone."""
    with pytest.raises(InvalidInputError) as caught:
        read_input([{"Tell me about my illness": None, "My secret is 1": 1, "prompt": "x"}])
    assert "secret" not in str(caught.value)
