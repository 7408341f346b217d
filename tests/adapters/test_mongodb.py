"""The mongodb store, on a server of MongoDB's wire protocol: WiredTiger, but not MongoDB itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from mongodb_server import MongoServer

from thoughtgear.protocols import OrmAdapter
from thoughtgear.registry import open_store
from thoughtgear.testing import SharedAdapterConformance


class TestMongo(SharedAdapterConformance):
    @pytest.fixture(autouse=True)
    def _address(self, mongodb: MongoServer, tmp_path: Path) -> None:
        """Other processes read there which server it is."""
        (tmp_path / "url").write_text(mongodb.url(tmp_path))

    @classmethod
    async def open_store(cls, place: Path) -> OrmAdapter:
        return open_store((place / "url").read_text())
