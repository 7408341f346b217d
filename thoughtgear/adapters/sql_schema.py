"""The tables of the sql store, and the statements that every iteration runs."""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
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

from thoughtgear.adapters.sql_statement import Statement
from thoughtgear.protocols import Collection

_CHANGED = (
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


@cache
def tables_of(prefix: str) -> Tables:
    """Return the tables whose names begin so: the same object in all of a process, so that its statements
    are compiled once."""
    return Tables(prefix)


class Tables:
    """The tables whose names, and whose indexes' and keys', have a prefix; and what is asked of them."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.metadata = MetaData()
        self.schema_version = _schema_version(prefix, self.metadata)
        self.run_states = _run_states(prefix, self.metadata)
        self.run_metadata = _run_metadata(prefix, self.metadata)
        self.messages = _messages(prefix, self.metadata)
        names: tuple[Collection, ...] = ("cache", "memory", "files")
        self.documents = {name: _documents(prefix + name, self.metadata) for name in names}

    @cached_property
    def load_run(self) -> Statement:
        runs = self.run_states.c
        return Statement(select(runs.body, runs.deleted_until).where(runs.run_id == bindparam("run_id")))

    @cached_property
    def standing(self) -> Statement:
        runs = self.run_states.c
        shown = (runs.version, runs.message_count, runs.deleted_until, runs.metadata_digest)
        return Statement(select(*shown).where(runs.run_id == bindparam("run_id")))

    @cached_property
    def create_run(self) -> Statement:
        return Statement(insert(self.run_states).values(_given("run_id", *_CHANGED)))

    @cached_property
    def update_run(self) -> Statement:
        """`deleted_until IS NULL` is not asked: a tombstone stands at version 0, which no update expects."""
        runs = self.run_states.c
        return Statement(
            update(self.run_states)
            .where(runs.run_id == bindparam("id"), runs.version == bindparam("from_version"))
            .where(runs.message_count == bindparam("from_count"))
            .where(runs.metadata_digest == bindparam("from_digest"))
            .values(_given(*_CHANGED))
        )

    @cached_property
    def drop_run(self) -> Statement:
        """Only a tombstone: another creator may have put a run in its place meanwhile."""
        runs = self.run_states.c
        same = runs.run_id == bindparam("run_id")
        return Statement(delete(self.run_states).where(same, runs.deleted_until.is_not(None)))

    @cached_property
    def add_metadata(self) -> Statement:
        return Statement(insert(self.run_metadata).values(_given("run_id", "pair", "created_at")))

    @cached_property
    def drop_metadata(self) -> Statement:
        same = self.run_metadata.c.run_id == bindparam("run_id")
        return Statement(delete(self.run_metadata).where(same))

    @cached_property
    def add_message(self) -> Statement:
        return Statement(insert(self.messages).values(_given("run_id", "seq", "body")))

    @cached_property
    def history(self) -> Statement:
        messages = self.messages.c
        return Statement(
            select(messages.body)
            .where(messages.run_id == bindparam("run_id"), messages.seq > bindparam("after"))
            .order_by(messages.seq)
            .limit(bindparam("count", type_=BigInteger()))
        )

    @cached_property
    def get_document(self) -> dict[Collection, Statement]:
        return {
            name: Statement(select(table.c.tag, table.c.value).where(table.c.key == bindparam("key")))
            for name, table in self.documents.items()
        }


def _given(*names: str) -> dict[str, Any]:
    return {name: bindparam(name) for name in names}


def _text() -> String:
    """Text that compares by code point, whatever the database's locale is."""
    return String().with_variant(String(collation="C"), "postgresql")


def _schema_version(prefix: str, metadata: MetaData) -> Table:
    """Alembic's table of versions, in the form that Alembic gives it."""
    name = f"{prefix}schema_version"
    column = Column("version_num", String(32), nullable=False)
    return Table(name, metadata, column, PrimaryKeyConstraint("version_num", name=f"{name}_pkc"))


def _run_states(prefix: str, metadata: MetaData) -> Table:
    table = Table(
        f"{prefix}run_states",
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
    for name in ("status", "handler", "session_id", "user_id"):
        Index(f"ix_{table.name}_{name}", table.c[name], table.c.created_at, table.c.run_id)
    Index(f"ix_{table.name}_created_at", table.c.created_at, table.c.run_id)
    expiry = table.c.deleted_until
    buried = expiry.is_not(None)
    Index(f"ix_{table.name}_deleted_until", expiry, sqlite_where=buried, postgresql_where=buried)
    return table


def _run_metadata(prefix: str, metadata: MetaData) -> Table:
    """A row for each pair of a run's metadata: `sql_metadata` makes them."""
    table = Table(
        f"{prefix}run_metadata",
        metadata,
        Column("run_id", _text(), primary_key=True),
        Column("pair", String, primary_key=True),
        Column("created_at", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    Index(f"ix_{table.name}_pair", table.c.pair, table.c.created_at, table.c.run_id)
    return table


def _messages(prefix: str, metadata: MetaData) -> Table:
    return Table(
        f"{prefix}messages",
        metadata,
        Column("run_id", _text(), primary_key=True),
        Column("seq", BigInteger, primary_key=True, autoincrement=False),
        Column("body", Text, nullable=False),
    )


def _documents(name: str, metadata: MetaData) -> Table:
    return Table(
        name,
        metadata,
        Column("key", _text(), primary_key=True),
        Column("tag", String, nullable=False),
        Column("value", LargeBinary, nullable=False),
    )
