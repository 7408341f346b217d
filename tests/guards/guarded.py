"""A plugin of pytest: ends a session that would test another package than the copy a guard was taken from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import thoughtgear


def pytest_sessionstart(session: pytest.Session) -> None:
    folder = os.environ["GUARDED_PACKAGE"]
    if not Path(thoughtgear.__file__).is_relative_to(folder):
        pytest.exit(f"thoughtgear comes from {thoughtgear.__file__}, not from {folder}", returncode=4)
