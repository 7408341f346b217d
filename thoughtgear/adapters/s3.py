"""A store in a bucket of S3 or a server with its API and conditional writes. How a commit works: `s3_run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thoughtgear.adapters.layout import LAYOUT
from thoughtgear.adapters.records import (
    ALL_RUNS,
    check_commit,
    check_key,
    check_place,
    check_range,
    check_span,
    check_value,
    cut_page,
    decode_message,
    decode_state,
    encode,
    read_cursor,
)
from thoughtgear.adapters.s3_bucket import Bucket
from thoughtgear.adapters.s3_documents import Documents
from thoughtgear.adapters.s3_index import Index, place_of
from thoughtgear.adapters.s3_run import Commit, Runs
from thoughtgear.adapters.s3_settings import S3Settings
from thoughtgear.errors import RunNotFoundError
from thoughtgear.locations import Location
from thoughtgear.models import Message, RunState
from thoughtgear.protocols import Collection, Document, Reach, RunFilter, RunPage, SchemaUpgrade

_STORE = "s3"


class S3Adapter:
    """Keeps runs and documents as objects below a prefix of a bucket. The bucket must be there.

    A commit by the one who made the last is one request, and one more for every 32 messages; a transcript is
    read in one request for every 2,048 messages and a dozen or so for the rest, all at once.
    """

    reach: Reach = "network"

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._bucket = Bucket(settings)
        self._runs = Runs(self._bucket)
        self._index = Index(self._bucket, self._runs)
        self._documents = Documents(self._bucket)

    def __repr__(self) -> str:
        return f"S3Adapter(s3://{self._settings.bucket}/{self._settings.prefix})"

    @classmethod
    def from_url(cls, url: str) -> S3Adapter:
        """Make a store from `s3://bucket/path?endpoint=…&region=…`."""
        return cls(S3Settings.from_url(url))

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> S3Adapter:
        """Make a store from `{"bucket": …, "path": …}`; see `S3Settings.from_dict`."""
        return cls(S3Settings.from_dict(settings))

    @property
    def location(self) -> Location:
        """Where the objects are."""
        return self._settings.location

    async def load_run(self, run_id: str) -> RunState:
        head = await self._runs.head(check_key(run_id))
        if head is None:
            raise RunNotFoundError(f"There is no run {run_id} in this store.")
        return decode_state(head.state)

    async def save_run(
        self, state: RunState, messages: Sequence[Message], *, expected: int | None = None
    ) -> None:
        base, first = check_commit(state, messages, expected)
        await self._runs.commit(
            Commit(
                run_id=state.run_id,
                version=state.version,
                base=base,
                first=first,
                state=encode(state).encode(),
                lines=[encode(message).encode() for message in messages],
                listed=place_of(state),
                over=state.over,
            )
        )

    async def list_runs(
        self, where: RunFilter = ALL_RUNS, *, after: str | None = None, limit: int = 100
    ) -> RunPage:
        start = read_cursor(_STORE, after, limit)
        damaged: dict[str, str] = {}
        found = await self._index.newest(where, start, limit, damaged)
        return cut_page(found, limit, _STORE, damaged)

    async def delete_run(self, run_id: str) -> None:
        if await self._runs.delete(check_key(run_id)):
            await self._documents.remove_below("files", run_id)

    async def get_history(self, run_id: str, after: int = -1, limit: int | None = None) -> list[Message]:
        lines = await self._runs.history(run_id, *check_span(run_id, after, limit))
        return [decode_message(line) for line in lines]

    async def get_document(self, collection: Collection, key: str) -> Document | None:
        check_place(collection, key)
        return await self._documents.get(collection, key)

    async def put_document(
        self, collection: Collection, key: str, value: bytes | None, *, tag: str | None
    ) -> str | None:
        check_place(collection, key)
        data = check_value(value, tag)
        return await self._documents.put(collection, key, data, tag)

    async def list_documents(
        self, collection: Collection, prefix: str = "", *, after: str = "", limit: int = 1000
    ) -> list[str]:
        limit = check_range(collection, prefix, after, limit)
        return await self._documents.keys(collection, prefix, after, limit)

    async def upgrade(self) -> SchemaUpgrade:
        """Make the store where there is none. Raises `SchemaVersionError` for one of another version."""
        made = await self._bucket.make()
        return SchemaUpgrade(None if made else LAYOUT, LAYOUT)

    async def aclose(self) -> None:
        """End the threads and close the connections; closing twice is fine."""
        self._bucket.close()
