"""Work with a watch beside it, which looks at the store while the work takes long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from thoughtgear.commit import uninterrupted


async def watched(
    work: Coroutine[Any, Any, list[str]], watch: Callable[[], Coroutine[Any, Any, None]], after: float
) -> list[str]:
    """Run `work`; when it takes longer than `after` seconds, `watch` looks at the store meanwhile.

    What the watch raises stops the work and comes out.
    """
    working = asyncio.create_task(work)
    tasks: list[asyncio.Task[Any]] = [working]
    try:
        await asyncio.wait(tasks, timeout=after)
        if not working.done():
            tasks.append(asyncio.create_task(watch()))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await _stop([working])
            tasks[-1].result()
        return working.result()
    finally:
        await _stop(tasks)


async def _stop(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for their end, which saves what is finished, even when cancelled again meanwhile:
    a watch that went on would renew the claim of an attempt that is over. How they ended is swallowed."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    try:
        if running:
            await uninterrupted(asyncio.wait(running))
    finally:
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()
