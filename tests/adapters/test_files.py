"""The files store: the conformance suite, and what is its own."""

import asyncio
import os
import shutil
import stat
import time
from pathlib import Path

import pytest

from thoughtgear.adapters import disk
from thoughtgear.adapters.disk import Disk
from thoughtgear.adapters.files import FilesAdapter
from thoughtgear.adapters.files_documents import Documents
from thoughtgear.adapters.files_run import BLOCK
from thoughtgear.adapters.records import TOMBSTONE_SECONDS
from thoughtgear.errors import ConfigurationError, ConflictError, SchemaVersionError, StoreError
from thoughtgear.protocols import OrmAdapter
from thoughtgear.registry import open_store
from thoughtgear.testing import (
    SharedAdapterConformance,
    SharedAdapterEndurance,
    StoreCase,
    append,
    new_run,
)
from thoughtgear.testing.case import texts_of
from thoughtgear.testing.processes import kill_writers


class OnFiles(StoreCase):
    @classmethod
    async def open_store(cls, place: Path) -> OrmAdapter:
        return FilesAdapter.from_url(f"files://{place}/store")


class TestFiles(OnFiles, SharedAdapterConformance):
    """Every clause."""


@pytest.mark.long
class TestFilesEndurance(OnFiles, SharedAdapterEndurance):
    """Large numbers."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
async def store(root: Path):
    opened = FilesAdapter(root)
    yield opened
    await opened.aclose()


@pytest.mark.parametrize(
    "settings",
    ["files:x", "files://x/y", "files://", {"type": "files"}, {"type": "files", "path": "/x", "mode": "y"}],
)
async def test_a_wrong_setting_says_what_is_right(settings: str | dict[str, str]) -> None:
    """A URL without an absolute folder is a ConfigurationError that shows a right one."""
    with pytest.raises(ConfigurationError, match=r"files:///|it has path"):
        open_store(settings)


async def test_a_file_is_no_root(root: Path, store: FilesAdapter) -> None:
    """A root that is a file is a ConfigurationError."""
    root.write_text("x")
    with pytest.raises(ConfigurationError):
        await store.load_run("r")


async def test_a_newer_layout_is_refused(root: Path, store: FilesAdapter) -> None:
    """A folder that another version laid out raises SchemaVersionError."""
    root.mkdir()
    (root / "layout").write_text("2\n")
    with pytest.raises(SchemaVersionError, match=r"layout 2, .*: upgrade the package"):
        await store.load_run("r")


async def test_everything_is_private_and_below_the_root(
    root: Path, store: FilesAdapter, tmp_path: Path
) -> None:
    """Folders have mode 0700 and files 0600, under any umask, and no id leads out of the root."""
    before = os.umask(0)
    try:
        state = new_run("r")
        for number in range(BLOCK + 1):
            state = await append(store, state, f"{number}")
        await append(store, new_run("../../out"), "a")
        await store.put_document("files", "../../out/x", b"x", tag=None)
        await store.delete_run("r")
    finally:
        os.umask(before)
    paths = [root, *root.rglob("*")]
    assert len(paths) > 15
    for path in paths:
        expected = 0o700 if path.is_dir() else 0o600
        assert (path, stat.S_IMODE(path.lstat().st_mode)) == (path, expected)
    assert list(tmp_path.iterdir()) == [root]


async def test_the_folders_above_a_root_are_private_when_made(tmp_path: Path) -> None:
    """What is made above the root has mode 0700, under any umask; what was there keeps its own."""
    tmp_path.chmod(0o755)
    before = os.umask(0)
    try:
        opened = FilesAdapter(tmp_path / "a/b/store")
        await append(opened, new_run("r"), "a")
        await opened.aclose()
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in (".", "a", "a/b", "a/b/store")]
    assert modes == [0o755, 0o700, 0o700, 0o700]


@pytest.mark.parametrize("planted", ["runs/r", "runs/r/c000000000001", "runs/r/pages", "runs", "tombstones"])
async def test_no_symlink_is_followed(root: Path, store: FilesAdapter, tmp_path: Path, planted: str) -> None:
    """A link in the place of a folder or a file is a StoreError, for readers and for writers."""
    state = await append(store, new_run("r"), "a")
    aside = tmp_path / "aside"
    path = root / planted
    if path.exists():
        path.rename(aside)
    else:
        aside.mkdir()
    path.symlink_to(aside)
    for attempt in (store.load_run("r"), append(store, state, "b")):
        with pytest.raises(StoreError, match="symlink"):
            await attempt
    assert not (aside / "c000000000002").exists()


async def test_a_list_of_documents_follows_no_symlink(
    root: Path, store: FilesAdapter, tmp_path: Path
) -> None:
    """A link in the place of a run's folder of documents is a StoreError to whoever lists that folder, and
    is left out of a wider list: nothing outside of the root is read."""
    for key in ("r1/a", "r1/" + "n" * 200, "r2/b"):
        await store.put_document("files", key, b"x", tag=None)
    aside = tmp_path / "aside"
    (root / "documents/files/r1").rename(aside)
    (root / "documents/files/r1").symlink_to(aside)
    with pytest.raises(StoreError, match="symlink"):
        await store.list_documents("files", "r1/")
    assert await store.list_documents("files") == ["r2/b"]


async def test_a_url_is_decoded(tmp_path: Path) -> None:
    """`%20` in the URL is a space in the folder's name, and `%25` a percent sign, as in SQLite's URLs."""
    opened = open_store(f"files://{tmp_path}/sp%20ace%25")
    await append(opened, new_run("r"), "a")
    await opened.aclose()
    assert [path.name for path in tmp_path.iterdir()] == ["sp ace%"]


async def test_what_a_crash_left_is_ignored_and_swept(root: Path, store: FilesAdapter) -> None:
    """Torn temporary files are not seen; the next opening removes those of an hour ago, and the trash."""
    state = await append(store, new_run("r"), "a")
    old, young, trash = root / "tmp/old", root / "tmp/young", root / "trash/run"
    for path in (old, young):
        path.write_bytes(b'{"version": 2, "id"')
    os.utime(old, (time.time() - 7200,) * 2)
    trash.mkdir()
    (trash / "c000000000001").write_text("x")
    again = FilesAdapter(root)
    assert await again.load_run("r") == state
    assert (old.exists(), young.exists(), trash.exists()) == (False, True, False)
    await again.aclose()


async def test_a_long_run_is_few_files(
    root: Path, store: FilesAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits are folded: the files, and what a load and a read of the transcript open, grow by pages."""
    state = new_run("r")
    for number in range(10 * BLOCK + 1):
        state = await append(store, state, f"{number}")
    run = root / "runs/r"
    assert len(list((run / "pages").iterdir())) == 10
    assert len(list(run.glob("c*"))) == 1
    opened: list[Path] = []
    real = Disk.open
    monkeypatch.setattr(Disk, "open", lambda disk, path: opened.append(path) or real(disk, path))
    await store.load_run("r")
    assert len(opened) == 1
    opened.clear()
    assert len(await store.get_history("r")) == 10 * BLOCK + 1
    assert len(opened) < 5 * 10
    opened.clear()
    assert len(await store.get_history("r", after=10 * BLOCK - 3)) == 3
    assert len(opened) < 30


