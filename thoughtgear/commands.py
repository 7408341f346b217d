"""What the commands do that concern one run: `run`, `retry`, `wait`, `cancel`, `settle`. `cli` parses and
calls."""

from __future__ import annotations

import asyncio
import time

from thoughtgear.desk import Desk, open_desk
from thoughtgear.errors import ConfigurationError, WaitTimeoutError
from thoughtgear.events import StreamEvent
from thoughtgear.follow import IDLE_SECONDS, Follower
from thoughtgear.models import RunState
from thoughtgear.outcomes import Outcome
from thoughtgear.place import NewPrompt, Output, Place
from thoughtgear.render import RunView, print_json, run_record, summary_line

CANCEL_SECONDS = 40.0
"""How long `cancel` waits to see the end of the run: longer than a dead process's claim holds it."""


async def run(place: Place, prompt: NewPrompt, output: Output, *, detach: bool = False) -> int:
    """Send a prompt and follow its run to the end. Returns the exit code."""
    async with open_desk(place) as desk:
        if detach:
            _require_worker(desk)
        state = await desk.handler.handle_prompt(
            prompt.text,
            files=prompt.files,
            session_id=prompt.session_id,
            user_id=prompt.user_id,
            request_id=prompt.request_id,
            stream=not (output.bare or detach),
            wait=False,
        )
        if detach:
            _tell_detached(desk, state, output)
            return 0
        return await _follow(desk, state, output, after=state.message_count - 1 if state.over else 0)


async def resume(place: Place, run_id: str, output: Output, *, detach: bool = False) -> int:
    """Go on with a run that nothing drives, or hand it to another executor, and follow it."""
    async with open_desk(place, run_id) as desk:
        state = await desk.handler.get_run(run_id)
        if not state.over:
            desk.require_model()
            if detach:
                _require_worker(desk)
            await desk.handler.executor.schedule_next_iteration(run_id)
            if detach:
                _tell_detached(desk, state, output)
                return 0
        desk.resumed = state.nonce
        return await _follow(desk, state, output, after=state.message_count - 1)


async def retry(place: Place, run_id: str, output: Output, *, detach: bool = False) -> int:
    """Go on with a run that failed or was cancelled, and follow it. One that goes on is followed, too."""
    async with open_desk(place, run_id, retries=True) as desk:
        before = await desk.handler.get_run(run_id)
        if before.status != "done":
            desk.require_model()
            if detach:
                _require_worker(desk)
        state = await desk.handler.retry(run_id, wait=False)
        if not before.over:
            output.err.print(f"Run {run_id} is {before.status} already.", soft_wrap=True, highlight=False)
        if detach:
            _tell_detached(desk, state, output)
            return 0
        desk.resumed = state.nonce
        return await _follow(desk, state, output, after=before.message_count - 1)


async def wait(place: Place, run_id: str, output: Output, timeout: float | None = None) -> int:  # noqa: ASYNC109 - as asyncio's own functions have it
    """Follow a run that goes on elsewhere to its end."""
    async with open_desk(place, run_id) as desk:
        state = await desk.handler.get_run(run_id)
        return await _follow(desk, state, output, after=state.message_count - 1, timeout=timeout)


async def cancel(place: Place, run_id: str, output: Output) -> int:
    """Cancel a run, and see whether it ends. Returns 1 where it has not."""
    async with open_desk(place, run_id) as desk:
        state = await desk.handler.get_run(run_id)
        already = state.over
        if not already:
            state = await _cancel(desk, run_id, output)
    if output.as_json:
        print_json(run_record(state))
    elif already:
        output.err.print(f"Run {run_id} is {state.status} already.", soft_wrap=True, highlight=False)
    elif not state.over:
        output.err.print(
            f"The cancel is on its way; run {run_id} is {state.status} still. "
            f"See its end with: {desk.again(f'wait {run_id}')}",
            soft_wrap=True,
            highlight=False,
        )
    else:
        output.err.print(summary_line(state), soft_wrap=True)
    return 0 if state.over else 1


