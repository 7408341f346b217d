"""What run ids and labels promise."""

import pytest

from thoughtgear import ids
from thoughtgear.errors import InvalidInputError

BAD_RUN_IDS = ["", "-a", "_a", ".a", "a..b", "a.", "a b", "a/b", "a\\b", "a\n", "é", "a" * 129] + [
    "CON",
    "con",
    "nul.txt",
    "Com1",
    "LPT9.log",
    "aux.tar.gz",
]


@pytest.mark.parametrize("text", BAD_RUN_IDS)
def test_unsafe_run_id(text):
    """An id that is unsafe as a file name or in a URL is refused, with the rule in the message."""
    with pytest.raises(InvalidInputError, match="A run id is 1 to 128"):
        ids.check_run_id(text)


@pytest.mark.parametrize("text", ["a", "7", "A-b_c.d", "console", "com10", "nulx", "x.con", "a" * 128])
def test_safe_run_id(text):
    """An id within the rule is returned as it is."""
    assert ids.check_run_id(text) == text


def test_new_ids_sort_by_time(monkeypatch):
    """Ids made in later milliseconds sort later, are different, short, lower case and valid."""
    clock = iter(range(1_790_000_000_000_000_000, 1_790_000_000_100_000_000, 1_000_000))
    monkeypatch.setattr(ids.time, "time_ns", lambda: next(clock))
    made = [ids.new_run_id() for _ in range(100)]
    assert made == sorted(set(made))
    assert all(ids.check_run_id(one) == one.lower() and len(one) == 32 for one in made)


def test_new_ids_of_one_moment_differ(monkeypatch):
    """A thousand ids of the same millisecond are all different."""
    monkeypatch.setattr(ids.time, "time_ns", lambda: 1_790_000_000_000_000_000)
    assert len({ids.new_run_id() for _ in range(1000)}) == 1000


def test_request_ids_give_stable_run_ids():
    """The id of a request never changes between versions and processes: stores hold it."""
    assert ids.run_id_for("default", "ann", "r-1") == "855dcd599de2feffbaa282a2983cec02cdb1c31e"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "b", "c"), ("ab", "", "c")),
        (("a", None, "c"), ("a", "", "c")),
        (("a", None, "c"), ("a", "null", "c")),
        (("a", "b:c", "d"), ("a", "b", "c:d")),
        (('a","b', "c", "d"), ("a", "b", '","c","d')),
    ],
)
def test_parts_are_joined_unambiguously(one, other):
    """Different handlers, users and requests never share an id by the way their texts are joined."""
    assert ids.run_id_for(*one) != ids.run_id_for(*other)


@pytest.mark.parametrize("text", ["ann", "a/b:c d", "山田 太郎", "👩‍💻", "x" * 200, "می\u200cروم"])
def test_labels_are_any_text(text):
    """A label in any language is returned as it is."""
    assert ids.check_label(text, "session_id") == text


@pytest.mark.parametrize(
    "text", ["", "  ", "a\nb", "a\x00", "a\x1b[31m", "\u2028x", "\ud800", "x" * 201, "山" * 171]
)
def test_bad_labels(text):
    """A label that is empty, too long or holds control characters is refused by name."""
    with pytest.raises(InvalidInputError, match="session_id must"):
        ids.check_label(text, "session_id")