@pytest.mark.parametrize("others", [1, BLOCK + 1, 2 * BLOCK + 3])
async def test_a_late_link_has_lost(root: Path, store: FilesAdapter, others: int) -> None:
    """A writer that links its commit after others made that version, and folded it, gets a conflict."""
    state = await append(store, new_run("r"), "first")
    late = FilesAdapter(root)
    real = late._disk.create

    def create(path: Path, chunks: list[bytes]) -> bool:
        if path.name == "c000000000002":
            _append_many(root, others)
        return real(path, chunks)

    late._disk.create = create
    with pytest.raises(ConflictError):
        await append(late, state, "late")
    await _assert_whole(store, ["first", *(f"{number}" for number in range(others))])
    await _assert_goes_on(store, BLOCK + 2)
    await late.aclose()


@pytest.mark.parametrize("others", [1, BLOCK + 1, 2 * BLOCK + 3])
async def test_a_winner_that_slept_has_won(root: Path, store: FilesAdapter, others: int) -> None:
    """A writer whose commit was built upon, and folded, before it looked again is told that it won."""
    state = await append(store, new_run("r"), "first")
    slow = FilesAdapter(root)
    real = slow._disk.create

    def create(path: Path, chunks: list[bytes]) -> bool:
        won = real(path, chunks)
        if path.name == "c000000000002":
            _append_many(root, others)
        return won

    slow._disk.create = create
    await append(slow, state, "slow")
    await _assert_whole(store, ["first", "slow", *(f"{number}" for number in range(others))])
    await slow.aclose()


