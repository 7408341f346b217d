"""What `thoughtgear db upgrade` does."""

from __future__ import annotations

import logging

from thoughtgear.place import Output, Place
from thoughtgear.protocols import OrmAdapter, SchemaUpgrade, Upgradable
from thoughtgear.render import print_json
from thoughtgear.stored import open_placed_store


async def upgrade(place: Place, output: Output) -> int:
    """Bring a store to the version of this code, or make it, and say what was done."""
    logging.getLogger("thoughtgear.schema").setLevel(logging.INFO)  # it may take minutes
    store = open_placed_store(place)
    try:
        done = await _upgrade(store)
    finally:
        await store.aclose()
    if output.as_json:
        print_json({"from": done and done.before, "to": done and done.after, "upgraded": _changed(done)})
    else:
        output.out.print(_told(done), soft_wrap=True)
    return 0


async def _upgrade(store: OrmAdapter) -> SchemaUpgrade | None:
    return await store.upgrade() if isinstance(store, Upgradable) else None


def _changed(done: SchemaUpgrade | None) -> bool:
    return done is not None and done.before != done.after


def _told(done: SchemaUpgrade | None) -> str:
    if done is None:
        return "This store ends with its process: there is nothing to upgrade."
    if done.before is None:
        return f"Made the store, of schema version {done.after}."
    if done.before == done.after:
        return f"The schema is up to date: version {done.after}."
    return f"Upgraded the schema from version {done.before} to {done.after}."
