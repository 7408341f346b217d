"""A run that failed or was cancelled is retried: it goes on from its last commit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from thoughtgear import control
from thoughtgear.callbacks import Callbacks
from thoughtgear.errors import (
    InvalidInputError,
    ModelRejectedError,
    ModelUnavailableError,
    StoreUnavailableError,
    SupersededError,
)
from thoughtgear.executors.local import LocalExecutor
from thoughtgear.handler import PromptHandler
from thoughtgear.loop import Limits
from thoughtgear.models import Driver, Message, RunState
from thoughtgear.protocols import Attempt, ModelReply, ModelRequest, OnText
from thoughtgear.providers.scripted import ScriptedProvider, call
from thoughtgear.testing import FaultyStore
from thoughtgear.tools import tool


class Model(ScriptedProvider):
    """A scripted model that shows what it was asked."""

    def __init__(self, *replies: Any, **options: Any) -> None:
        super().__init__(replies=list(replies), **options)
        self.requests: list[ModelRequest] = []

    async def reply(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        self.requests.append(request)
        return await super().reply(request, on_text)


class Idle:
    """An executor that drives nothing."""

    name = "idle"

    def __init__(self) -> None:
        self.scheduled: list[str] = []

    async def schedule_next_iteration(self, run_id: str) -> None:
        self.scheduled.append(run_id)


class Key:
    """What a run lacks at first: a reply that is refused as long as it isn't there."""

    def __init__(self, answer: Any = "Done.") -> None:
        self.there = False
        self.answer = answer

    def __call__(self, request: ModelRequest) -> Any:
        if not self.there:
            raise ModelRejectedError("openai: HTTP 401; check the API key")
        return self.answer


def seen(request: ModelRequest) -> list[str]:
    return [m.text or (m.tool_result.content if m.tool_result else "") for m in request.messages]


def results(messages: list[Message]) -> list[tuple[str, str]]:
    return [(m.tool_result.call_id, m.tool_result.status) for m in messages if m.tool_result]


@tool
async def double(number: int) -> int:
    """Double a number."""
    return number * 2


async def test_a_failed_run_goes_on_from_its_last_commit(store: FaultyStore) -> None:
    """A retried run asks for the reply that it failed at and for none before; its transcript only grows."""
    key = Key()
    model = Model([call("double", number=1)], key)
    handler = PromptHandler(model=model, orm=store, tools=[double])
    failed = await handler.handle_prompt("go")
    before = await handler.history(failed.run_id)
    assert (failed.status, failed.error and failed.error.type) == ("failed", "ModelRejectedError")
    key.there = True
    state = await handler.retry(failed.run_id)
    history = await handler.history(failed.run_id)
    assert (state.status, state.output, state.error, state.model_replies) == ("done", "Done.", None, 2)
    assert history[: len(before)] == before
    assert [m.seq for m in history] == list(range(state.message_count))
    assert [len(request.messages) for request in model.requests] == [1, 3, 3]
    assert state.claim.epoch > failed.claim.epoch


async def test_calls_that_were_cut_off_keep_their_results(store: FaultyStore) -> None:
    """A retried run neither buys a saved reply again nor runs its calls: the model reads how they ended."""
    begun, ran = asyncio.Event(), []

    @tool(policy="at_most_once")
    async def pay() -> str:
        """Pay."""
        ran.append("pay")
        begun.set()
        await asyncio.Event().wait()
        return "paid"

    @tool(parallel=False)
    async def mail() -> str:
        """Mail."""
        ran.append("mail")
        return "mailed"

    model = Model([call("pay"), call("mail")], "I see.")
    handler = PromptHandler(model=model, orm=store, tools=[pay, mail])
    run = await handler.handle_prompt("go", wait=False)
    await begun.wait()
    await handler.cancel(run.run_id)
    cancelled = await handler.wait(run.run_id, 20)
    cut_off = results(await handler.history(run.run_id))
    assert (cancelled.status, sorted(cut_off)) == ("cancelled", [("1.0", "unknown"), ("1.1", "cancelled")])
    state = await handler.retry(run.run_id)
    assert (state.status, state.output, state.iteration, ran) == ("done", "I see.", 2, ["pay"])
    assert results(await handler.history(run.run_id)) == cut_off
    assert len(model.requests) == 2
    assert "It is unknown whether this call took effect" in seen(model.requests[1])[-2]


