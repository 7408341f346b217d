"""Runs are found by their metadata through an index, where every run's body was read before."""

import json
import logging
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

import sqlalchemy as sa
from alembic import context, op

revision = "0002"
down_revision = "0001"

log = logging.getLogger("thoughtgear.schema")

_BATCH = 500
_SAID_EVERY = 20_000


def _text() -> sa.String:
    return sa.String().with_variant(sa.String(collation="C"), "postgresql")


def _runs(prefix: str) -> sa.TableClause:
    return sa.table(
        f"{prefix}run_states",
        sa.column("run_id", _text()),
        sa.column("created_at", sa.BigInteger()),
        sa.column("deleted_until", sa.BigInteger()),
        sa.column("body", sa.Text()),
        sa.column("metadata_digest", sa.String()),
    )


def upgrade() -> None:
    prefix = context.config.attributes["tables"].prefix
    runs, name = _runs(prefix), f"{prefix}run_metadata"
    op.add_column(runs.name, sa.Column("metadata_digest", sa.String(), nullable=False, server_default=""))
    index = op.create_table(
        name,
        sa.Column("run_id", _text(), primary_key=True),
        sa.Column("pair", sa.String(), primary_key=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sqlite_with_rowid=False,
    )
    _fill(op.get_bind(), runs, index)
    op.create_index(f"ix_{name}_pair", name, ["pair", "created_at", "run_id"])


def _fill(connection: sa.Connection, runs: sa.TableClause, index: sa.Table) -> None:
    same = runs.c.run_id == sa.bindparam("id")
    change = sa.update(runs).where(same).values(metadata_digest=sa.bindparam("digest"))
    done = 0
    for batch in _batches(connection, runs):
        pairs: list[dict[str, Any]] = []
        digests: list[dict[str, Any]] = []
        for run_id, created_at, body in batch:
            found = _pairs(body)
            if found:
                pairs += [{"run_id": run_id, "pair": pair, "created_at": created_at} for pair in found]
                digests.append({"id": run_id, "digest": _hash(f"{created_at} {' '.join(found)}")})
        if digests:
            connection.execute(sa.insert(index), pairs)
            connection.execute(change, digests)
        done += len(batch)
        if done % _SAID_EVERY == 0:
            log.info("%s runs are indexed by their metadata", f"{done:,}")


def _batches(connection: sa.Connection, runs: sa.TableClause) -> Iterator[Sequence[Any]]:
    shown, after = runs.c, ""
    query = sa.select(shown.run_id, shown.created_at, shown.body).where(shown.deleted_until.is_(None))
    while rows := connection.execute(
        query.where(shown.run_id > after).order_by(shown.run_id).limit(_BATCH)
    ).all():
        yield rows
        after = rows[-1].run_id


def _pairs(body: str) -> list[str]:
    try:
        metadata = json.loads(body)["metadata"]
        return sorted(_hash(json.dumps(pair, sort_keys=True)) for pair in metadata.items())
    except (ValueError, KeyError, AttributeError, TypeError):
        return []  # a damaged run is not listed at all


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()
