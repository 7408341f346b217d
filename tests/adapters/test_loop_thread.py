"""The event loop in which a store's asynchronous driver works."""

import asyncio
import threading
from collections.abc import Callable

from thoughtgear.adapters.loop_thread import LoopThread


async def test_a_swallowed_cancellation_is_repeated() -> None:
    """A driver that loses one cancellation, as `asyncio.wait_for` may before Python 3.12, does not keep a
    cancelled reader waiting for the server's reply."""
    waiting, over, swallowed = threading.Event(), threading.Event(), []

    async def read(begin: Callable[[], None]) -> None:
        try:
            waiting.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.append(True)
        while not over.is_set():
            await asyncio.sleep(0.01)

    async def close(begin: Callable[[], None]) -> None:
        """There is nothing to close."""

    thread = LoopThread("test-loop")
    reading = asyncio.create_task(thread.run(read))
    assert await asyncio.to_thread(waiting.wait, 10)
    reading.cancel()
    await asyncio.wait([reading], timeout=10)
    cancelled = reading.cancelled()
    over.set()
    await asyncio.wait([reading])
    assert cancelled
    assert swallowed == [True]
    await thread.aclose(close)
