"""The S3 store when answers are lost, late or odd, and when the server is killed, away, or not good."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from killed_server import LONG_LOAD, go_on, outlive_kills
from s3_server import S3Server
from s3_wire import Died, Wire
from server_process import running_again

from thoughtgear.adapters.s3 import S3Adapter
from thoughtgear.adapters.s3_documents import key_text
from thoughtgear.errors import ConfigurationError, ConflictError, RunNotFoundError, StoreUnavailableError
from thoughtgear.testing import append, new_run
from thoughtgear.testing.case import assert_absent, assert_standing, texts_of


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore tries again at once."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


@pytest.fixture
async def store(s3: S3Server, tmp_path: Path) -> AsyncIterator[S3Adapter]:
    opened = S3Adapter.from_url(s3.url(tmp_path))
    yield opened
    await opened.aclose()


@pytest.fixture
async def other(s3: S3Server, tmp_path: Path) -> AsyncIterator[S3Adapter]:
    """The same store in another process, as it were."""
    opened = S3Adapter.from_url(s3.url(tmp_path))
    yield opened
    await opened.aclose()


@pytest.fixture
def wire(store: S3Adapter) -> Wire:
    return Wire(store)


async def test_lost_acknowledgements_double_nothing(store: S3Adapter, wire: Wire) -> None:
    """Of writes with 30 % of their answers lost none is made twice, and none is reported as a conflict."""
    chance, lost = random.Random(7), []

    def step(operation: str, key: str) -> None:
        first_page = "/p0" in key and not any("/p0" in each for each in lost)
        if operation == "PutObject" and (first_page or chance.random() < 0.3):
            lost.append(key)
            wire.lose()

    state = await append(store, new_run("r"), "1")
    wire.step = step
    acknowledged: list[int] = []
    await go_on(store, state, acknowledged, lambda: len(acknowledged) >= 120)
    wire.step = None
    assert lost.count("runs/r/head") > 30
    assert any("/p0" in key for key in lost)
    version = (await store.load_run("r")).version
    assert acknowledged == sorted(set(acknowledged))
    assert await texts_of(store, "r") == [f"{number}" for number in range(1, version + 1)]


async def test_lost_acknowledgements_of_documents(store: S3Adapter, wire: Wire) -> None:
    """A creation, a replacement and a deletion whose answers are lost are done once and say so."""
    losing = 0

    def step(operation: str, key: str) -> None:
        nonlocal losing
        if operation == "PutObject" and key.startswith("documents/") and losing:
            losing -= 1
            wire.lose()

    wire.step = step
    losing = 1
    tag = await store.put_document("memory", "k", b"1", tag=None)
    assert losing == 0
    losing = 2
    newer = await store.put_document("memory", "k", b"2", tag=tag)
    assert newer not in (None, tag)
    losing = 1
    assert await store.put_document("memory", "k", None, tag=newer) is None
    losing = 1
    again = await store.put_document("memory", "k", b"3", tag=None)
    found = await store.get_document("memory", "k")
    assert found is not None
    assert (found.value, found.tag, losing) == (b"3", again, 0)


@pytest.mark.parametrize("after", ["commits", "deletion"])
async def test_a_commit_that_was_built_upon_is_known_again(
    store: S3Adapter, other: S3Adapter, wire: Wire, after: str
) -> None:
    """A commit whose answer was lost is acknowledged, though others wrote before it was sent again."""
    state = await append(store, new_run("r"), "a")
    fired = []

    async def others() -> None:
        if after == "deletion":
            return await other.delete_run("r")
        newest = await other.load_run("r")
        for number in range(5):
            newest = await append(other, newest, f"on {number}")
        return None

    def step(operation: str, key: str) -> None:
        if key == "runs/r/head" and operation == "PutObject" and not fired:
            fired.append(wire.send().status_code)
            asyncio.run(others())
            wire.cut()

    wire.step = step
    assert (await append(store, state, "b")).version == 2
    assert fired == [200]
    if after == "commits":
        assert await texts_of(store, "r") == ["a", "b", *(f"on {number}" for number in range(5))]
    else:
        await assert_absent(store, "r")


async def test_a_document_that_was_written_upon_is_known_again(
    store: S3Adapter, other: S3Adapter, wire: Wire
) -> None:
    """A write whose answer was lost, and upon which another one was made or deleted, is acknowledged once."""
    for final in (b"theirs", None):
        fired = []

        async def others(value: bytes | None = final) -> None:
            found = await other.get_document("cache", "k")
            assert found is not None
            await other.put_document("cache", "k", value, tag=found.tag)

        def step(operation: str, key: str, others=others, fired=fired) -> None:
            if operation == "PutObject" and not fired:
                fired.append(wire.send().status_code)
                asyncio.run(others())
                wire.cut()

        wire.step = step
        current = await other.get_document("cache", "k")
        await store.put_document("cache", "k", b"mine", tag=current.tag if current else None)
        assert fired == [200]
        found = await store.get_document("cache", "k")
        assert (found.value if found else None) == final


@pytest.mark.parametrize("size", [0, 1, 200])
async def test_a_request_that_is_cut_off_writes_nothing(
    store: S3Adapter, other: S3Adapter, wire: Wire, size: int
) -> None:
    """A writer that dies within a request has written nothing: the object is whole or as it was."""
    state = await append(store, new_run("r"), "a")
    tag = await store.put_document("memory", "k", b"v" * 300, tag=None)

    def step(operation: str, key: str) -> None:
        if operation == "PutObject" and key.endswith(("/head", key_text("k"), key_text("new"))):
            wire.send_part(size)

    wire.step = step
    for write in (
        append(store, state, "b"),
        append(store, new_run("new"), "b"),
        store.put_document("memory", "k", b"w" * 300, tag=tag),
        store.put_document("memory", "new", b"w" * 300, tag=None),
    ):
        with pytest.raises(Died):
            await write
    wire.step = None
    await assert_standing(other, state, "a")
    await assert_absent(other, "new")
    found = await other.get_document("memory", "k")
    assert found is not None
    assert (found.value, await other.list_documents("memory")) == (b"v" * 300, ["k"])


async def test_a_server_that_wants_it_again_gets_it_again(store: S3Adapter, wire: Wire) -> None:
    """409 is no answer: the write is sent again; a server that never says more is retryable."""
    state = await append(store, new_run("r"), "a")
    left = 3

    def step(operation: str, key: str) -> object:
        nonlocal left
        left -= operation == "PutObject"
        return (
            wire.answer(409, "ConditionalRequestConflict") if left >= 0 and operation == "PutObject" else None
        )

    wire.step = step
    state = await append(store, state, "b")
    left = 10_000
    with pytest.raises(StoreUnavailableError, match="409"):
        await append(store, state, "c")
    wire.step = None
    await assert_standing(store, state, "a", "b")


async def test_absence_is_a_conflict_by_404_too(store: S3Adapter, wire: Wire) -> None:
    """Servers differ in how they refuse If-Match on what is not there; both are a ConflictError."""
    tag = await store.put_document("cache", "k", b"1", tag=None)
    assert tag is not None
    for status, code in ((404, "NoSuchKey"), (412, "PreconditionFailed")):
        wire.step = lambda operation, _, status=status, code=code: (
            wire.answer(status, code) if operation == "PutObject" else None
        )
        with pytest.raises(ConflictError):
            await store.put_document("cache", "absent", b"2", tag=tag)


async def test_a_cancelled_commit_is_awaited(store: S3Adapter, wire: Wire) -> None:
    """A caller that is cancelled while its write is on the wire comes back after the write is over."""
    state = await append(store, new_run("r"), "a")
    begun, go = threading.Event(), threading.Event()

    def step(operation: str, _: str) -> None:
        if operation == "PutObject":
            begun.set()
            assert go.wait(10)

    wire.step = step
    writing = asyncio.create_task(append(store, state, "b"))
    await asyncio.to_thread(begun.wait, 10)
    for _ in range(3):
        writing.cancel()
        await asyncio.sleep(0.01)
    assert not writing.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    wire.step = None
    assert await texts_of(store, "r") == ["a", "b"]
    await append(store, await store.load_run("r"), "c")


@pytest.fixture
def stoppable(s3: S3Server) -> Iterator[S3Server]:
    """The server, which is running again after the test."""
    with running_again(s3):
        yield s3


@pytest.mark.parametrize("load", [{}, pytest.param(LONG_LOAD, marks=pytest.mark.long)], ids=["short", "long"])
async def test_a_killed_server_keeps_what_it_acknowledged(
    stoppable: S3Server, tmp_path: Path, load: dict[str, int]
) -> None:
    """Writers outlive kill -9 of the server: all that was acknowledged is there, once and in order."""
    store = S3Adapter.from_url(stoppable.url(tmp_path, read_timeout=2))
    await outlive_kills(stoppable, store, **load)
    await store.aclose()


async def test_a_server_that_is_away_is_retryable(stoppable: S3Server, store: S3Adapter) -> None:
    """While no server answers, calls raise StoreUnavailableError with its address; then they work again."""
    state = await append(store, new_run("r"), "a")
    await asyncio.to_thread(stoppable.kill)
    for call in (store.load_run("r"), append(store, state, "b"), store.delete_run("r"), store.list_runs()):
        with pytest.raises(StoreUnavailableError, match=stoppable.endpoint) as caught:
            await call
        assert caught.value.retryable
    await asyncio.to_thread(stoppable.start)
    assert await store.load_run("r") == state
    assert (await append(store, state, "b")).version == 2


class LaxHandler(BaseHTTPRequestHandler):
    """A server of one bucket that honours only some conditions. `refuses_all`: no If-Match ever holds.
    `tags`: a fresh ETag with every write, as under encryption by a key service."""

    protocol_version = "HTTP/1.1"
    honours: tuple[str, ...] = ()
    status = 200
    refuses_all = False
    tags: Iterator[int] | None = None

    def do_GET(self) -> None:
        found, etag = self.server.objects.get(self.path, (None, ""))  # type: ignore[attr-defined]  # the test's
        missing = b"<Error><Code>NoSuchKey</Code></Error>"
        self._answer(200 if found is not None else 404, missing if found is None else found, etag)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        objects = self.server.objects  # type: ignore[attr-defined]  # set by the test
        wanted = self.headers.get("If-Match")
        there, etag = objects.get(self.path, (None, ""))
        fails = there is not None if wanted is None else self.refuses_all or wanted != etag
        if fails and ("If-None-Match" if wanted is None else "If-Match") in self.honours:
            return self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        if (fails or wanted) and self.status != 200:
            return self._answer(self.status, b"<Error><Code>NotImplemented</Code></Error>")
        etag = f'"{next(self.tags)}"' if self.tags else '"e"'
        objects[self.path] = body, etag
        return self._answer(200, b"", etag)

    def _answer(self, status: int, body: bytes, etag: str = "") -> None:
        self.send_response(status)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def lax_server(**options: object) -> Iterator[tuple[str, dict[str, object]]]:
    """Such a server: the URL of a store on it, and what it keeps."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (LaxHandler,), options))
    server.objects = {}  # type: ignore[attr-defined]  # the handler's
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    yield f"s3://a:b@bucket/x?endpoint={endpoint}&region=us-east-1", server.objects  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


