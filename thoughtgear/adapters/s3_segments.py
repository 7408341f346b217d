"""The folded part of a transcript in the S3 store: pages of 32 messages, bound into larger segments.

    runs/<name>/<born>/p00000000         page 0: the messages 0 to 31
    runs/<name>/<born>/s0256-00000000    segment 0 of 256: the messages 0 to 255, from eight pages
    runs/<name>/<born>/s2048-00000000    segment 0 of 2,048: the messages 0 to 2,047, from eight of those

A segment is to its parts what a page is to the tail. It has only one possible content; it is written after
its parts are committed, and before a head says that it is there (`Head.bound`); it is never changed. The
parts stay, for small reads and for whoever holds an older head. So a segment is a shorter way to what is
there already: binding may fail or be done by several writers, and the next commit makes up for it.

Each message is written twice more in its life, and a commit binds a few segments at the most, also after
one that brought thousands of messages. A transcript is read in one request for every 2,048 messages and
up to nine for each smaller size, all at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from thoughtgear.adapters.s3_bucket import Bucket, Stored, together
from thoughtgear.adapters.s3_head import PAGE, Head, referred
from thoughtgear.errors import StoreError

SEGMENTS = (256, 2048)
"""Messages in a segment of each level: a multiple of those of the level below."""

BIND_AT_ONCE = 4
"""How many segments of a level a commit binds."""

Part = tuple[int, int]
"""How many messages a page or a segment has, and its number."""


def part_key(part: Part) -> str:
    """Return the key of a page or a segment below the run's."""
    size, number = part
    return f"p{number:08d}" if size == PAGE else f"s{size:04d}-{number:08d}"


def parts_of(head: Head, first: int, end: int) -> list[Part]:
    """Return what has the folded messages from `first` up to `end`: no segment of which little is wanted."""
    found: list[Part] = []
    while first < end:
        size = next(size for size in (*reversed(SEGMENTS), PAGE) if _worth(head, size, first, end))
        found.append((size, first // size))
        first = (first // size + 1) * size
    return found


def _worth(head: Head, size: int, first: int, end: int) -> bool:
    upper = (first // size + 1) * size
    return size == PAGE or (upper <= _bound(head, size) and min(end, upper) - first > size // 4)


def _bound(head: Head, size: int) -> int:
    """Return how many messages are in segments of this size."""
    return dict(zip(SEGMENTS, head.bound, strict=False)).get(size, 0)


class Segments:
    """The folded messages of a bucket's runs. `below` is what the keys of a run begin with."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def lines(self, below: str, head: Head, first: int, end: int) -> list[bytes] | None:
        """Return the messages from `first` up to `end`; None where an object is missing."""
        parts = parts_of(head, first, min(end, head.folded))
        bodies = await self._bodies(below, parts)
        folded = [line for body in bodies if body is not None for line in body.body.split(b"\n")]
        if len(folded) != sum(size for size, _ in parts):
            return None
        start = parts[0][0] * parts[0][1] if parts else min(first, head.folded)
        lines = [*folded, *head.tail][first - start : max(end - start, 0)]
        return await self._with_big_ones(below, lines)

    async def _with_big_ones(self, below: str, lines: list[bytes]) -> list[bytes] | None:
        places = {place: apart for place, line in enumerate(lines) if (apart := referred(line)) is not None}
        found = await together(self._bucket.get(below + apart) for apart in places.values())
        for place, big in zip(places, found, strict=True):
            if big is None:
                return None
            lines[place] = big.body
        return lines

    async def bind(self, below: str, head: Head) -> tuple[int, ...]:
        """Bind what the committed head has complete; return how many messages each level has after that."""
        smaller = ((PAGE, head.folded), *((size, _bound(head, size)) for size in SEGMENTS))
        levels = zip(smaller, SEGMENTS, strict=False)
        return tuple(
            [await self._bind_level(below, head, part, through, size) for (part, through), size in levels]
        )

    async def _bind_level(self, below: str, head: Head, part: int, through: int, size: int) -> int:
        done = _bound(head, size) // size
        free = range(done, min(through // size, done + BIND_AT_ONCE))
        for number in free:
            if not await self._bind_one(below, part, (size, number)):
                return number * size
        return max(done, free.stop) * size

    async def _bind_one(self, below: str, part: int, segment: Part) -> bool:
        """Write a segment; False where that failed, or a part is missing because the run was deleted."""
        size, number = segment
        first, count = number * size // part, size // part
        with suppress(StoreError):
            bodies = await self._bodies(below, [(part, each) for each in range(first, first + count)])
            parts = [body.body for body in bodies if body is not None]
            if len(parts) == count:
                # What is there already has these very bytes.
                await self._bucket.put(below + part_key(segment), b"\n".join(parts), None)
                return True
        return False

    async def _bodies(self, below: str, parts: Sequence[Part]) -> list[Stored | None]:
        return await together(self._bucket.get(below + part_key(part)) for part in parts)
