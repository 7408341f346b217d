"""How many cases there are."""

from __future__ import annotations

import importlib
from pathlib import Path

from bad_input import COUNTED, LONG


def test_there_are_a_thousand_cases_a_day_and_twenty_thousand_in_all() -> None:
    """The everyday suite tries at least 1,000 cases of bad input, the long tests at least 20,000."""
    for file in sorted(Path(__file__).parent.glob("test_fuzz_*.py")):
        importlib.import_module(file.stem)
    assert sum(COUNTED.values()) >= 1000
    assert sum(COUNTED.values()) * LONG >= 20_000
