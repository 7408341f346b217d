"""The store of a command that needs nothing else."""

from __future__ import annotations

from thoughtgear.place import Place, open_named_store
from thoughtgear.protocols import OrmAdapter


def open_placed_store(place: Place) -> OrmAdapter:
    """The store that was named, else the target's, else the one in this folder."""
    if place.db is None and place.target:
        from thoughtgear.desk import load_handlers  # which knows Temporal, and takes a second to import

        return load_handlers(place)[0].store
    return open_named_store(place)
