"""The crash windows' own module asserts, too."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("windows")
