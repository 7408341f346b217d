"""For the tests of your own plug points: the suite that every store of this package passes.

    from thoughtgear.testing import SharedAdapterConformance

    class TestMyStore(SharedAdapterConformance):
        @classmethod
        async def open_store(cls, place):
            return MyStore(place / "store")

For a store that lives in one process only it is `AdapterConformance`. `SharedAdapterEndurance` (and
`AdapterEndurance`) has the same claims for large numbers, and takes minutes: 2,000 commits with lost
acknowledgements, 1,000 that eight processes contend for, 500 writers killed. `FaultyStore` is for tests of
your own. It needs pytest and pytest-asyncio (`asyncio_mode = "auto"`).
"""

import pytest

_CLAUSES = ("copies", "documents", "races", "runs", "ownership", "acknowledgements", "shared", "endurance")
for _name in ("case", "processes", *_CLAUSES):
    pytest.register_assert_rewrite(f"{__name__}.{_name}")

from thoughtgear.testing.acknowledgements import (  # noqa: E402  rewritten asserts first
    AcknowledgementClauses,
)
from thoughtgear.testing.case import StoreCase, append, follow_up, new_run  # noqa: E402  as above
from thoughtgear.testing.copies import CopyClauses  # noqa: E402  as above
from thoughtgear.testing.documents import DocumentClauses  # noqa: E402  as above
from thoughtgear.testing.endurance import AdapterEndurance, SharedAdapterEndurance  # noqa: E402  as above
from thoughtgear.testing.faulty import FaultyStore  # noqa: E402  as above
from thoughtgear.testing.lists import ListClauses  # noqa: E402  as above
from thoughtgear.testing.ownership import OwnershipClauses  # noqa: E402  as above
from thoughtgear.testing.races import RaceClauses  # noqa: E402  as above
from thoughtgear.testing.runs import RunClauses  # noqa: E402  as above
from thoughtgear.testing.shared import SharedClauses  # noqa: E402  as above

__all__ = [
    "AdapterConformance",
    "SharedAdapterConformance",
    "AdapterEndurance",
    "SharedAdapterEndurance",
    "FaultyStore",
    "StoreCase",
    "append",
    "follow_up",
    "new_run",
]


class AdapterConformance(
    RunClauses,
    CopyClauses,
    ListClauses,
    DocumentClauses,
    RaceClauses,
    OwnershipClauses,
    AcknowledgementClauses,
):
    """The contract of `OrmAdapter`, a test per clause. Override `open_store`."""


class SharedAdapterConformance(AdapterConformance, SharedClauses):
    """The same for a store that outlives its process: reopened, shared by processes, killed."""
