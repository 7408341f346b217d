"""What callbacks promise: they are told, and they never harm a run."""

import asyncio
import logging
import traceback

import pytest

from thoughtgear.callbacks import Callbacks
from thoughtgear.models import RunState, ToolCall

CALL = ToolCall(id="1.0", name="look")


async def test_plain_and_async_callbacks_are_told():
    """Both kinds get the arguments, and an async one has finished when the run goes on."""
    seen = []

    async def end(run_id, result):
        await asyncio.sleep(0)
        seen.append(("end", run_id, result))

    callbacks = Callbacks(on_tool_start=lambda run_id, call: seen.append((run_id, call)), on_tool_end=end)
    await callbacks.fire("on_tool_start", "r1", CALL)
    await callbacks.fire("on_tool_end", "r1", "result")
    assert seen == [("r1", CALL), ("end", "r1", "result")]


async def test_missing_callbacks_are_silent(caplog):
    """An event that nobody listens to does nothing."""
    await Callbacks().fire("on_done", RunState(run_id="r1"))
    assert not caplog.records


@pytest.mark.parametrize("subject", ["r1", RunState(run_id="r1")])
@pytest.mark.parametrize("is_async", [True, False])
async def test_a_raising_callback_is_logged(caplog, is_async, subject):
    """A callback that raises is logged with the run's id, the error's class and its stack; that is all."""

    def fail(*args):
        raise ValueError("broken display")

    async def fail_later(*args):
        fail()

    await Callbacks(on_error=fail_later if is_async else fail).fire("on_error", subject, None)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.run_id == "r1"
    assert "on_error" in record.getMessage()
    logged = "".join(traceback.format_exception(record.exc_info[1]))
    assert "ValueError" in logged
    assert "in fail" in logged


async def test_own_cancellation_passes_through():
    """Cancelling the run's task while a callback is awaited cancels the task."""
    entered = asyncio.Event()

    async def hang(state):
        entered.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(Callbacks(on_done=hang).fire("on_done", RunState(run_id="r1")))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancellation_of_something_else_is_harmless(caplog):
    """A callback that awaits a task someone cancelled does not cancel the run."""

    async def await_cancelled(state):
        other = asyncio.create_task(asyncio.Event().wait())
        other.cancel()
        await other

    await Callbacks(on_done=await_cancelled).fire("on_done", RunState(run_id="r1"))
    assert "nobody had cancelled it" in str(caplog.records[0].exc_info[1])


class Interrupt(BaseException):
    """Stands for KeyboardInterrupt, which the event loop would treat in its own way."""


async def test_interrupts_pass_through():
    """What is no Exception, such as KeyboardInterrupt, reaches the caller."""

    def interrupt(state):
        raise Interrupt

    with pytest.raises(Interrupt):
        await Callbacks(on_done=interrupt).fire("on_done", RunState(run_id="r1"))
