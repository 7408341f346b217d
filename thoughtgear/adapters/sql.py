"""A store in an SQL database. Every method is a function of a connection, run whole in one transaction.

SQLite runs these functions in a thread of its own; an asynchronous driver can run the same ones through
`AsyncConnection.run_sync`. What differs between databases is in the database object, not here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from sqlalchemy import Connection, Select, Table, and_, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from thoughtgear.adapters.records import (
    ALL_RUNS,
    TOMBSTONE_SECONDS,
    Position,
    check_commit,
    check_key,
    check_place,
    check_range,
    check_span,
    check_value,
    cut_page,
    decode_listed,
    decode_message,
    decode_state,
    encode,
    position,
    read_cursor,
    wrong_count,
)
from thoughtgear.adapters.sql_metadata import index_of, pairs_of
from thoughtgear.adapters.sql_schema import Tables
from thoughtgear.adapters.sqlite import SqliteDatabase
from thoughtgear.adapters.sqlite_settings import SqliteSettings
from thoughtgear.errors import ConflictError, RunNotFoundError, StoreError
from thoughtgear.locations import Location
from thoughtgear.models import Message, RunState
from thoughtgear.protocols import Collection, Document, Reach, RunFilter, RunPage, SchemaUpgrade

T = TypeVar("T")
_STORE = "sql"


class Database(Protocol):
    """What runs a function of a connection, in a transaction where it writes. Its tables are `tables`."""

    tables: Tables

    async def read(self, txn: Callable[[Connection], T]) -> T:
        """Return what `txn` returns: one statement's rows."""
        ...

    async def write(self, txn: Callable[[Connection], T]) -> T:
        """Run `txn` and commit, or roll back when it raises."""
        ...

    async def upgrade(self) -> SchemaUpgrade:
        """Bring the tables to the version of this code, or make them."""
        ...

    @property
    def location(self) -> Location:
        """Where the tables are."""
        ...

    async def aclose(self) -> None: ...


class SqlAdapter:
    """Keeps each run as a row of `run_states` (its JSON, and the columns that are searched) and its
    transcript as rows of `messages`."""

    reach: Reach = "host"

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tables = database.tables

    def __repr__(self) -> str:
        return f"SqlAdapter({self._database})"

    @classmethod
    def from_url(cls, url: str) -> SqlAdapter:
        """Make a store from `sqlite:///…?option=value`. docs/settings.md has the options. Raises
        `ConfigurationError`, which never repeats the URL."""
        return cls(SqliteDatabase(SqliteSettings.from_url(url)))

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> SqlAdapter:
        """Make a store from `{"path": …}`, with the options of a URL beside it."""
        return cls(SqliteDatabase(SqliteSettings.from_dict(settings)))

    async def load_run(self, run_id: str) -> RunState:
        key = {"run_id": check_key(run_id)}
        row = await self._database.read(lambda connection: self._tables.load_run.first(connection, key))
        body, deleted_until = row or (None, None)
        if body is None or deleted_until is not None:
            raise RunNotFoundError(f"There is no run {run_id} in this store.")
        return decode_state(body)

    async def save_run(
        self, state: RunState, messages: Sequence[Message], *, expected: int | None = None
    ) -> None:
        commit = _Commit(self._tables, state, *check_commit(state, messages, expected))
        added = [{"run_id": state.run_id, "seq": each.seq, "body": encode(each)} for each in messages]

        def txn(connection: Connection) -> None:
            (_update if commit.base else _create)(connection, commit)
            if added:
                self._tables.add_message.change(connection, *added)

        await self._database.write(txn)

    async def list_runs(
        self, where: RunFilter = ALL_RUNS, *, after: str | None = None, limit: int = 100
    ) -> RunPage:
        start = read_cursor(_STORE, after, limit)
        found: list[RunState] = []
        damaged: dict[str, str] = {}
        while len(found) <= limit:
            query = _runs_query(self._tables, where, start).limit(limit + 1)
            rows = await self._database.read(partial(_all_rows, query))
            batch = [decode_listed(body, run_id, damaged) for run_id, _, body in rows]
            found += [state for state in batch if state and where.matches_metadata(state)]
            if len(rows) <= limit:
                break
            start = rows[-1].created_at, rows[-1].run_id
        return cut_page(found, limit, _STORE, damaged)

    async def delete_run(self, run_id: str) -> None:
        check_key(run_id)
        await self._database.write(
            lambda connection: _delete_run(self._tables, connection, run_id, int(time.time()))
        )

    async def get_history(self, run_id: str, after: int = -1, limit: int | None = None) -> list[Message]:
        above, count = check_span(run_id, after, limit)
        row = {"run_id": run_id, "after": above, "count": count}
        rows = await self._database.read(lambda connection: self._tables.history.all(connection, row))
        return [decode_message(body) for (body,) in rows]

    async def get_document(self, collection: Collection, key: str) -> Document | None:
        check_place(collection, key)
        statement, row = self._tables.get_document[collection], {"key": key}
        found = await self._database.read(lambda connection: statement.first(connection, row))
        if found is None:
            return None
        current, value = found
        if not (isinstance(current, str) and current.isascii() and isinstance(value, bytes | memoryview)):
            raise StoreError("A document of this store is damaged: its value is no bytes.")
        return Document(key, bytes(value), current)

    async def put_document(
        self, collection: Collection, key: str, value: bytes | None, *, tag: str | None
    ) -> str | None:
        check_place(collection, key)
        data = check_value(value, tag)
        table = self._tables.documents[collection]
        return await self._database.write(lambda connection: _put_document(table, connection, key, data, tag))

    async def list_documents(
        self, collection: Collection, prefix: str = "", *, after: str = "", limit: int = 1000
    ) -> list[str]:
        limit = check_range(collection, prefix, after, limit)
        key = self._tables.documents[collection].c.key
        # No key has a control character, so that any one stands for the NUL that PostgreSQL's text hasn't.
        prefix, after = prefix.replace("\0", "\1"), after.replace("\0", "\1")
        query = select(key).where(key > after, key >= prefix).order_by(key).limit(limit)
        end = _past(prefix)
        bounded = query if end is None else query.where(key < end)
        return await self._database.read(partial(_first_column, bounded))

    @property
    def location(self) -> Location:
        """Where the store is."""
        return self._database.location

    async def upgrade(self) -> SchemaUpgrade:
        """Bring the tables of an older version to this one, or make them. Raises `SchemaVersionError`."""
        return await self._database.upgrade()

    async def aclose(self) -> None:
        """Close the database; closing twice is fine."""
        await self._database.aclose()


