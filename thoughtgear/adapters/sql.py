"""A store in an SQL database. Every method is a function of a connection, run whole in one transaction.

SQLite runs these functions in a thread of its own; an asynchronous driver can run the same ones through
`AsyncConnection.run_sync`. What differs between databases is in the database object, not here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from sqlalchemy import Connection, Select, and_, delete, insert, or_, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError

from thoughtgear.adapters import sql_schema as schema
from thoughtgear.adapters.records import (
    ALL_RUNS,
    TOMBSTONE_SECONDS,
    Position,
    check_commit,
    check_key,
    cut_page,
    decode_listed,
    decode_message,
    decode_state,
    encode,
    matches_metadata,
    position,
    read_cursor,
    wrong_count,
)
from thoughtgear.adapters.sqlite import SqliteDatabase
from thoughtgear.errors import ConfigurationError, ConflictError, RunNotFoundError
from thoughtgear.models import Message, RunState
from thoughtgear.protocols import Collection, Document, Reach, RunFilter, RunPage, SchemaUpgrade

T = TypeVar("T")
_STORE = "sql"
_RIGHT_URL = "Use sqlite:///folder/name.db (relative) or sqlite:////folder/name.db (absolute)."
_ALL = 2**62
_BATCH = 500


class Database(Protocol):
    """What runs a function of a connection, in a transaction where it writes."""

    async def read(self, txn: Callable[[Connection], T]) -> T:
        """Return what `txn` returns: one statement's rows."""
        ...

    async def write(self, txn: Callable[[Connection], T]) -> T:
        """Run `txn` and commit, or roll back when it raises."""
        ...

    async def upgrade(self) -> SchemaUpgrade:
        """Bring the tables to the version of this code, or make them."""
        ...

    async def aclose(self) -> None: ...


class SqlAdapter:
    """Keeps each run as a row of `run_states` (its JSON, and the columns that are searched) and its
    transcript as rows of `messages`. Tables are made by the first use."""

    reach: Reach = "host"

    def __init__(self, database: Database) -> None:
        self._database = database

    def __repr__(self) -> str:
        return f"SqlAdapter({self._database})"

    @classmethod
    def from_url(cls, url: str) -> SqlAdapter:
        """Make a store from `sqlite:///…`. Raises `ConfigurationError`, which never repeats the URL."""
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            raise ConfigurationError(f"This store URL can't be read. {_RIGHT_URL}") from None
        if parsed.drivername != "sqlite" or parsed.host or parsed.query:
            raise ConfigurationError(f"This store URL is not one of SQLite. {_RIGHT_URL}")
        return cls.from_dict({"path": parsed.database or ""})

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> SqlAdapter:
        """Make a store from `{"path": …}`."""
        unknown = set(settings) - {"path"}
        if unknown:
            raise ConfigurationError(f"A SQLite store has no setting {min(unknown)!r}; it has path.")
        path = str(settings.get("path", ""))
        if path in ("", ":memory:"):
            raise ConfigurationError(f"A SQLite store needs a file. {_RIGHT_URL} In memory: memory://")
        return cls(SqliteDatabase(Path(path).absolute()))

    async def load_run(self, run_id: str) -> RunState:
        key = {"run_id": check_key(run_id)}
        row = await self._database.read(lambda connection: schema.LOAD_RUN.first(connection, key))
        body, deleted_until = row or (None, None)
        if body is None or deleted_until is not None:
            raise RunNotFoundError(f"There is no run {run_id} in this store.")
        return decode_state(body)

    async def save_run(
        self, state: RunState, messages: Sequence[Message], *, expected: int | None = None
    ) -> None:
        base, first = check_commit(state, messages, expected)
        row = _row_of(state)
        added = [{"run_id": state.run_id, "seq": each.seq, "body": encode(each)} for each in messages]

        def txn(connection: Connection) -> None:
            if base:
                _update(connection, row, base, first)
            else:
                _create(connection, row, first)
            if added:
                schema.ADD_MESSAGE.change(connection, *added)

        await self._database.write(txn)

    async def list_runs(
        self, where: RunFilter = ALL_RUNS, *, after: str | None = None, limit: int = 100
    ) -> RunPage:
        start = read_cursor(_STORE, after, limit)
        found: list[RunState] = []
        # Metadata is compared here, which every database can; batch by batch, so that others get their turn.
        size = _BATCH if where.metadata else limit + 1
        while len(found) <= limit:
            query = _runs_query(where, start).limit(size)
            rows = await self._database.read(partial(_all_rows, query))
            batch = [decode_listed(body, run_id) for run_id, _, body in rows]
            found += [state for state in batch if state and matches_metadata(where, state)]
            if len(rows) < size:
                break
            start = rows[-1].created_at, rows[-1].run_id
        return cut_page(found, limit, _STORE)

    async def delete_run(self, run_id: str) -> None:
        check_key(run_id)
        await self._database.write(lambda connection: _delete_run(connection, run_id, int(time.time())))

    async def get_history(self, run_id: str, after: int = -1, limit: int | None = None) -> list[Message]:
        count = _ALL if limit is None else max(limit, 0)
        row = {"run_id": check_key(run_id), "after": after, "count": count}
        rows = await self._database.read(lambda connection: schema.HISTORY.all(connection, row))
        return [decode_message(body) for (body,) in rows]

    async def get_document(self, collection: Collection, key: str) -> Document | None:
        statement, row = schema.GET_DOCUMENT[collection], {"key": check_key(key)}
        found = await self._database.read(lambda connection: statement.first(connection, row))
        if found is None:
            return None
        current, value = found
        return Document(key, bytes(value), current)

    async def put_document(
        self, collection: Collection, key: str, value: bytes | None, *, tag: str | None
    ) -> str | None:
        check_key(key)
        data = None if value is None else bytes(value)
        return await self._database.write(
            lambda connection: _put_document(connection, collection, key, data, tag)
        )

    async def list_documents(
        self, collection: Collection, prefix: str = "", *, after: str = "", limit: int = 1000
    ) -> list[str]:
        key = schema.documents[collection].c.key
        # No key has a control character, so that any one stands for the NUL that PostgreSQL's text hasn't.
        prefix, after = prefix.replace("\0", "\1"), after.replace("\0", "\1")
        query = select(key).where(key > after, key >= prefix).order_by(key).limit(max(limit, 0))
        end = _past(prefix)
        bounded = query if end is None else query.where(key < end)
        return await self._database.read(partial(_first_column, bounded))

    async def upgrade(self) -> SchemaUpgrade:
        """Bring the tables of an older version to this one, or make them. Raises `SchemaVersionError`."""
        return await self._database.upgrade()

    async def aclose(self) -> None:
        """Close the database; closing twice is fine."""
        await self._database.aclose()