@pytest.mark.parametrize("begun", [False, True])
async def test_a_cancelled_run_can_be_cancelled_again(store: FaultyStore, begun: bool) -> None:
    """A run that was cancelled before it began, or after a tool, goes on, and a new cancel ends it."""
    idle = Idle()
    model = Model([call("double", number=1)], "Done.")
    handler = PromptHandler(model=model, orm=store, tools=[double], executor=idle)
    run = await handler.create_run("go")
    if begun:
        await handler.run_iteration(run.run_id, 1)
    assert (await handler.cancel(run.run_id)).status == "cancelled"
    assert (await handler.retry(run.run_id)).status == "running"
    assert (await handler.cancel(run.run_id)).status == "cancelled"
    await handler.retry(run.run_id)
    for iteration in range(1 + begun, 3):
        result = await handler.run_iteration(run.run_id, iteration)
    assert (result.status, len(model.requests), len(idle.scheduled)) == ("done", 2, 2)


async def test_what_was_sent_before_the_end_is_answered(store: FaultyStore) -> None:
    """A message that was in the inbox when its run failed is read by the retried run."""
    key = Key()
    handler = PromptHandler(model=(model := Model(key)), orm=store, executor=Idle())
    run = await handler.create_run("go")
    await handler.send(run.run_id, "and in French?")
    await handler.close_run(run.run_id, "failed")
    key.there = True
    await handler.retry(run.run_id)
    await handler.run_iteration(run.run_id, 1)
    assert seen(model.requests[0]) == ["go", "and in French?"]


async def test_only_what_is_over_and_not_done_is_retried(store: FaultyStore) -> None:
    """A run that goes on is returned as it is, and scheduled once more; one that is done is an error."""
    idle = Idle()
    handler = PromptHandler(model=Model("Done."), orm=store, executor=idle)
    run = await handler.create_run("go")
    assert await handler.retry(run.run_id) == run
    assert idle.scheduled == [run.run_id]
    await handler.run_iteration(run.run_id, 1)
    done = await handler.get_run(run.run_id)
    with pytest.raises(InvalidInputError, match="is done; there is nothing to retry"):
        await handler.retry(run.run_id)
    assert (await handler.get_run(run.run_id), len(idle.scheduled)) == (done, 1)


async def test_ten_retries_are_one(store: FaultyStore) -> None:
    """A run that is retried ten times at once is reopened once."""
    handler = PromptHandler(model=Model("Done."), orm=store, executor=(idle := Idle()))
    run = await handler.create_run("go")
    failed = await handler.close_run(run.run_id, "failed")
    states = await asyncio.gather(*(handler.retry(run.run_id) for _ in range(10)))
    assert {(state.status, state.version) for state in states} == {("running", failed.version + 1)}
    assert len(idle.scheduled) == 10


@pytest.mark.parametrize("landed", [False, True])
async def test_an_unconfirmed_retry_is_made_once(store: FaultyStore, landed: bool) -> None:
    """A retry whose commit loses its acknowledgement is found where it landed, and made where it did not."""
    key = Key()
    handler = PromptHandler(model=Model(key), orm=store, executor=Idle())
    run = await handler.create_run("go")
    failed = await handler.close_run(run.run_id, "failed")
    store.lose(landed=landed)
    state = await handler.retry(run.run_id)
    assert store.fired == 1
    assert (state.status, state.version) == ("running", failed.version + 1)


