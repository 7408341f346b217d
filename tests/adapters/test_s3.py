"""The S3 store on a real S3 server: the conformance suite, and what is its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from s3_server import S3Server

from thoughtgear.protocols import OrmAdapter
from thoughtgear.registry import open_store
from thoughtgear.testing import SharedAdapterConformance


class TestS3(SharedAdapterConformance):
    @pytest.fixture(autouse=True)
    def _address(self, s3: S3Server, tmp_path: Path) -> None:
        """Other processes read there which server it is."""
        (tmp_path / "url").write_text(s3.url(tmp_path))

    @classmethod
    async def open_store(cls, place: Path) -> OrmAdapter:
        return open_store((place / "url").read_text())
