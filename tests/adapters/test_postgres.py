"""The sql store on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from postgres_server import PostgresServer

from thoughtgear.protocols import OrmAdapter
from thoughtgear.registry import open_store
from thoughtgear.testing import SharedAdapterConformance


class TestPostgres(SharedAdapterConformance):
    @pytest.fixture(autouse=True)
    def _address(self, postgres: PostgresServer, tmp_path: Path) -> None:
        """Other processes read there which server it is."""
        (tmp_path / "url").write_text(postgres.url(tmp_path))

    @classmethod
    async def open_store(cls, place: Path) -> OrmAdapter:
        return open_store((place / "url").read_text())
