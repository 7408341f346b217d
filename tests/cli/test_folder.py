"""What the demonstration reads of a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from thoughtgear.demo.folder import READ_BYTES, Folder, read_text


def test_only_visible_files_of_the_folder_itself_are_found(tmp_path: Path):
    """Hidden files, installed packages and links to elsewhere are left out; the rest is in order."""
    inside = tmp_path / "inside"
    for name in ("b.txt", "a/c.txt", ".hidden", ".git/config", "node_modules/x.js"):
        (inside / name).parent.mkdir(parents=True, exist_ok=True)
        (inside / name).write_text("text")
    (tmp_path / "secret").write_text("secret")
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "loop").symlink_to(inside)
    assert [file.name for file in Folder(inside).files] == ["b.txt", "a/c.txt"]


@pytest.mark.parametrize(
    "name", [b"line\nbreak.txt", b"bad\xffbytes.txt", b"\x1b[31mred.txt", "snö ☃.txt".encode()]
)
def test_odd_names_are_printable_and_found_again(tmp_path: Path, name: bytes):
    """A name with control characters or without an encoding is shown escaped, and leads to its file."""
    (tmp_path / os.fsdecode(name)).write_text("some words here")
    folder = Folder(tmp_path)
    shown = folder.files[0].name
    assert shown.isprintable()
    shown.encode()
    assert read_text(folder.find(shown)) == "some words here"


def test_nothing_outside_of_the_list_is_read(tmp_path: Path):
    """A name that is not in the list is refused, whatever it points to."""
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(LookupError):
        Folder(tmp_path).find("../../etc/passwd")


def test_binary_files_have_no_text_and_large_ones_are_cut(tmp_path: Path):
    """Binary data gives None, a large text its beginning."""
    (tmp_path / "a.bin").write_bytes(bytes(range(256)))
    (tmp_path / "b.txt").write_text("x" * (READ_BYTES + 1))
    binary, large = Folder(tmp_path).files
    assert read_text(binary) is None
    assert len(read_text(large) or "") == READ_BYTES


def test_a_big_folder_is_cut(tmp_path: Path):
    """No more than the cap is listed, and the folder says so."""
    for number in range(5):
        (tmp_path / f"{number}.txt").touch()
    folder = Folder(tmp_path, most=3)
    assert (len(folder.files), folder.cut) == (3, True)