@pytest.mark.parametrize("others", [BLOCK + 1, 2 * BLOCK + 3])
async def test_a_reader_outlives_a_fold(root: Path, store: FilesAdapter, others: int) -> None:
    """A reader whose commit files are folded between two looks reads the pages instead."""
    state = new_run("r")
    for number in range(3):
        state = await append(store, state, f"old {number}")
    real, fired = store._disk.open, []

    def open_late(path: Path):
        if path.name == "c000000000002" and not fired:
            fired.append(path)
            _append_many(root, others)
        return real(path)

    store._disk.open = open_late
    texts = await texts_of(store, "r")
    assert fired
    assert texts[:3] == ["old 0", "old 1", "old 2"]
    await _assert_whole(store, ["old 0", "old 1", "old 2", *(f"{number}" for number in range(others))])


async def test_a_late_link_is_never_read(root: Path, store: FilesAdapter) -> None:
    """A reader that finds a late commit file under the name that it looked for reads on instead."""
    await append(store, await append(store, new_run("r"), "old 0"), "old 1")
    newest, real, fired = root / "runs/r/c000000000002", store._disk.open, []

    def open_late(path: Path):
        if path == newest and not fired:
            fired.append(path)
            late = newest.read_text().replace("old 1", "late").replace("pending", "failed")
            _append_many(root, BLOCK + 1)
            newest.write_text(late)
        return real(path)

    store._disk.open = open_late
    state = await store.load_run("r")
    assert fired
    assert (state.version, state.status) == (BLOCK + 3, "pending")
    await _assert_whole(store, ["old 0", "old 1", *(f"{number}" for number in range(BLOCK + 1))])


async def test_a_creator_that_slept_through_a_deletion_has_lost(root: Path, store: FilesAdapter) -> None:
    """A creation whose link comes after the run was created and deleted by others is a conflict."""
    other, real = FilesAdapter(root), store._disk.create

    def create(path: Path, chunks: list[bytes]) -> bool:
        if path.name == "c000000000001":
            asyncio.run(_create_and_delete(other))
            path.parent.mkdir()
        return real(path, chunks)

    store._disk.create = create
    with pytest.raises(ConflictError):
        await append(store, new_run("r"), "late")
    assert await store.get_history("r") == []
    assert (await store.list_runs()).runs == []
    await other.aclose()


async def _create_and_delete(store: OrmAdapter) -> None:
    await append(store, new_run("r"), "a")
    await store.delete_run("r")


class Died(BaseException):
    """The process ends here."""


class Steps:
    """Lets the process die before the n-th step that changes the disk; the dead take no further step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
        self.left = left
        for name in ("link", "unlink", "rename", "mkdir", "fsync", "rmdir"):
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, real):
        def step(*args, **kwargs):
            self.left -= 1
            if self.left < 0:
                raise Died
            return real(*args, **kwargs)

        return step


async def test_a_crash_at_any_step_of_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a writer dies, in a creation, a commit or a fold, its commit is whole or absent, and the
    next writer goes on."""
    for versions in (0, 1, BLOCK):
        # Beyond the page a fold only removes what is folded, one file like the other.
        for left in [*range(12), *range(12, 200, 20)]:
            place = tmp_path / f"{versions}-{left}"
            store, state = FilesAdapter(place), new_run("r")
            await store.list_runs()
            for number in range(versions):
                _fast_append(place, number)
            state = await store.load_run("r") if versions else state
            with monkeypatch.context() as patch:
                Steps(patch, left)
                try:
                    await append(store, state, f"{versions}")
                    died = False
                except Died:
                    died = True
            await store.aclose()
            await _assert_survived(place, versions, acknowledged=not died)
            if not died:
                break
        assert not died
        assert left >= {0: 6, 1: 4, BLOCK: 4 + BLOCK}[versions]


async def _assert_survived(place: Path, versions: int, *, acknowledged: bool) -> None:
    again = FilesAdapter(place)
    texts = await texts_of(again, "r")
    assert texts in ([f"{number}" for number in range(count)] for count in (versions, versions + 1))
    assert len(texts) == versions + 1 or not acknowledged
    if texts:
        await _assert_goes_on(again, 18)
        assert len(list((place / "runs/r").glob("c*"))) <= versions % BLOCK + 19
    else:
        await append(again, new_run("r"), "0")
    await again.aclose()


