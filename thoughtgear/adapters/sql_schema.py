"""The tables of the sql store, and the statements that every iteration runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    bindparam,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.expression import ClauseElement

metadata = MetaData()


def _text() -> String:
    """Text that compares by code point, whatever the database's locale is."""
    return String().with_variant(String(collation="C"), "postgresql")


# Alembic's table of versions, in the form that Alembic gives it.
schema_version = Table(
    "schema_version",
    metadata,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="schema_version_pkc"),
)

run_states = Table(
    "run_states",
    metadata,
    Column("run_id", _text(), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("message_count", BigInteger, nullable=False),
    Column("status", _text(), nullable=False),
    Column("handler", _text(), nullable=False),
    Column("session_id", _text()),
    Column("user_id", _text()),
    Column("created_at", BigInteger, nullable=False),  # microseconds since 1970
    Column("deleted_until", BigInteger),  # seconds since 1970; a row that has it is a tombstone
    Column("body", Text, nullable=False),
    Column("metadata_digest", String, nullable=False, server_default=""),
)
for _name in ("status", "handler", "session_id", "user_id"):
    Index(f"ix_run_states_{_name}", run_states.c[_name], run_states.c.created_at, run_states.c.run_id)
Index("ix_run_states_created_at", run_states.c.created_at, run_states.c.run_id)
_expiry = run_states.c.deleted_until
Index(
    "ix_run_states_deleted_until",
    _expiry,
    sqlite_where=_expiry.is_not(None),
    postgresql_where=_expiry.is_not(None),
)

# A row for each pair of a run's metadata: `sql_metadata` makes them.
run_metadata = Table(
    "run_metadata",
    metadata,
    Column("run_id", _text(), primary_key=True),
    Column("pair", String, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
Index("ix_run_metadata_pair", run_metadata.c.pair, run_metadata.c.created_at, run_metadata.c.run_id)

messages = Table(
    "messages",
    metadata,
    Column("run_id", _text(), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
)

documents = {
    name: Table(
        name,
        metadata,
        Column("key", _text(), primary_key=True),
        Column("tag", String, nullable=False),
        Column("value", LargeBinary, nullable=False),
    )
    for name in ("cache", "memory", "files")
}


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


_r = run_states.c
_columns = (
    "version",
    "message_count",
    "status",
    "handler",
    "session_id",
    "user_id",
    "created_at",
    "body",
    "metadata_digest",
)

LOAD_RUN = Statement(select(_r.body, _r.deleted_until).where(_r.run_id == bindparam("run_id")))
STANDING = Statement(
    select(_r.version, _r.message_count, _r.deleted_until, _r.metadata_digest).where(
        _r.run_id == bindparam("run_id")
    )
)
CREATE_RUN = Statement(insert(run_states).values({name: bindparam(name) for name in ("run_id", *_columns)}))
# `deleted_until IS NULL` is not asked: a tombstone stands at version 0, which no update expects.
UPDATE_RUN = Statement(
    update(run_states)
    .where(_r.run_id == bindparam("id"), _r.version == bindparam("from_version"))
    .where(_r.message_count == bindparam("from_count"), _r.metadata_digest == bindparam("from_digest"))
    .values({name: bindparam(name) for name in _columns})
)
# Only a tombstone: another creator may have put a run in its place meanwhile.
DROP_RUN = Statement(
    delete(run_states).where(_r.run_id == bindparam("run_id"), _r.deleted_until.is_not(None))
)
ADD_METADATA = Statement(
    insert(run_metadata).values({name: bindparam(name) for name in ("run_id", "pair", "created_at")})
)
DROP_METADATA = Statement(delete(run_metadata).where(run_metadata.c.run_id == bindparam("run_id")))
ADD_MESSAGE = Statement(
    insert(messages).values({name: bindparam(name) for name in ("run_id", "seq", "body")})
)
HISTORY = Statement(
    select(messages.c.body)
    .where(messages.c.run_id == bindparam("run_id"), messages.c.seq > bindparam("after"))
    .order_by(messages.c.seq)
    .limit(bindparam("count", type_=BigInteger()))
)
GET_DOCUMENT = {
    name: Statement(select(table.c.tag, table.c.value).where(table.c.key == bindparam("key")))
    for name, table in documents.items()
}
