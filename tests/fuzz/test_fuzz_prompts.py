"""Prompts, files, messages, decisions that nobody should send to a handler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bad_input import LONG_TEXTS, OBJECTS, STRANGE, TEXTS, cases, only_typed
from hypothesis import strategies as st

from thoughtgear import File, Limits, PromptHandler
from thoughtgear.adapters.memory import MemoryAdapter
from thoughtgear.errors import InvalidInputError
from thoughtgear.models import CallRecord, ToolCall
from thoughtgear.outcomes import Done, Void
from thoughtgear.providers.scripted import ScriptedProvider

LIMITS = Limits(prompt_bytes=20_000, file_bytes=1000, files=3, inbox=3)
MARK = "x-my-secret-x"

FILES = st.one_of(
    st.lists(
        st.one_of(
            st.builds(
                File,
                st.one_of(LONG_TEXTS, STRANGE),
                st.one_of(st.binary(max_size=20), STRANGE),
                st.one_of(st.none(), st.sampled_from(("text/plain", "image/png\nX: 1", "a/b; c=d")), STRANGE),
            ),
            TEXTS,
            st.sampled_from(("/dev/zero", "/dev/null", "/", "/proc/self/mem", "/proc/self/environ")),
            TEXTS.map(Path),
            STRANGE,
        ),
        max_size=4,
    ),
    st.none(),
)


def handler(store: MemoryAdapter) -> PromptHandler:
    return PromptHandler(orm=store, model=ScriptedProvider(replies=["Yes."]), limits=LIMITS)


@cases(
    69,
    text=st.one_of(LONG_TEXTS, STRANGE),
    files=FILES,
    labels=st.lists(st.one_of(st.none(), TEXTS, st.just("s"), STRANGE), min_size=3, max_size=3),
    metadata=st.one_of(OBJECTS, STRANGE),
)
async def test_a_prompt_runs_or_leaves_nothing(text: Any, files: Any, labels: Any, metadata: Any) -> None:
    """A prompt is run to its end, or refused by an error that does not quote it; then the store is empty."""
    store = MemoryAdapter()
    agent = handler(store)
    session, user, request = labels
    try:
        with only_typed(MARK):
            ended = await agent.handle_prompt(
                MARK + text if isinstance(text, str) and text.strip() else text,
                files=files,
                session_id=session,
                user_id=user,
                request_id=request,
                metadata=metadata,
            )
            assert (ended.status, ended.output) in (("done", "Yes."), ("failed", None))
            assert ended.message_count == len(await store.get_history(ended.run_id))
            return
        assert (await store.list_runs()).runs == []
        assert await store.list_documents("files") == []
    finally:
        await agent.aclose()


async def waiting(store: MemoryAdapter, agent: PromptHandler) -> str:
    """A run whose call waits for a person."""
    run = await agent.create_run("Pay.")
    row = CallRecord(call=ToolCall(id="1.0", name="pay"), status="waiting", on_unknown="ask_person")
    changed = run.model_copy(update={"version": 2, "status": "waiting", "ledger": [row]})
    await store.save_run(changed, [])
    return run.run_id


@cases(
    30,
    text=st.one_of(LONG_TEXTS, STRANGE),
    request=st.one_of(st.none(), LONG_TEXTS, STRANGE),
    again=TEXTS,
    run_id=st.one_of(TEXTS, st.none()),
)
async def test_a_message_is_in_the_inbox_or_refused(text: Any, request: Any, again: str, run_id: Any) -> None:
    """What is sent to a run is in its inbox as it was, once, or was refused; the run can still be read."""
    store = MemoryAdapter()
    agent = handler(store)
    run = await waiting(store, agent)
    try:
        with only_typed():
            state = await store.load_run(run)
            await _send(agent, store, run, text, request)
            state = await store.load_run(run)
            assert [item.text for item in state.mail] == [text]
        with only_typed():
            await _send(agent, store, run, again, None)
        with only_typed():
            await agent.send(run_id or "nobody", "x")
        assert len((await store.load_run(run)).mail) <= 2
    finally:
        await agent.aclose()


async def _send(agent: PromptHandler, store: MemoryAdapter, run: str, text: Any, request: Any) -> None:
    from thoughtgear import inbox
    from thoughtgear.models import InboxItem
    from thoughtgear.prompts import Prompt

    Prompt(text, request_id=request).check(LIMITS)
    await inbox.put(store, run, InboxItem(request_id=request or "r", text=text), LIMITS)


@cases(
    26,
    call_id=st.one_of(st.just("1.0"), LONG_TEXTS, STRANGE),
    outcome=st.one_of(
        st.none(), st.builds(Done, STRANGE), st.builds(Void, st.one_of(LONG_TEXTS, STRANGE)), STRANGE
    ),
)
async def test_a_decision_is_kept_or_refused(call_id: Any, outcome: Any) -> None:
    """A decision about a call is in the inbox, within the limit of a result, or it is refused."""
    store = MemoryAdapter()
    agent = handler(store)
    run = await waiting(store, agent)
    try:
        decided = False
        with only_typed():
            await agent.settle(run, call_id, outcome, schedule=False)
            decided = True
        state = await store.load_run(run)
        assert len(state.inbox) == decided
        assert all(len(item.text.encode()) <= LIMITS.tool_result_bytes for item in state.inbox)
        assert not decided or call_id == "1.0"
    finally:
        await agent.aclose()


async def test_a_pipe_or_a_device_is_no_file_of_a_prompt() -> None:
    """A file that never ends is refused before it is read."""
    agent = handler(MemoryAdapter())
    with pytest.raises(InvalidInputError, match="no regular file"):
        await agent.create_run("Look.", files=["/dev/zero"])
    await agent.aclose()


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "a\x1b[2Jb"])
async def test_an_odd_path_is_refused_and_not_obeyed(name: str) -> None:
    """A path that no system takes is bad input, and its control characters do not reach a terminal."""
    agent = handler(MemoryAdapter())
    with pytest.raises(InvalidInputError) as caught:
        await agent.create_run("Look.", files=[name])
    assert str(caught.value).isprintable()
    await agent.aclose()


@pytest.mark.parametrize(
    "file",
    [
        File("", b"x"),
        File("a\nb", b"x"),
        File("a" * 300, b"x"),
        File("a.txt", "text"),  # type: ignore[arg-type]
        File("a.txt", b"x", "text/plain\r\nX-Evil: 1"),
        File("a.txt", b"x", "text"),
    ],
)
async def test_a_file_that_can_not_be_named_or_sent_is_refused(file: File) -> None:
    """A name or media type that a store or a provider may stumble over is refused before anything is kept."""
    store = MemoryAdapter()
    agent = handler(store)
    with pytest.raises(InvalidInputError):
        await agent.create_run("Look.", files=[File("good.txt", b"x"), file])
    assert await store.list_documents("files") == []
    await agent.aclose()


async def test_metadata_that_is_no_unicode_leaves_no_file() -> None:
    """A lone surrogate in metadata is found before the prompt's files are stored."""
    store = MemoryAdapter()
    agent = handler(store)
    with pytest.raises(InvalidInputError):
        await agent.create_run("Look.", files=[File("a.txt", b"x")], metadata={"a": "\ud800"})
    assert await store.list_documents("files") == []
    await agent.aclose()
