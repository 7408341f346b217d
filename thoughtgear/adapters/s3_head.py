"""The head of a run in the S3 store: the one object that a commit replaces.

Lines of text: a header, the state, and the tail, which is the messages that are in no page yet. A message
that is too big to be written again with every commit stands in an object of its own; its line is a list with
that object's name. A tombstone is a head with a header only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from dataclasses import dataclass, replace
from threading import Lock
from urllib.parse import unquote
from uuid import uuid4

from thoughtgear.adapters.s3_bucket import Stored
from thoughtgear.errors import StoreError

PAGE = 32
"""Messages in a page."""

APART_BYTES = 64 * 1024
"""A message over this size stands in an object of its own."""

COMMITS = 16
"""How many of the last commits a head names, for writers who do not know whether theirs was done."""

CACHE_BYTES = 32 * 1024 * 1024

_HEADER = ("born", "version", "count", "folded", "bound", "commits", "listed", "opening", "deleted_until")
_MAX_NAME = 180
_PART = re.compile(r"[A-Za-z0-9_.=-]*")
"""What a head names goes into the names of objects: it must not lead out of the run's."""
_ESCAPED = re.compile(rb"[^A-Za-z0-9_.]|^\.")


def object_name(run_id: str) -> str:
    """Return a part of a key that stands for the id alone; for a long one a hash."""
    raw = run_id.encode()
    name = _ESCAPED.sub(lambda match: b"=%02x" % match[0][0], raw).decode()
    return name if len(name) <= _MAX_NAME else f"=h{hashlib.sha256(raw).hexdigest()}"


def id_of(name: str) -> str:
    """Return the id of a run whose objects have this name; of a hashed one the name."""
    return name if name.startswith("=h") else unquote(name.replace("=", "%"))


@dataclass(frozen=True)
class Head:
    """What a head says. `born` names the creation of the run: its pages and big messages stand under it.

    `count` is the length of the transcript, of which `folded` messages are in pages, and `bound` in the
    segments of each size (`s3_segments`). `commits` are the ids of the last commits, newest first.
    `listed` is where the run stands in the lists (`s3_index`), `opening` is drawn anew whenever the run
    becomes one that goes on; empty: the run is over.
    """

    born: str
    version: int
    count: int
    folded: int
    commits: tuple[str, ...]
    listed: str
    opening: str
    bound: tuple[int, ...] = ()
    deleted_until: int | None = None
    state: bytes = b""
    tail: tuple[bytes, ...] = ()
    etag: str = ""

    @classmethod
    def unread(cls, etag: str) -> Head:
        """Return what stands for a head that can't be read: nobody knows what `born` it had."""
        return replace(cls.unborn(), born="", etag=etag)

    @classmethod
    def unborn(cls) -> Head:
        """Return what the first commit of a run is put on."""
        return cls(uuid4().hex[:16], version=0, count=0, folded=0, commits=(), listed="", opening="")

    @property
    def size(self) -> int:
        return len(self.state) + sum(len(line) for line in self.tail)

    def encode(self) -> bytes:
        """Return the object. Two commits never have equal bytes, so that they never have equal ETags."""
        header = json.dumps({name: getattr(self, name) for name in _HEADER}).encode()
        return b"\n".join((header, self.state, *self.tail))

    def buried(self, until: int) -> Head:
        """Return the tombstone of this run."""
        commits = (uuid4().hex, *self.commits)[:COMMITS]
        return replace(self, deleted_until=until, commits=commits, state=b"", tail=())

    def full_pages(self) -> list[tuple[int, tuple[bytes, ...]]]:
        """Return the number and the lines of every page that the tail can fill."""
        starts = range(0, len(self.tail) - PAGE + 1, PAGE)
        return [((self.folded + start) // PAGE, self.tail[start : start + PAGE]) for start in starts]


class DamagedHeadError(StoreError):
    """The head of a run is damaged: its first line is no header."""


def decode_head(stored: Stored) -> Head:
    """Read a head. Raises `DamagedHeadError`."""
    header, _, rest = stored.body.partition(b"\n")
    state, *tail = rest.split(b"\n")
    try:
        given = json.loads(header)
        # What a newer version adds is left out: it has to work without.
        facts = {name: given[name] for name in _HEADER if name in given}
        facts |= {name: tuple(facts[name]) for name in ("commits", "bound") if name in facts}
        head = Head(**facts, state=state, tail=tuple(tail), etag=stored.etag)
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise DamagedHeadError from exc
    if not _is_sound(head):
        raise DamagedHeadError
    return head


def _is_sound(head: Head) -> bool:
    numbers = (head.version, head.count, head.folded, *head.bound, head.deleted_until or 0)
    texts = (head.born, head.listed, head.opening, *head.commits)
    counted = all(type(number) is int and number >= 0 for number in numbers)
    return counted and all(isinstance(text, str) and _PART.fullmatch(text) for text in texts)


def reference(name: str) -> bytes:
    """Return the line of a message that stands in an object of that name."""
    return json.dumps([name]).encode()


def referred(line: bytes) -> str | None:
    """Return the name of the object that has the message; None: the line itself is the message. Raises
    `StoreError` for a damaged name."""
    if not line.startswith(b"["):
        return None
    try:
        return str(json.loads(line)[0])
    except (ValueError, IndexError, RecursionError) as exc:
        raise StoreError("A message of a run is damaged: the name of its object can't be read.") from exc


class HeadCache:
    """The heads that this process saw last, up to `CACHE_BYTES`. They may be old: what is written on top of
    one carries its ETag as the condition, and a read asks whether it still stands."""

    def __init__(self) -> None:
        self._heads: OrderedDict[str, Head] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def get(self, name: str) -> Head | None:
        with self._lock:
            return self._heads.get(name)

    def put(self, name: str, head: Head | None) -> None:
        """Remember a head, or that there is none."""
        with self._lock:
            old = self._heads.pop(name, None)
            self._bytes -= old.size if old else 0
            if head is None or head.size > CACHE_BYTES:
                return
            self._heads[name] = head
            self._bytes += head.size
            while self._bytes > CACHE_BYTES:
                _, dropped = self._heads.popitem(last=False)
                self._bytes -= dropped.size
