"""The reader of server-sent events."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thoughtgear.providers.sse import Event, EventReader

BODY = (
    "\ufeffdata: first\r\ndata: line\r\n\r\n: comment\r\nevent: named\rdata:second\rdata: line\u2028 two\r\r"
    "id: 7\nretry: 10\ndata\n\n\n\nevent: nothing\n\ndata:  \U0001f40b\r\n\n"
).encode()
EVENTS = [
    Event("", "first\nline"),
    Event("named", "second\nline\u2028 two"),
    Event("", ""),
    Event("", " \U0001f40b"),
]


def read(*chunks: bytes) -> list[Event]:
    reader = EventReader()
    return [event for chunk in chunks for event in reader.feed(chunk)] + list(reader.finish())


def test_events_are_the_same_for_every_single_cut():
    """No byte is a bad place to cut, the middle of a line end neither."""
    for cut in range(len(BODY)):
        assert read(BODY[:cut], BODY[cut:]) == EVENTS


@given(st.lists(st.integers(0, len(BODY)), max_size=12).map(sorted))
def test_events_are_the_same_wherever_the_stream_is_cut(cuts):
    """All three line ends, comments, names and letters of several bytes survive any cut."""
    assert read(*(BODY[a:b] for a, b in pairwise([0, *cuts, len(BODY)]))) == EVENTS


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_an_event_without_its_blank_line_is_read(end):
    """The end of the stream ends the last event."""
    assert read(b"data: last" + end) == [Event("", "last")]
