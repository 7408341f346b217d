"""The version of the tables: looked at by whoever opens them, changed by `thoughtgear db upgrade`.

A new database gets today's tables at once. Alembic, whose import takes longer than that, is needed only where
there are older ones.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from sqlalchemy import Connection, insert, inspect

from thoughtgear.adapters.sql_schema import Tables
from thoughtgear.errors import ConfigurationError, SchemaVersionError
from thoughtgear.protocols import SchemaUpgrade

SCHEMA_VERSION = 2
"""The version of the tables in `sql_schema`: the number of the last file in `sql_migrations/versions`."""

MIGRATIONS = Path(__file__).with_name("sql_migrations")

log = logging.getLogger("thoughtgear.schema")

_WHOLE_ROW = {
    "sqlite": "SELECT * FROM {name}",
    # As text: a pooled connection keeps the plan, which must not depend on what the table looks like.
    "postgresql": "SELECT {name}::text FROM {name}",
}
"""Before there were migrations the column was a number, of another name."""

_alembic = threading.Lock()
"""Alembic hands a connection to its migrations through a global variable."""


def check_version(tables: Tables, connection: Connection) -> bool:
    """Whether the tables are there. Raises `SchemaVersionError` for those of another version."""
    found = version_of(tables, connection)
    if found is not None and found > SCHEMA_VERSION:
        raise _newer(found)
    if found is not None and found < SCHEMA_VERSION:
        raise SchemaVersionError(
            f"The database has schema version {found}, this thoughtgear works with {SCHEMA_VERSION}: "
            "run `thoughtgear db upgrade`.",
            older=True,
        )
    return found is not None


def no_tables(tables: Tables) -> SchemaVersionError:
    """The error for a database without tables, where `create` is off."""
    named = f" with the prefix {tables.prefix}" if tables.prefix else ""
    return SchemaVersionError(
        f"The database has no tables of thoughtgear{named}: check its name, or make them with "
        "`thoughtgear db upgrade`."
    )


def make_tables(tables: Tables, connection: Connection) -> None:
    """Make the tables in a database that has none. Call it in a transaction that excludes other writers.
    Raises `SchemaVersionError`, and `ConfigurationError` where somebody else has a table of such a name."""
    if not check_version(tables, connection):
        _create(tables, connection)


def upgrade(tables: Tables, connection: Connection) -> SchemaUpgrade:
    """Bring the tables to today's version, or make them. Call it in a transaction that excludes other
    writers. Raises `SchemaVersionError` for those of a newer version, and what `make_tables` does."""
    found = version_of(tables, connection)
    if found is None:
        _create(tables, connection)
    elif found > SCHEMA_VERSION:
        raise _newer(found)
    elif found < SCHEMA_VERSION:
        log.info("upgrading the schema from version %s to %s", found, SCHEMA_VERSION)
        _take_over(tables, connection)
        _migrate(tables, connection)
    return SchemaUpgrade(found, SCHEMA_VERSION)


def version_of(tables: Tables, connection: Connection) -> int | None:
    """Return the version of the tables; None: there are none."""
    name = tables.schema_version.name
    if not inspect(connection).has_table(name):
        return None
    # The name is a checked prefix and ours: nothing in it needs quotes.
    row = connection.exec_driver_sql(_WHOLE_ROW[connection.dialect.name].format(name=name)).scalar_one()
    try:
        return int(str(row).strip("()"))
    except ValueError:
        raise SchemaVersionError(
            f"The table {name} of this database is not thoughtgear's: use another table_prefix, schema or "
            "database."
        ) from None


def _newer(found: int) -> SchemaVersionError:
    return SchemaVersionError(
        f"The database has schema version {found}, this thoughtgear works with {SCHEMA_VERSION}: "
        "upgrade the package, `pip install --upgrade thoughtgear`."
    )


def _create(tables: Tables, connection: Connection) -> None:
    """Make all of them, which is one transaction: one of their names that is there without a version is
    somebody else's."""
    there = inspect(connection)
    for table in tables.metadata.sorted_tables:
        if there.has_table(table.name):
            raise ConfigurationError(
                f"The database has a table {table.name} that is not thoughtgear's: use another table_prefix, "
                "schema or database."
            )
    tables.metadata.create_all(connection)
    _stamp(tables, connection, SCHEMA_VERSION)


def _take_over(tables: Tables, connection: Connection) -> None:
    """Give the version table of the time before migrations the form that Alembic knows."""
    table = tables.schema_version
    columns = {column["name"] for column in inspect(connection).get_columns(table.name)}
    if "version_num" not in columns:
        table.drop(connection)
        table.create(connection)
        _stamp(tables, connection, 1)


def _stamp(tables: Tables, connection: Connection, version: int) -> None:
    connection.execute(insert(tables.schema_version).values(version_num=f"{version:04}"))


def _migrate(tables: Tables, connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection, "tables": tables})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    # Else Alembic would begin a transaction, and end it after every step.
    assert connection.in_transaction()
    with _alembic:
        command.upgrade(config, "head")
