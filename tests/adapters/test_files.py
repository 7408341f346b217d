"""The files store."""

from pathlib import Path

from thoughtgear.adapters.files import FilesAdapter
from thoughtgear.protocols import OrmAdapter
from thoughtgear.testing import SharedAdapterConformance


class TestFiles(SharedAdapterConformance):
    @classmethod
    async def open_store(cls, place: Path) -> OrmAdapter:
        return FilesAdapter.from_url(f"files://{place}/store")
