"""What a warm process keeps in memory is bounded."""

from __future__ import annotations

import pytest

from thoughtgear.models import Message, RunState, ToolCall
from thoughtgear.testing import FaultyStore
from thoughtgear.transcript import MESSAGE_BYTES, ByteCache, Transcripts, size_of


def test_a_cache_is_bounded_by_bytes() -> None:
    """The least recently used entries go first, until the rest fits."""
    cache: ByteCache[str] = ByteCache(most_bytes=100)
    for key in ("a", "b", "c"):
        cache.put(key, key, 30)
    assert cache.get("a") == "a"
    cache.put("d", "d", 40)
    assert [cache.get(key) for key in "abcd"] == ["a", None, "c", "d"]
    assert cache.bytes == 100


def test_a_cache_is_bounded_by_entries() -> None:
    """Entries without any size are bounded, too."""
    cache: ByteCache[int] = ByteCache(most_entries=10)
    for number in range(100):
        cache.put(str(number), number, 0)
    assert len(cache) == 10


def test_a_value_that_grows_counts_once() -> None:
    """Putting a key again replaces its size, and the newest stays however large it is."""
    cache: ByteCache[str] = ByteCache(most_bytes=100)
    cache.put("other", "other", 50)
    cache.put("grows", "grows", 20)
    cache.put("grows", "grows", 40)
    assert (cache.bytes, len(cache)) == (90, 2)
    cache.put("grows", "grows", 1000)
    assert (cache.bytes, len(cache)) == (1000, 1)


@pytest.mark.parametrize("arguments", [{"text": "x" * 100_000}, "x" * 100_000], ids=["object", "text"])
def test_the_arguments_of_calls_count(arguments: dict[str, str] | str) -> None:
    """A reply of large arguments has their size, as an object or as the model's own text."""
    message = Message(seq=0, role="assistant", tool_calls=[ToolCall(id="1.0", name="f", arguments=arguments)])
    assert 100_000 < size_of(message) - MESSAGE_BYTES < 101_000


async def test_transcripts_let_go_of_large_calls(store: FaultyStore) -> None:
    """A transcript that is over the bound for its calls' arguments is read again when it is needed."""
    runs = [RunState(run_id=run_id, version=1, message_count=1) for run_id in ("first", "second")]
    large = ToolCall(id="1.0", name="f", arguments={"text": "x" * 10_000})
    transcripts = Transcripts(store, kept_bytes=15_000)
    for run in runs:
        messages = [Message(seq=0, role="assistant", tool_calls=[large])]
        await store.save_run(run, messages)
        transcripts.appended(run, messages, 0.0)
    await store.delete_run("second")
    await store.delete_run("first")
    assert len(await transcripts.messages(runs[1])) == 1
    with pytest.raises(Exception, match="not all messages"):
        await transcripts.messages(runs[0])