class _Commit:
    """The rows that a commit writes, and where the run must stand: at the version `base`, 0 for none, with
    `first` messages."""

    def __init__(self, tables: Tables, state: RunState, base: int, first: int) -> None:
        self.tables, self.base, self.first = tables, base, first
        body, (created_at, run_id) = encode(state), position(state)
        digest, pairs = index_of(body, created_at) if state.metadata else ("", [])
        self.row: dict[str, Any] = {
            "run_id": run_id,
            "version": state.version,
            "message_count": state.message_count,
            "status": state.status,
            "handler": _searchable(state.handler),
            "session_id": _searchable(state.session_id),
            "user_id": _searchable(state.user_id),
            "created_at": created_at,
            "body": body,
            "metadata_digest": digest,
        }
        self.metadata = [{"run_id": run_id, "pair": pair, "created_at": created_at} for pair in pairs]


def _searchable(text: str | None) -> str | None:
    """Return the text for a column: PostgreSQL's text has no NUL. The body is JSON and escapes its own."""
    return text and text.replace("\\", "\\\\").replace("\0", "\\0")


def _create(connection: Connection, commit: _Commit) -> None:
    found = commit.tables.standing.first(connection, commit.row)
    if found is not None:
        deleted_until = found[2]
        if deleted_until is None or deleted_until > time.time():
            raise ConflictError
        commit.tables.drop_run.change(connection, commit.row)
    if commit.first != 0:
        raise wrong_count(0, commit.first)
    try:
        commit.tables.create_run.change(connection, commit.row)
    except IntegrityError as exc:  # another creator, on a database whose writers run side by side
        raise ConflictError from exc
    if commit.metadata:
        commit.tables.add_metadata.change(connection, *commit.metadata)


