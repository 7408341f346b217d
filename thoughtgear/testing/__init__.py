"""For the tests of your own plug points: the suite that every store of this package passes.

    from thoughtgear.testing import SharedAdapterConformance

    class TestMyStore(SharedAdapterConformance):
        @classmethod
        async def open_store(cls, place):
            return MyStore(place / "store")

It needs pytest and pytest-asyncio.
"""

import pytest

for _name in ("case", "copies", "documents", "races", "runs", "shared"):
    pytest.register_assert_rewrite(f"{__name__}.{_name}")

from thoughtgear.testing.case import StoreCase, append, follow_up, new_run  # noqa: E402  rewritten asserts first
from thoughtgear.testing.copies import CopyClauses  # noqa: E402  as above
from thoughtgear.testing.documents import DocumentClauses  # noqa: E402  as above
from thoughtgear.testing.races import RaceClauses  # noqa: E402  as above
from thoughtgear.testing.runs import ListClauses, RunClauses  # noqa: E402  as above
from thoughtgear.testing.shared import SharedClauses  # noqa: E402  as above

__all__ = [
    "AdapterConformance",
    "SharedAdapterConformance",
    "StoreCase",
    "append",
    "follow_up",
    "new_run",
]


class AdapterConformance(RunClauses, CopyClauses, ListClauses, DocumentClauses, RaceClauses):
    """The contract of `OrmAdapter`, a test per clause. Override `open_store`."""


class SharedAdapterConformance(AdapterConformance, SharedClauses):
    """The same for a store that outlives its process: reopened, shared by processes, killed."""
