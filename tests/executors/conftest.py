"""What the tests of executors share."""

from __future__ import annotations

from pathlib import Path

import pytest
from called_function import Function


@pytest.fixture
def function(tmp_path: Path) -> Function:
    """A function in this process."""
    return Function(tmp_path)