async def test_an_attempt_from_before_the_end_is_fenced(store: FaultyStore) -> None:
    """A model call that began before its run was ended and retried can't save its reply."""
    release = asyncio.Event()

    async def slow(request: ModelRequest) -> str:
        await release.wait()
        return "too late"

    model = Model(slow)
    handler = PromptHandler(model=model, orm=store, executor=Idle())
    run = await handler.create_run("go")
    attempt = Attempt(driver="temporal", serialised=True, watch=60)
    zombie = asyncio.create_task(handler.run_iteration(run.run_id, 1, attempt))
    while not model.requests:
        await asyncio.sleep(0.01)
    await handler.close_run(run.run_id, "failed")
    state = await handler.retry(run.run_id)
    release.set()
    with pytest.raises(SupersededError):
        await zombie
    assert await handler.get_run(run.run_id) == state


async def test_who_ended_a_run_ends_it_once(store: FaultyStore) -> None:
    """A closer that learns nothing of its commit, and meets the run retried since, leaves it alone; another
    one ends it."""
    handler = PromptHandler(model=Model("Done."), orm=store, executor=Idle())
    run = await handler.create_run("go")

    async def retry_unseen(state: RunState) -> None:
        store.after_save = None
        await control.reopen_run(handler._agent, run.run_id, Driver(executor="idle"))
        store.fired += 1
        raise StoreUnavailableError("The connection was lost.")

    store.fired, store.after_save = 0, retry_unseen
    state = await handler.close_run(run.run_id, "failed", by="execution-1")
    assert (state.status, store.fired) == ("running", 1)
    assert (await handler.close_run(run.run_id, "failed", by="execution-1")).status == "running"
    assert (await handler.close_run(run.run_id, "failed", by="execution-2")).status == "failed"


@pytest.mark.parametrize(
    ("limits", "raised"), [({"iterations": 1}, {"iterations": 5}), ({"tokens": 10}, {"tokens": 1_000_000})]
)
async def test_a_limit_that_was_reached_has_to_be_raised(
    store: FaultyStore, limits: dict[str, int], raised: dict[str, int]
) -> None:
    """A run that reached its limit fails again at once, for the same reason and without a reply; with a
    higher limit it goes on."""
    model = Model([call("double", number=1)], "Done.")
    handler = PromptHandler(model=model, orm=store, tools=[double], limits=Limits(**limits))
    failed = await handler.handle_prompt("go")
    again = await handler.retry(failed.run_id)
    assert (again.status, again.error, len(model.requests)) == ("failed", failed.error, 1)
    assert again.error is not None
    assert f"Limits({next(iter(limits))}=" in again.error.message
    roomier = PromptHandler(model=model, orm=store, tools=[double], limits=Limits(**raised))
    state = await roomier.retry(failed.run_id)
    assert (state.status, state.output, len(model.requests)) == ("done", "Done.", 2)


async def test_time_is_measured_from_the_retry(store: FaultyStore) -> None:
    """A run that used up its time, and its lost replies, has all of both again when it is retried."""
    calls = 0

    async def slow_at_first(request: ModelRequest) -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.sleep(0.3)
            raise ModelUnavailableError("openai: HTTP 503", retry_after=0, begun=True)
        return "Done."

    handler = PromptHandler(
        model=Model(slow_at_first), orm=store, limits=Limits(seconds=0.25, lost_replies=1)
    )
    failed = await handler.handle_prompt("go")
    assert failed.error is not None
    assert (failed.status, failed.lost_replies, calls) == ("failed", 1, 1)
    assert "limit of 0.25 seconds" in failed.error.message
    state = await handler.retry(failed.run_id)
    assert (state.status, state.lost_replies) == ("done", 0)


