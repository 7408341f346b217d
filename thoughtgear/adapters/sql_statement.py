"""A statement that is compiled once, and run by the driver itself where that is synchronous."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import Connection
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.expression import ClauseElement

DRIVER = "thoughtgear_driver"
"""The key in `Connection.info` under which a database puts its driver's own connection, where that is
synchronous: what SQLAlchemy does to execute a statement takes longer than SQLite does."""


class Result(Protocol):
    """What an execution gives: of the driver, or of SQLAlchemy."""

    @property
    def rowcount(self) -> int: ...

    def fetchall(self) -> Sequence[Any]: ...


class Statement:
    """A statement that is compiled once per dialect. Parameters and results are plain text, numbers and
    bytes, and rows are tuples."""

    def __init__(self, clause: ClauseElement) -> None:
        assert isinstance(clause, Executable)
        self._clause = clause
        self._compiled: dict[str, tuple[str, list[str], dict[str, Any]]] = {}

    def first(self, connection: Connection, row: Mapping[str, Any]) -> Any:
        """Return the first row found with these parameters, or None."""
        found = self.all(connection, row)
        return found[0] if found else None

    def all(self, connection: Connection, row: Mapping[str, Any]) -> Sequence[Any]:
        """Return the rows found with these parameters."""
        return self._run(connection, row).fetchall()

    def change(self, connection: Connection, *rows: Mapping[str, Any]) -> int:
        """Execute with one row of parameters, or for each of several, and return how many rows it met."""
        return self._run(connection, *rows).rowcount

    def _run(self, connection: Connection, *rows: Mapping[str, Any]) -> Result:
        text, names, fixed = self._for(connection)
        values = [tuple([fixed[name] if name in fixed else row[name] for name in names]) for row in rows]
        driver = connection.info.get(DRIVER)
        one = len(values) == 1
        if driver is None:
            return connection.exec_driver_sql(text, values[0] if one else values)
        result: Result = driver.execute(text, values[0]) if one else driver.executemany(text, values)
        return result

    def _for(self, connection: Connection) -> tuple[str, list[str], dict[str, Any]]:
        dialect = connection.dialect
        if dialect.name not in self._compiled:
            compiled = self._clause.compile(dialect=dialect)
            names = list(getattr(compiled, "positiontup", None) or ())
            # What a dialect adds by itself has a value already: SQLite's OFFSET 0.
            fixed = {name: value for name, value in compiled.params.items() if value is not None}
            self._compiled[dialect.name] = (str(compiled), names, fixed)
        return self._compiled[dialect.name]