BOTH = ("If-None-Match", "If-Match")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"honours": ()}, r"honour If-None-Match in PutObject \(it wrote over an object"),
        ({"honours": BOTH[:1]}, r"honour If-Match in PutObject \(it wrote over an object"),
        (
            {"honours": (), "status": 501},
            r"honour If-None-Match in PutObject \(it answered Not\w+, 501",
        ),
        (
            {"honours": BOTH[:1], "status": 400},
            r"honour If-Match in PutObject \(it answered Not\w+, 400",
        ),
        (
            {"honours": BOTH, "refuses_all": True},
            r"refuses If-Match in PutObject .*own ETag \(it says",
        ),
        (
            {"honours": BOTH, "status": 501},
            r"refuses If-Match in PutObject .* \(it answered Not\w+, 501",
        ),
    ],
)
async def test_a_server_without_conditions_is_refused(options: dict[str, object], said: str) -> None:
    """A server that ignores a condition, does not know it, or never lets one hold is a ConfigurationError
    that names the condition and what the server did, at the first use and at every later one."""
    with lax_server(**options) as (url, objects):
        store = S3Adapter.from_url(url)
        for call in (store.load_run("r"), append(store, new_run("r"), "a")):
            with pytest.raises(ConfigurationError, match=said) as caught:
                await call
            assert str(caught.value).endswith("Use a server with conditional writes, as S3's own.")
        assert list(objects) == ["/bucket/x/layout"]
        await store.aclose()


async def test_stores_that_open_at_once_are_not_refused() -> None:
    """Where every write has a fresh ETag, as under a key service's encryption, processes that probe at the
    same time do not take each other's writes for a server's refusal."""
    with lax_server(honours=BOTH, tags=itertools.count()) as (url, _):
        stores = [S3Adapter.from_url(url) for _ in range(8)]
        loads = [store.load_run("r") for store in stores]
        ended = await asyncio.gather(*loads, return_exceptions=True)
        assert {type(each) for each in ended} == {RunNotFoundError}
        for store in stores:
            await store.aclose()
