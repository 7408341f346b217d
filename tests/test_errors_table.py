"""The table of docs/errors.md is what the code does."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from thoughtgear import errors, loop
from thoughtgear.activities.failures import to_failure
from thoughtgear.errors import ModelError, ModelUnavailableError, ThoughtgearError
from thoughtgear.handler import PromptHandler
from thoughtgear.loop import RETRY_AFTER_MOST, retry_delay
from thoughtgear.protocols import ModelRequest
from thoughtgear.providers import failures
from thoughtgear.providers.failures import Failure, http_error, network_error, stream_error
from thoughtgear.providers.scripted import ScriptedProvider

PAGE = Path(__file__).parent.parent / "docs" / "errors.md"
TICKED = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    what: str
    error: type[ThoughtgearError] | None
    again: bool

    @property
    def words(self) -> list[str]:
        return TICKED.findall(self.what)


def read_table() -> list[Row]:
    lines = [line.strip("|").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [read_row(*(cell.strip() for cell in cells)) for cells in lines[1:]]


def read_row(what: str, error: str, again: str) -> Row:
    name = "".join(TICKED.findall(error))
    return Row(what, getattr(errors, name) if name else None, {"yes": True, "no": False}[again])


ROWS = read_table()
KNOWN = [value for value in vars(errors).values() if isinstance(value, type)]
LEAVES = [kind for kind in KNOWN if kind not in (ThoughtgearError, ModelError)]
STATUSES = {word: row for row in ROWS for word in row.words if re.fullmatch("[0-9]([0-9]{2}|xx)", word)}
CODES = {word: row for row in ROWS for word in row.words if re.fullmatch("[a-z]+(_[a-z]+)+", word)}
NETWORK = {word: row for row in ROWS for word in row.words if re.fullmatch("([A-Z][a-z]+){2,}", word)}


def test_the_table_has_every_error() -> None:
    """Every error that can be raised has a row, and all rows of one error say the same."""
    assert {row.error for row in ROWS} - {None} == set(LEAVES)
    assert all(row.error.retryable == row.again for row in ROWS if row.error)


@pytest.mark.parametrize("status", range(300, 600))
def test_a_status_is_in_the_table(status: int) -> None:
    """Each HTTP status that is no success becomes the error of its row."""
    row = STATUSES.get(str(status)) or STATUSES[f"{status // 100}xx"]
    error = http_error("here", status, {}, Failure())
    assert (type(error), error.retryable) == (row.error, row.again)


@pytest.mark.parametrize("code", sorted(failures.REJECTED | failures.OUT_OF_MONEY))
def test_a_code_is_in_the_table(code: str) -> None:
    """Each code that the providers' errors are known by becomes the error of its row, as code and as type."""
    row = CODES[code]
    for failure in (Failure(code=code), Failure(type=code)):
        assert type(stream_error("here", {}, failure)) is row.error
        if code in failures.OUT_OF_MONEY:
            assert {type(http_error("here", status, {}, failure)) for status in (402, 429)} == {row.error}


def test_the_table_has_no_other_codes() -> None:
    """What the table says of codes and network errors is all that there is; other codes are retried."""
    assert set(CODES) == failures.REJECTED | failures.OUT_OF_MONEY
    assert type(stream_error("here", {}, Failure(code="who_knows"))) is ModelUnavailableError


@pytest.mark.parametrize("name", NETWORK)
def test_a_network_error_is_in_the_table(name: str) -> None:
    """Each network error becomes the error of its row."""
    assert type(network_error("here", getattr(httpx, name)("no"))) is NETWORK[name].error


@pytest.mark.parametrize("kind", [*LEAVES, ValueError])
def test_temporal_does_what_the_table_says(kind: type[Exception]) -> None:
    """A failure of an activity is retryable exactly where the table says so."""
    again = any(row.again for row in ROWS if row.error is kind)
    assert to_failure(kind("no")).non_retryable is not again


HANDLED = {errors.SupersededError, errors.RunNotFoundError, errors.RunDeletedError, errors.RunCancelledError}
"""What a loop takes as news of the run itself."""


@pytest.mark.parametrize("kind", [*(kind for kind in LEAVES if kind not in HANDLED), ValueError])
async def test_a_local_run_does_what_the_table_says(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local run goes on after an error exactly where the table says so, and else ends with its name."""
    monkeypatch.setattr(loop, "RETRY_FIRST", 0.001)
    tries = 0

    def raise_once(request: ModelRequest) -> str:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise kind("no")
        return "Here."

    async with PromptHandler(model=ScriptedProvider(replies=raise_once), db="memory://") as handler:
        state = await handler.handle_prompt("Hello")
    again = any(row.again for row in ROWS if row.error is kind)
    assert (state.status, tries) == (("done", 2) if again else ("failed", 1))
    assert again or (state.error is not None and state.error.type == kind.__name__)


@pytest.mark.parametrize("asked", [0.0, 0.25, 7.0, 59.0, 3600.0])
@pytest.mark.parametrize("attempt", [1, 5, 10_000])
def test_a_provider_is_never_asked_too_soon(asked: float, attempt: int) -> None:
    """What a provider asks for is kept, with at most a minute or a tenth on top."""
    delays = [retry_delay(attempt, asked) for _ in range(200)]
    assert asked <= min(delays) <= max(delays) <= asked + max(60, asked / 10)


def test_a_wait_has_an_end() -> None:
    """A provider that asks for a year is asked again after an hour and a bit; nonsense is no wait."""
    assert RETRY_AFTER_MOST <= retry_delay(1, 365 * 86400) <= RETRY_AFTER_MOST * 1.1
    assert 0 <= retry_delay(1, -5.0) <= 1
    assert 30 <= retry_delay(10_000) <= 60


@pytest.mark.parametrize("asked", [None, 1.0, 20.0])
def test_a_crowd_thins_out(asked: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three hundred runs that met the same 429 are served by a provider that takes ten requests a second
    with fewer than six requests each, and are spread after a few seconds; all at once it would be sixteen."""
    monkeypatch.setattr(loop, "random", random.Random(7))
    requests, seconds = play(asked, crowd=300, a_second=10)
    assert requests < 300 * 6
    assert seconds[0] >= 300  # they did meet
    assert max(count for second, count in seconds.items() if second > (asked or 0) + 5) < 150


def play(asked: float | None, *, crowd: int, a_second: int) -> tuple[int, Counter[int]]:
    """Return how many requests it took to serve everyone, and how many came in each second."""
    due = [(0.0, 1)] * crowd
    seconds: Counter[int] = Counter()
    while due:
        due.sort()
        moment, attempt = due.pop(0)
        seconds[int(moment)] += 1
        if seconds[int(moment)] > a_second:
            due.append((moment + retry_delay(attempt, asked), attempt + 1))
    return seconds.total(), seconds