async def test_a_crash_at_any_step_of_a_deletion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a deleter dies, the run is there whole or gone for good, and deleting again completes it."""
    for left in range(200):
        place = tmp_path / f"{left}"
        store = FilesAdapter(place)
        state = await append(store, new_run("r"), "0")
        await store.put_document("files", "r/x", b"x", tag=None)
        with monkeypatch.context() as patch:
            Steps(patch, left)
            try:
                await store.delete_run("r")
                died = False
            except Died:
                died = True
        await store.aclose()
        again = FilesAdapter(place)
        if await texts_of(again, "r") == []:
            with pytest.raises(ConflictError):
                await append(again, state, "late")
        await again.delete_run("r")
        with pytest.raises(ConflictError):
            await append(again, new_run("r"), "late")
        assert await again.list_documents("files") == []
        assert not (place / "runs/r").exists()
        await again.aclose()
        if not died:
            break
    assert left > 5


async def test_a_look_leaves_the_folder_as_it_is(root: Path, store: FilesAdapter) -> None:
    """A store that may not be made is read without making a folder or removing a file, before its
    first write: that does both."""
    state = await append(store, new_run("r"), "a")
    await store.put_document("files", "r/x", b"x", tag=None)
    await store.aclose()
    (root / "trash/run").mkdir()
    for name in ("locks", "memory"):
        shutil.rmtree(root / name, ignore_errors=True)
    before = {path: path.lstat().st_mtime_ns for path in (root, *root.rglob("*"))}
    looks = FilesAdapter(root, create=False)
    assert await looks.load_run("r") == state
    assert len(await looks.get_history("r")) == len((await looks.list_runs()).runs) == 1
    assert await looks.list_documents("files") == ["r/x"]
    assert await looks.get_document("files", "r/x") is not None
    assert {path: path.lstat().st_mtime_ns for path in (root, *root.rglob("*"))} == before
    await append(looks, state, "b")
    assert ((root / "trash/run").exists(), (root / "locks").exists()) == (False, True)
    await looks.aclose()


@pytest.mark.parametrize("younger", [False, True])
async def test_opening_sweeps_what_a_deletion_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, younger: bool
) -> None:
    """A day after a deletion that died before the files of its run were gone the next opening removes them;
    where one was written since, all stay until the run is deleted again."""
    store = FilesAdapter(tmp_path)
    await append(store, new_run("r"), "0")
    await store.put_document("files", "r/x", b"x", tag=None)

    def die(*_: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Documents, "remove_below", die)
        with pytest.raises(Died):
            await store.delete_run("r")
    await store.aclose()
    days_ago = time.time() - 2 * TOMBSTONE_SECONDS
    tombstone, (left,) = tmp_path / "tombstones/r", (tmp_path / "documents/files/r").iterdir()
    tombstone.write_text(f"{int(days_ago) + TOMBSTONE_SECONDS}\n")
    if not younger:
        os.utime(left, (days_ago, days_ago))
    again = FilesAdapter(tmp_path)
    assert await again.list_documents("files") == (["r/x"] if younger else [])
    assert (left.parent.exists(), tombstone.exists()) == (younger, younger)
    await again.delete_run("r")
    assert await again.list_documents("files") == []
    await again.aclose()


async def test_kills_leave_a_readable_run(tmp_path: Path) -> None:
    """Writers killed by SIGKILL at twenty random moments, also within a fold, lose nothing they reported."""
    assert await kill_writers(TestFiles, tmp_path, 20) > BLOCK


def _append_many(root: Path, count: int) -> None:
    async def main() -> None:
        store = FilesAdapter(root)
        state = await store.load_run("r")
        for number in range(count):
            state = await append(store, state, f"{number}")
        await store.aclose()

    asyncio.run(main())


def _fast_append(place: Path, number: int) -> None:
    """A commit as the store writes it, without its fsyncs: the start of many cases."""
    state = new_run("r", version=number + 1, message_count=number + 1)
    folder = place / "runs/r"
    folder.mkdir(parents=True, exist_ok=True)
    header = f'{{"id": "{number}", "version": {number + 1}, "first": {number}, "count": {number + 1}}}'
    said = f'{{"seq": {number}, "role": "user", "text": "{number}"}}'
    (folder / f"c{number + 1:012d}").write_text(f"{header}\n{state.model_dump_json()}\n{said}\n")


async def _assert_whole(store: OrmAdapter, texts: list[str]) -> None:
    assert await texts_of(store, "r") == texts
    assert (await store.load_run("r")).message_count == len(texts)


async def _assert_goes_on(store: OrmAdapter, commits: int) -> None:
    texts, state = await texts_of(store, "r"), await store.load_run("r")
    for number in range(commits):
        state = await append(store, state, f"on {number}")
    await _assert_whole(store, [*texts, *(f"on {number}" for number in range(commits))])


async def test_a_new_root_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders that hold a new root, and the parents made for it, are synced once it stands in them."""
    synced: list[Path] = []
    sync = disk.sync_folder
    monkeypatch.setattr(disk, "sync_folder", lambda path: (synced.append(path), sync(path)))
    store = FilesAdapter(tmp_path / "new" / "store")
    await store.list_runs()
    await store.aclose()
    assert {tmp_path, tmp_path / "new"} <= set(synced)