def _row_of(state: RunState) -> dict[str, Any]:
    return {
        "run_id": state.run_id,
        "version": state.version,
        "message_count": state.message_count,
        "status": state.status,
        "handler": _searchable(state.handler),
        "session_id": _searchable(state.session_id),
        "user_id": _searchable(state.user_id),
        "created_at": position(state)[0],
        "body": encode(state),
    }


def _searchable(text: str | None) -> str | None:
    """Return the text for a column: PostgreSQL's text has no NUL. The body is JSON and escapes its own."""
    return text and text.replace("\\", "\\\\").replace("\0", "\\0")


def _create(connection: Connection, row: dict[str, Any], first: int) -> None:
    found = schema.STANDING.first(connection, row)
    if found is not None:
        _, _, deleted_until = found
        if deleted_until is None or deleted_until > time.time():
            raise ConflictError
        schema.DROP_RUN.change(connection, row)
    if first != 0:
        raise wrong_count(0, first)
    try:
        schema.CREATE_RUN.change(connection, row)
    except IntegrityError as exc:  # another creator, on a database whose writers run side by side
        raise ConflictError from exc


def _update(connection: Connection, row: dict[str, Any], base: int, first: int) -> None:
    expected = {**row, "id": row["run_id"], "from_version": base, "from_count": first}
    if schema.UPDATE_RUN.change(connection, expected) == 1:
        return
    standing, count, _ = schema.STANDING.first(connection, row) or (None, 0, None)
    if standing != base:
        raise ConflictError
    raise wrong_count(count, first)


def _delete_run(connection: Connection, run_id: str, now: int) -> None:
    runs, files = schema.run_states, schema.documents["files"].c.key
    connection.execute(delete(runs).where(runs.c.deleted_until <= now))
    tombstone = {"version": 0, "message_count": 0, "body": "", "deleted_until": now + TOMBSTONE_SECONDS}
    alive = and_(runs.c.run_id == run_id, runs.c.deleted_until.is_(None))
    if connection.execute(update(runs).where(alive).values(tombstone)).rowcount == 1:
        connection.execute(delete(schema.messages).where(schema.messages.c.run_id == run_id))
        prefix, end = f"{run_id}/", f"{run_id}0"  # "0" comes right after "/"
        connection.execute(delete(files.table).where(files >= prefix, files < end))


def _runs_query(where: RunFilter, start: Position | None) -> Select[Any]:
    runs = schema.run_states.c
    query = select(runs.run_id, runs.created_at, runs.body).where(runs.deleted_until.is_(None))
    for name in ("status", "handler", "session_id", "user_id"):
        wanted = getattr(where, name)
        query = query if wanted is None else query.where(runs[name] == _searchable(wanted))
    if start is not None:
        created, run_id = start
        older = or_(runs.created_at < created, and_(runs.created_at == created, runs.run_id < run_id))
        query = query.where(runs.created_at <= created, older)
    return query.order_by(runs.created_at.desc(), runs.run_id.desc())


def _put_document(
    connection: Connection, collection: Collection, key: str, value: bytes | None, tag: str | None
) -> str | None:
    table, fresh = schema.documents[collection], uuid4().hex
    same = and_(table.c.key == key, table.c.tag == tag)
    if tag is None:
        if connection.execute(select(table.c.tag).where(table.c.key == key)).first():
            raise ConflictError
        if value is not None:
            _insert_document(connection, collection, {"key": key, "tag": fresh, "value": value})
    else:
        change = delete(table) if value is None else update(table).values(tag=fresh, value=value)
        if connection.execute(change.where(same)).rowcount != 1:
            raise ConflictError
    return None if value is None else fresh


def _insert_document(connection: Connection, collection: Collection, row: dict[str, Any]) -> None:
    try:
        connection.execute(insert(schema.documents[collection]).values(row))
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
