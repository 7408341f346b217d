"""Ids, labels, keys and cursors that nobody should send."""

from __future__ import annotations

import base64
import json
import tempfile
import zlib
from pathlib import Path
from typing import Any

from bad_input import LONG_TEXTS, OBJECTS, SCALARS, STRANGE, TEXTS, VALUES, cases, only_typed
from hypothesis import strategies as st

from thoughtgear.adapters.disk import file_name, key_of
from thoughtgear.adapters.memory import MemoryAdapter
from thoughtgear.adapters.records import read_cursor
from thoughtgear.adapters.sql import SqlAdapter
from thoughtgear.cache import key_of as cache_key_of
from thoughtgear.ids import check_label, check_run_id, run_id_for
from thoughtgear.memory import Memory
from thoughtgear.protocols import RunFilter
from thoughtgear.tools import Tool, tool


@cases(26, text=st.one_of(LONG_TEXTS, STRANGE))
def test_a_run_id_is_one_part_of_a_path(text: Any) -> None:
    """What passes as a run id names one file below a folder, on any system, and nothing beside it."""
    with only_typed():
        passed = check_run_id(text)
        assert Path("/runs", passed).parent == Path("/runs")
        assert passed.isascii()
        assert passed.isprintable()
        assert "/" not in passed
        assert "\\" not in passed


@cases(26, text=st.one_of(LONG_TEXTS, STRANGE))
def test_a_label_can_be_stored_and_shown(text: Any) -> None:
    """What passes as a session, user or request id has UTF-8 bytes, is bounded, and holds no control
    character; and it makes a run id."""
    with only_typed():
        passed = check_label(text, "session_id")
        assert 0 < len(passed.encode()) <= 512
        assert "\x1b" not in passed
        check_run_id(run_id_for("default", passed, passed))


@cases(13, key=LONG_TEXTS.filter(lambda text: text.encode("utf-8", "ignore").decode() == text))
def test_a_key_is_one_file_name(key: str) -> None:
    """The file of a key is in its folder, whatever the key says, and is its alone."""
    name = file_name(key)
    assert Path("/keys", name).resolve().parent == Path("/keys")
    assert name not in ("", ".", "..")
    assert len(name) <= 200
    assert key_of(name) in (None, key)


def _forged(store: Any, created: Any, run_id: Any) -> str:
    body = json.dumps([store, created, run_id]).encode()
    return base64.urlsafe_b64encode(zlib.crc32(body).to_bytes(4) + body).decode()


FORGED = st.builds(
    _forged,
    st.just("sql"),
    st.one_of(st.none(), TEXTS, st.integers(), st.floats(), st.just(10**400)),
    st.one_of(st.none(), TEXTS, st.integers(), st.lists(st.none(), max_size=2)),
)


@cases(
    26, cursor=st.one_of(TEXTS, FORGED, st.binary(max_size=30).map(lambda b: base64.b64encode(b).decode()))
)
async def test_a_cursor_continues_or_is_refused(cursor: str) -> None:
    """Whatever is given as a cursor gives a page or an error that says what is wrong."""
    with only_typed():
        read_cursor("sql", cursor, 10)
    with only_typed():
        await MemoryAdapter().list_runs(after=cursor)


@cases(26, key=LONG_TEXTS, value=STRANGE, scope=st.one_of(LONG_TEXTS), prefix=TEXTS)
async def test_memory_keeps_what_it_takes(key: str, value: Any, scope: str, prefix: str) -> None:
    """A value that a memory took comes back equal; what it did not take left nothing."""
    store = MemoryAdapter()
    with only_typed():
        memory = Memory(store, scope)
        try:
            await memory.put(key, value)
        except Exception:
            assert not await store.list_documents("memory")
            raise
        assert json.dumps(await memory.get(key)) == json.dumps(value)
        assert await memory.keys() == [key]
    with only_typed():
        await Memory(store, "user:x").keys(prefix)


@tool
async def look(what: Any = None) -> str:
    """Look."""
    return "x"


@cases(13, user=st.one_of(st.none(), TEXTS), given=st.one_of(TEXTS, OBJECTS))
def test_a_cache_key_is_short_and_printable(user: Any, given: Any) -> None:
    """The key of a cached result is a hash, whatever the arguments hold, or the call is refused."""
    assert isinstance(look, Tool)
    with only_typed():
        arguments = look.validate(given)
        key = cache_key_of(user, "default", look, 1000, given, arguments)
        assert key.isascii()
        assert len(key) < 200


@cases(
    17,
    name=TEXTS,
    status=st.one_of(st.none(), SCALARS),
    metadata=st.dictionaries(TEXTS, VALUES, max_size=3),
    after=st.one_of(st.integers(), st.just(2**70)),
    limit=st.integers(-3, 3),
)
async def test_filters_find_nothing_and_harm_nothing(
    name: str, status: Any, metadata: dict[str, Any], after: int, limit: int
) -> None:
    """A filter, a prefix or an id of odd text gives what is there, nothing, or a typed error."""
    store = _sqlite()
    try:
        with only_typed():
            page = await store.list_runs(RunFilter(status, name, name, name, metadata), limit=limit)
            assert page.runs == []
        with only_typed():
            assert await store.get_history("nobody", after, limit) == []
        with only_typed():
            assert await store.list_documents("memory", name, after=name, limit=limit) == []
        with only_typed():
            await store.load_run(name)
        with only_typed():
            await store.delete_run(name)
    finally:
        await store.aclose()


def _sqlite() -> SqlAdapter:
    return SqlAdapter.from_url(f"sqlite:///{tempfile.mkdtemp()}/t.db")
