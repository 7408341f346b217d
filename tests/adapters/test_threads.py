"""The threads in which a store makes its blocking calls."""

import asyncio
import gc
import threading
from collections.abc import Iterator

import pytest

from thoughtgear.adapters.threads import Threads
from thoughtgear.errors import StoreError


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads("test-threads", 2)
    yield made
    made.close()


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "test-threads"]


async def test_a_call_returns_what_the_function_returns(threads: Threads) -> None:
    """The value comes back from another thread, and one thread is enough for calls one after another."""
    for _ in range(20):
        assert await threads.run(threading.get_ident) != threading.get_ident()
    assert len(ours()) == 1


@pytest.mark.parametrize("kind", [ValueError, StopIteration, SystemExit, asyncio.CancelledError])
async def test_a_call_raises_what_the_function_raises(threads: Threads, kind: type[BaseException]) -> None:
    """An error of any kind is the caller's, and the thread goes on."""

    def fail() -> None:
        raise kind("no")

    async def call() -> None:
        try:
            await threads.run(fail)
        except BaseException as exc:
            raised.append(type(exc))

    raised: list[type[BaseException]] = []
    await call()
    assert raised == [kind] or (kind is StopIteration and raised == [RuntimeError])
    assert await threads.run(lambda: 1) == 1


async def test_calls_run_side_by_side_up_to_the_cap(threads: Threads) -> None:
    """Two calls of two threads meet; there are never more threads than that."""
    both = threading.Barrier(2)
    await asyncio.gather(*(threads.run(lambda: both.wait(10)) for _ in range(8)))
    assert len(ours()) == 2


async def test_a_cancelled_caller_waits_or_withdraws(threads: Threads) -> None:
    """A call that runs is finished before its caller goes on; one that has not begun never begins."""
    begun, go, done = threading.Barrier(3), threading.Event(), []

    def work() -> None:
        begun.wait(10)
        done.append(go.wait(10))

    running = [asyncio.create_task(threads.run(work)) for _ in range(2)]
    late = asyncio.create_task(threads.run(lambda: done.append("late")))
    await asyncio.to_thread(begun.wait, 10)
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    for task in running:
        task.cancel()
    await asyncio.sleep(0)
    assert not any(task.done() for task in running)
    go.set()
    for task in running:
        with pytest.raises(asyncio.CancelledError):
            await task
    assert done == [True, True]
    assert await threads.run(lambda: len(done)) == 2


async def test_loops_share_the_threads(threads: Threads) -> None:
    """Calls from several event loops at once each go back to their own."""

    def of_a_loop(number: int) -> list[int]:
        async def main() -> list[int]:
            return await asyncio.gather(*(threads.run(lambda n=n: n) for n in range(number, number + 50)))

        return asyncio.run(main())

    found = await asyncio.gather(*(asyncio.to_thread(of_a_loop, number) for number in (0, 100, 200)))
    assert found == [list(range(number, number + 50)) for number in (0, 100, 200)]
    assert len(ours()) <= 2


async def test_close_finishes_what_was_handed_in(threads: Threads) -> None:
    """After close the calls that were there are finished, the threads end, and a new call is a StoreError."""
    calls = [asyncio.create_task(threads.run(lambda n=n: n)) for n in range(10)]
    await asyncio.sleep(0)
    standing = ours()
    threads.close()
    with pytest.raises(StoreError, match="closed"):
        await threads.run(lambda: 1)
    assert await asyncio.gather(*calls) == list(range(10))
    for thread in standing:
        await asyncio.to_thread(thread.join, 10)
    assert ours() == []


async def test_forgotten_threads_end() -> None:
    """A store that is dropped without being closed leaves no thread behind."""
    forgotten = Threads("test-threads", 1)
    await forgotten.run(threading.get_ident)
    [thread] = ours()
    del forgotten
    gc.collect()
    await asyncio.to_thread(thread.join, 10)
    assert ours() == []
