"""The signals that ask a server to stop."""

from __future__ import annotations

import asyncio
import signal
import sys


def stop_signals() -> asyncio.Queue[int]:
    """Return a queue that gets each SIGINT and SIGTERM of this process from now on."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        if sys.platform == "win32":
            signal.signal(number, lambda got, _: loop.call_soon_threadsafe(queue.put_nowait, got))
        else:
            loop.add_signal_handler(number, queue.put_nowait, number)
    return queue