async def settle(place: Place, run_id: str, call_id: str, outcome: Outcome, output: Output) -> int:
    """Store a person's decision about a call, and wake what drives the run."""
    async with open_desk(place, run_id) as desk:
        # A local run goes on in its own process, or when it is continued: not in this one.
        remote = desk.client is not None
        state = await desk.handler.settle(run_id, call_id, outcome, schedule=remote)
        why = None if remote or state.over else await desk.why_idle(state)
    if output.as_json:
        print_json(run_record(state))
    else:
        text = why or f"Run {run_id} goes on. See it with: {desk.again(f'wait {run_id}')}"
        output.err.print(f"Call {call_id} is settled. {text}", soft_wrap=True, highlight=False)
    return 0


def _require_worker(desk: Desk) -> None:
    if desk.client is None:
        raise ConfigurationError(
            "--detach needs a worker elsewhere; this handler runs in this process (see --executor)."
        )


async def _follow(
    desk: Desk,
    state: RunState,
    output: Output,
    *,
    after: int,
    timeout: float | None = None,  # noqa: ASYNC109 - as asyncio's own functions have it
) -> int:
    view = _Silent(output.out, output.err) if output.bare else RunView(output.out, output.err)
    link = desk.link(state)
    if not output.bare:
        view.note(f"run {state.run_id}" + (f"  {link}" if link else ""))

    if state.over:
        view.text(state.output or "")
        view.end_line()

    try:
        async with asyncio.timeout(timeout):
            follower = Follower(desk.handler.store, state.run_id, view, after, text=not output.bare)
            state = await follower.until_over(lambda idle: _tell_idle(desk, idle, output))
    except TimeoutError:
        view.end_line()
        raise WaitTimeoutError(f"Run {state.run_id} is not over after {timeout:g} s; it goes on.") from None
    except asyncio.CancelledError:
        view.end_line()
        _tell_left(desk, state, output)
        raise
    _tell_end(desk, state, output, link)
    return 0 if state.status == "done" else 1


async def _tell_idle(desk: Desk, state: RunState, output: Output) -> None:
    reason = await desk.why_idle(state)
    if reason:
        output.err.print(reason, soft_wrap=True, highlight=False)


class _Silent(RunView):
    """Shows notes alone: for scripts."""

    def text(self, piece: str) -> None:
        """Nothing."""

    def event(self, event: StreamEvent) -> None:
        """Nothing."""


def _tell_end(desk: Desk, state: RunState, output: Output, link: str | None) -> None:
    if output.as_json:
        print_json(run_record(state) | ({"link": link} if link else {}))
        return
    if output.quiet and state.output:
        print(state.output)
    if not output.quiet or state.status != "done":
        output.err.print(summary_line(state, link), soft_wrap=True)
    if state.status == "failed":
        line = desk.again(f"retry {state.run_id}")
        output.err.print(f"Go on from its last commit with: {line}", soft_wrap=True, highlight=False)


def _tell_left(desk: Desk, state: RunState, output: Output) -> None:
    if desk.client is not None:
        text = f"Left; the run goes on. Come back with: {desk.again(f'wait {state.run_id}')}"
    else:
        text = (
            "Stopped; what is done is in the store. "
            f"Go on with: {desk.again(f'run --continue {state.run_id}')}"
        )
    output.err.print(text, soft_wrap=True, highlight=False)


def _tell_detached(desk: Desk, state: RunState, output: Output) -> None:
    if output.as_json:
        link = desk.link(state)
        print_json(run_record(state) | ({"link": link} if link else {}))
        return
    print(state.run_id)
    output.err.print(
        f"The run goes on. See it with: {desk.again(f'wait {state.run_id}')}", soft_wrap=True, highlight=False
    )


async def _cancel(desk: Desk, run_id: str, output: Output) -> RunState:
    """Cancel, and return the state once the run is over, or as it is after 40 s. Says after 2 s why
    nothing happens.

    Whoever works on the run sees the cancel by itself. A process that died does not: once its claim has
    run out, the cancel is asked for again, and then holds at once.
    """
    handler, begin = desk.handler, time.monotonic()
    held = silent = True
    state = await handler.cancel(run_id)
    while not state.over and (passed := time.monotonic() - begin) < CANCEL_SECONDS:
        if silent and passed > IDLE_SECONDS:
            silent = False
            await _tell_idle(desk, state, output)
        if held and not state.claim.live() and state.driver.executor == "local":
            held = False
            await handler.cancel(run_id)
        await asyncio.sleep(0.1)
        state = await handler.get_run(run_id)
    return state