async def test_a_callback_may_retry(store: FaultyStore) -> None:
    """A retry from `on_error`, while the loop of the local executor is still ending, is not forgotten."""
    key = Key()

    async def mend(state: RunState, error: Any) -> None:
        key.there = True
        await handler.retry(state.run_id, wait=False)

    handler = PromptHandler(model=Model(key), orm=store, callbacks=Callbacks(on_error=mend))
    run = await handler.handle_prompt("go", wait=False)
    async with asyncio.timeout(20):
        while (state := await handler.get_run(run.run_id)).status != "done":
            await asyncio.sleep(0.01)
    assert state.model_replies == 1


async def test_another_executor_takes_a_retried_run(store: FaultyStore) -> None:
    """The handler that retries drives the run from then on, whatever drove it before."""
    idle = PromptHandler(model=Model("Done."), orm=store, executor=Idle())
    run = await idle.create_run("go", driver=Driver(executor="temporal", workflow_id="order-42"))
    await idle.close_run(run.run_id, "failed")
    state = await PromptHandler(model=Model("Done."), orm=store, executor=LocalExecutor()).retry(run.run_id)
    assert (state.status, state.driver) == ("done", Driver(executor="local"))


class Echo(Model):
    """Answers with the prompt, unless it holds `fail` and there is no key."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.key = False
        self._cue = self._answer

    def _answer(self, request: ModelRequest) -> Any:
        text = request.messages[-1].text
        if "fail" in text and not self.key:
            raise ModelRejectedError("no")
        return f"re: {text}"


@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize("queued", [False, True])
async def test_later_runs_see_what_they_saw(store: FaultyStore, queued: bool, between: bool) -> None:
    """What a retried run says is for runs that begin afterwards: those that began before see, in another
    process too, the conversation as it was, also through a run that ended before it began."""
    idle = Idle()
    model = Echo()
    handler = PromptHandler(model=model, orm=store, executor=idle)
    first = await handler.create_run("one fail", session_id="s")
    if not queued:
        await drive(handler, first)
    never = await handler.create_run("never", session_id="s") if between else None
    later = await handler.create_run("two", session_id="s")
    if queued:
        await drive(handler, first)
    if never:
        await handler.cancel(never.run_id)
    await handler.run_iteration(later.run_id, 1)
    before = ["one fail", "never"] if never else ["one fail"]
    assert seen(model.requests[-1]) == [*before, "two"]

    model.key = True
    await handler.retry(first.run_id)
    await handler.run_iteration(first.run_id, 1)
    assert (await handler.get_run(first.run_id)).output == "re: one fail"
    elsewhere = PromptHandler(model=(cold := Echo()), orm=store, executor=idle)
    state = await elsewhere.get_run(later.run_id)
    parent = await elsewhere._agent.sessions.frozen(state)
    conversation = await elsewhere._agent.sessions.earlier(state, parent)
    assert [message.text for _, message in conversation] == before
    last = await elsewhere.create_run("three", session_id="s")
    await elsewhere.run_iteration(last.run_id, 1)
    assert seen(cold.requests[-1]) == [*before, "two", "re: two", "three"]


async def drive(handler: PromptHandler, run: RunState) -> None:
    """Let a run fail as a driver would."""
    with pytest.raises(ModelRejectedError):
        await handler.run_iteration(run.run_id, 1)
    await handler.close_run(run.run_id, "failed")


async def test_the_last_run_of_a_session_is_seen_as_it_ended_at_last(store: FaultyStore) -> None:
    """A prompt that comes while its session's last run is being retried waits for it, and sees its answer."""
    model = Echo()
    handler = PromptHandler(model=model, orm=store, executor=Idle())
    first = await handler.create_run("one fail", session_id="s")
    await drive(handler, first)
    model.key = True
    await handler.retry(first.run_id)
    second = await handler.create_run("two", session_id="s")
    assert (await handler.run_iteration(second.run_id, 1)).status == "waiting"
    await handler.run_iteration(first.run_id, 1)
    await handler.run_iteration(second.run_id, 1)
    assert seen(model.requests[-1]) == ["one fail", "re: one fail", "two"]
