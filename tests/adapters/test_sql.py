"""The sql store on SQLite."""

from pathlib import Path

from thoughtgear.adapters.sql import SqlAdapter
from thoughtgear.protocols import OrmAdapter
from thoughtgear.testing import SharedAdapterConformance


class TestSqlite(SharedAdapterConformance):
    @classmethod
    async def open_store(cls, place: Path) -> OrmAdapter:
        return SqlAdapter.from_url(f"sqlite:///{place}/store.db")
