"""The lists of runs in the S3 store: empty objects whose names say when a run was created, and by whom.

    index/<time>-<facts>-<name>+<born>      every run
    open/<time>-<facts>-<name>+<opening>    every run that is not over

The time runs backwards, so that S3 lists the newest first. The facts are hashes of handler, session and user:
runs that they rule out are not read. There may be markers too many, never too few: what is listed is
what the heads say, and a head names the only markers that count for it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from thoughtgear.adapters.records import Position, decode_listed, leave_out, position
from thoughtgear.adapters.s3_bucket import Bucket, together
from thoughtgear.adapters.s3_head import DamagedHeadError, Head, id_of, object_name
from thoughtgear.adapters.s3_run import Runs
from thoughtgear.models import OVER, RunState
from thoughtgear.protocols import RunFilter

LEAST_HEADS = 16
MOST_HEADS = 128
"""How many heads are read at once."""

_NO_FACT = "0" * 8
_TIMES = 2**63
_MARKER = re.compile(
    r"(?P<folder>\w+)/(?P<listed>(?P<time>[0-9a-f]{16})-(?P<facts>[0-9a-f]{24})-(?P<name>[^/+]+))\+(?P<drawn>\w+)"
)


def place_of(state: RunState) -> str:
    """Return where the run stands in the lists: the name of its markers, less what makes them unique."""
    created, run_id = position(state)
    facts = "".join(_fact(value) for value in (state.handler, state.session_id, state.user_id))
    return f"{_time(created)}-{facts}-{object_name(run_id)}"


def _time(created: int) -> str:
    return f"{_TIMES - created:016x}"


def _fact(value: str | None) -> str:
    return _NO_FACT if value is None else hashlib.blake2b(value.encode(), digest_size=4).hexdigest()


@dataclass(frozen=True)
class Marker:
    """A marker's name, taken apart."""

    folder: str
    listed: str
    time: str
    facts: str
    name: str
    drawn: str

    @classmethod
    def read(cls, key: str) -> Marker | None:
        """Return the marker, or None for an object that is somebody else's."""
        match = _MARKER.fullmatch(key)
        return cls(**match.groupdict()) if match else None

    def allows(self, where: RunFilter) -> bool:
        """Whether the run may be one that the filter lets pass."""
        wanted = (where.handler, where.session_id, where.user_id)
        found = (self.facts[start : start + 8] for start in (0, 8, 16))
        return all(want is None or _fact(want) == got for want, got in zip(wanted, found, strict=True))

    def of(self, head: Head) -> bool:
        """Whether the head names this marker."""
        drawn = head.opening if self.folder == "open" else head.born
        return (self.listed, self.drawn) == (head.listed, drawn)


class Index:
    """Lists the runs of a bucket."""

    def __init__(self, bucket: Bucket, runs: Runs) -> None:
        self._bucket, self._runs = bucket, runs

    async def newest(
        self, where: RunFilter, start: Position | None, limit: int, damaged: dict[str, str]
    ) -> list[RunState]:
        """Return the runs beyond `start`, newest first; one more than `limit` where there are more. What is
        met on the way and can't be read is noted in `damaged`."""
        found: list[RunState] = []
        async for markers in self._chunks(where, start, limit + 1):
            heads = await together(self._peek(marker, damaged) for marker in markers)
            pairs = zip(markers, heads, strict=True)
            states = [
                decode_listed(head.state, id_of(marker.name), damaged)
                for marker, head in pairs
                if head and marker.of(head)
            ]
            beyond = [state for state in states if state and (start is None or position(state) < start)]
            found += sorted((s for s in beyond if where.matches(s)), key=position, reverse=True)
            if len(found) > limit:
                break
        return found[: limit + 1]

    async def _peek(self, marker: Marker, damaged: dict[str, str]) -> Head | None:
        try:
            return await self._runs.peek(marker.name)
        except DamagedHeadError as exc:
            leave_out(id_of(marker.name), exc, damaged)
        return None

    async def _chunks(
        self, where: RunFilter, start: Position | None, wanted: int
    ) -> AsyncIterator[list[Marker]]:
        """Yield markers in order, about as many as are wanted, never parted within the same microsecond."""
        size = min(max(wanted, LEAST_HEADS), MOST_HEADS)
        chunk: list[Marker] = []
        async for marker in self._markers(where, start):
            if len(chunk) >= size and marker.time != chunk[-1].time:
                yield chunk
                chunk = []
            chunk.append(marker)
        if chunk:
            yield chunk

    async def _markers(self, where: RunFilter, start: Position | None) -> AsyncIterator[Marker]:
        going_on = where.status is not None and where.status not in OVER
        folder = "open/" if going_on else "index/"
        after = folder + _time(start[0]) if start else ""
        while found := await self._bucket.list(folder, after):
            for marker in (Marker.read(each.key) for each in found):
                if marker and marker.allows(where):
                    yield marker
            after = found[-1].key
