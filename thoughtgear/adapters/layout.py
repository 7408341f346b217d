"""The layout of a store that has no tables: a number, written when the store is made."""

from __future__ import annotations

from thoughtgear.errors import ConfigurationError, SchemaVersionError

LAYOUT = 1


def check_layout(found: str, store: str, place: str) -> None:
    """Check the number that `store` has; `place` is what a person would choose another one of. Raises
    `SchemaVersionError`."""
    if found == str(LAYOUT):
        return
    if found.isascii() and found.isdecimal() and int(found[:9]) > LAYOUT:
        raise SchemaVersionError(
            f"{store} has layout {found[:9]}, this thoughtgear works with {LAYOUT}: upgrade the package, "
            f"`pip install --upgrade thoughtgear`, or use another {place}."
        )
    raise SchemaVersionError(
        f"{store} holds something else where a store has the number of its layout: use another {place}."
    )


def no_store(what: str) -> ConfigurationError:
    """The error for a place without a store, where use is to make none. `what` says so of the place."""
    return ConfigurationError(f"{what}: check its name, or make it with `thoughtgear db upgrade`.")