def _update(connection: Connection, commit: _Commit) -> None:
    if _written(connection, commit, commit.row["metadata_digest"]):
        return
    version, count, _, digest = commit.tables.standing.first(connection, commit.row) or (None, 0, None, "")
    if version != commit.base:
        raise ConflictError
    if count != commit.first:
        raise wrong_count(count, commit.first)
    # Then the metadata is another: its rows are written anew.
    if not _written(connection, commit, digest):
        raise ConflictError
    commit.tables.drop_metadata.change(connection, commit.row)
    if commit.metadata:
        commit.tables.add_metadata.change(connection, *commit.metadata)


def _written(connection: Connection, commit: _Commit, digest: str) -> bool:
    """Whether the run stood where it must, with metadata of this digest, and is changed."""
    before = {"from_version": commit.base, "from_count": commit.first, "from_digest": digest}
    return (
        commit.tables.update_run.change(connection, {**commit.row, "id": commit.row["run_id"], **before}) == 1
    )


def _delete_run(tables: Tables, connection: Connection, run_id: str, now: int) -> None:
    runs, messages, files = tables.run_states, tables.messages, tables.documents["files"].c.key
    nothing: dict[str, Any] = {"status": "", "handler": "", "session_id": None, "user_id": None, "body": ""}
    ends = now + TOMBSTONE_SECONDS
    tombstone = {**nothing, "version": 0, "message_count": 0, "metadata_digest": "", "deleted_until": ends}
    alive = and_(runs.c.run_id == run_id, runs.c.deleted_until.is_(None))
    if connection.execute(update(runs).where(alive).values(tombstone)).rowcount == 1:
        connection.execute(delete(messages).where(messages.c.run_id == run_id))
        tables.drop_metadata.change(connection, {"run_id": run_id})
    buried = select(runs.c.run_id).where(runs.c.run_id == run_id, runs.c.deleted_until.is_not(None))
    if connection.execute(buried).first() is not None:
        prefix, end = f"{run_id}/", f"{run_id}0"  # "0" comes right after "/"
        connection.execute(delete(files.table).where(files >= prefix, files < end))
    connection.execute(delete(runs).where(runs.c.deleted_until <= now))


def _runs_query(tables: Tables, where: RunFilter, start: Position | None) -> Select[Any]:
    runs = tables.run_states.c
    query = select(runs.run_id, runs.created_at, runs.body).where(runs.deleted_until.is_(None))
    for name in ("status", "handler", "session_id", "user_id"):
        wanted = getattr(where, name)
        query = query if wanted is None else query.where(runs[name] == _searchable(wanted))
    order = runs
    for pair in pairs_of(where.metadata):
        index = tables.run_metadata.alias()
        query = query.join(index, and_(index.c.run_id == runs.run_id, index.c.pair == pair))
        order = index.c  # so that the index is walked from the newest run on
    if start is not None:
        created, run_id = start
        older = or_(order.created_at < created, and_(order.created_at == created, order.run_id < run_id))
        query = query.where(order.created_at <= created, older)
    return query.order_by(order.created_at.desc(), order.run_id.desc())


def _put_document(
    table: Table, connection: Connection, key: str, value: bytes | None, tag: str | None
) -> str | None:
    fresh = uuid4().hex
    same = and_(table.c.key == key, table.c.tag == tag)
    if tag is None:
        if connection.execute(select(table.c.tag).where(table.c.key == key)).first():
            raise ConflictError
        if value is not None:
            _insert_document(table, connection, {"key": key, "tag": fresh, "value": value})
    else:
        change = delete(table) if value is None else update(table).values(tag=fresh, value=value)
        if connection.execute(change.where(same)).rowcount != 1:
            raise ConflictError
    return None if value is None else fresh


def _insert_document(table: Table, connection: Connection, row: dict[str, Any]) -> None:
    try:
        connection.execute(insert(table).values(row))
    except IntegrityError as exc:  # another creator, on a database whose writers run side by side
        raise ConflictError from exc


def _all_rows(query: Select[Any], connection: Connection) -> Sequence[Any]:
    return connection.execute(query).all()


def _first_column(query: Select[Any], connection: Connection) -> list[Any]:
    return list(connection.execute(query).scalars())


def _past(prefix: str) -> str | None:
    """Return the smallest text that sorts after everything that begins with `prefix`; None: there is none."""
    for end in range(len(prefix), 0, -1):
        following = ord(prefix[end - 1]) + 1
        if following <= 0x10FFFF:
            # The surrogates are no characters.
            return prefix[: end - 1] + chr(0xE000 if following == 0xD800 else following)
    return None
