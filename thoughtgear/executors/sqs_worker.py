"""The worker of an SQS queue: it takes messages, runs one iteration for each, and sends the next one."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from thoughtgear.errors import (
    ConfigurationError,
    ExecutorUnavailableError,
    InvalidInputError,
    RunBusyError,
    RunNotFoundError,
    StoreError,
)
from thoughtgear.executors.aws import ask
from thoughtgear.executors.members import members_of
from thoughtgear.executors.sqs import LONGEST_DELAY, SqsExecutor
from thoughtgear.executors.sqs_message import DELIVERY, SINCE, Message, read_message
from thoughtgear.executors.turns import Delivery, Taken, Turn, take
from thoughtgear.logs import loggable
from thoughtgear.loop import retry_delay

if TYPE_CHECKING:
    from thoughtgear.handler import PromptHandler

BATCH = 10
"""Messages that SQS hands out at once, at the most."""

LOOK_SECONDS = 2.0
"""Seconds between two looks at a run that is waited for."""

ELSEWHERE_SECONDS = 5.0
"""Until the copy of a message comes whose handler this worker lacks: another worker may have it."""

ELSEWHERE_MOST = 3600.0
"""Seconds that workers pass such a message on. Then it goes to the dead-letter queue."""

log = logging.getLogger("thoughtgear")


class SqsWorker:
    """Drives the runs of handlers with an `SqsExecutor` of one queue.

    `queue_url` is that queue, where the handlers have executors of several: each queue needs its workers.
    `concurrency` iterations run at once. A message is kept from other workers for `visibility` seconds, again
    and again as long as it is worked on; so a worker that dies is noticed after as many. When the worker is
    stopped its iterations have `grace` seconds to end by themselves. `poll` is how long one request waits for
    messages, up to 20 s.

    The queue needs a dead-letter queue (`RedrivePolicy`). A message whose workers died as often as its
    `maxReceiveCount` allows, less one, is not tried again: its run ends as failed, and SQS moves the message.
    A message that is no run's is moved likewise. Raises `ConfigurationError`.
    """

    def __init__(
        self,
        handlers: PromptHandler | Sequence[PromptHandler],
        *,
        queue_url: str | None = None,
        concurrency: int = 10,
        visibility: int = 60,
        grace: float = 30.0,
        poll: int = 10,
    ) -> None:
        given = list(handlers) if isinstance(handlers, Sequence) else [handlers]
        self._handlers = {handler.name: handler for handler in given}
        self._executors = _executors_of(given, queue_url)
        self._executor = self._executors[given[0].name]
        if concurrency < 1 or not 2 <= visibility <= 43200 or not 0 <= poll <= 20 or grace < 0:
            raise ConfigurationError(
                "An SqsWorker has concurrency from 1 on, visibility from 2 to 43200 s, poll from 0 to 20 s."
            )
        self._concurrency, self._visibility = concurrency, visibility
        self._grace, self._poll = grace, poll
        self._slots = asyncio.Semaphore(concurrency)
        self._waiting = 0
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = asyncio.Event()
        self._most = 0

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Work until `stop` is set, or this is cancelled. Raises `ConfigurationError` for a queue that has no
        dead-letter queue, and `ExecutorUnavailableError` when the queue can't be reached at the start."""
        self._most = await self._most_receives()
        self._stopped = stop or asyncio.Event()
        receiving = asyncio.create_task(self._receive_for_ever())
        waiting = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait((receiving, waiting), return_when=asyncio.FIRST_COMPLETED)
            receiving.cancel()
            with suppress(asyncio.CancelledError):
                await receiving
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self._grace)
        finally:
            for task in (receiving, waiting, *self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _most_receives(self) -> int:
        answer = await self._ask("get_queue_attributes", AttributeNames=["RedrivePolicy"])
        policy = json.loads(answer.get("Attributes", {}).get("RedrivePolicy") or "{}")
        most = int(policy.get("maxReceiveCount", 0))
        if most < 2:
            raise ConfigurationError(
                "The queue needs a dead-letter queue for messages that kill their workers: set a "
                "RedrivePolicy with a maxReceiveCount of 2 or more (5 is a good one)."
            )
        return most

    # --- receiving ---

    async def _receive_for_ever(self) -> None:
        failures = 0
        while True:
            free = await self._room()
            try:
                messages = await self._receive(min(free, BATCH))
                failures = 0
            except ExecutorUnavailableError as exc:
                failures += 1
                log.warning("%s Trying again.", exc)
                await asyncio.sleep(retry_delay(failures))
                continue
            for message in messages:
                task = asyncio.create_task(self._work(message))
                self._tasks.add(task)
                task.add_done_callback(self._ended)

    async def _room(self) -> int:
        """Return how many more messages can be worked on, once there are any. Those that wait for something
        take up no room."""
        while (free := self._concurrency - len(self._tasks) + self._waiting) < 1:
            self._changed.clear()
            await self._changed.wait()
        return free

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changed.set()

    async def _pause(self, seconds: float) -> None:
        """Wait, but no longer than until the worker is stopped."""
        self._waiting += 1
        self._changed.set()
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), seconds)
        finally:
            self._waiting -= 1

    async def _receive(self, most: int) -> list[dict[str, Any]]:
        """Receive messages. A request that is under way when the worker stops is awaited: what it brings is
        given back."""
        asked = asyncio.create_task(
            self._ask(
                "receive_message",
                MaxNumberOfMessages=most,
                WaitTimeSeconds=self._poll,
                VisibilityTimeout=self._visibility,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
                MessageAttributeNames=[DELIVERY, SINCE],
            )
        )
        try:
            answer = await asyncio.shield(asked)
        except asyncio.CancelledError:
            with suppress(ExecutorUnavailableError):
                for received in (await asked).get("Messages", []):
                    await self._return(received)
            raise
        return list(answer.get("Messages", []))

    async def _return(self, received: dict[str, Any]) -> None:
        try:
            message = read_message(received)
        except InvalidInputError as exc:
            await self._refuse(received["ReceiptHandle"], exc)
        else:
            await self._hand_on(message)

    # --- one message ---

    async def _work(self, received: dict[str, Any]) -> None:
        """Use a message up, or leave it to come again."""
        receipt = received["ReceiptHandle"]
        try:
            message = read_message(received)
        except InvalidInputError as exc:
            await self._refuse(receipt, exc)
            return
        try:
            async with self._kept(receipt):
                done = await self._use(message)
        except asyncio.CancelledError:
            await asyncio.shield(self._hand_on(message))
            raise
        except _HandOnError:
            await self._hand_on(message)
        except (InvalidInputError, RunNotFoundError) as exc:
            await self._refuse(receipt, exc)
        except Exception as exc:
            log.error("a message could not be used", exc_info=loggable(exc))
            await self._give_back(receipt, self._visibility)
        else:
            if done:
                await self._delete(receipt)
            else:
                await self._give_back(receipt, 0)

    async def _use(self, message: Message) -> bool:
        """Take the turn and send the next message; return whether this one is done with."""
        handler = self._handlers.get(message.handler)
        if handler is None:
            return await self._leave_to_others(message)
        delivery = Delivery(
            "sqs", message.name, hold=self._executor.claim_seconds, last=message.count >= self._most
        )
        taken: Taken = await self._insist(message, lambda: self._take(handler, message.turn, delivery))
        if taken.next is not None:
            following = taken.next
            if self._executor.fifo and not delivery.last:  # whoever died with that one would leave the run
                following = await self._until_due(handler, following)
            await self._insist(message, partial(self._executors[handler.name].follow, following))
        log.info(taken.reason or "the next message is sent", extra={"run_id": message.turn.run_id})
        return not taken.dead

    async def _leave_to_others(self, message: Message) -> bool:
        """Send a copy of a message whose handler this worker lacks: the message itself, come again and again,
        would count as one that kills its workers. After an hour it is left to that end."""
        told = f"This worker has no handler of the name {message.handler[:100]!a}."
        if message.elsewhere > ELSEWHERE_MOST:
            log.error("%s No worker had, for an hour: it goes to the dead-letter queue.", told)
            return False
        log.warning("%s It is left to another one.", told)
        if self._executor.fifo:  # which keeps no message back
            await self._pause(ELSEWHERE_SECONDS)
        copy = partial(self._copy, message, ELSEWHERE_SECONDS, message.since or time.time())
        await self._insist(message, copy)
        return True

    async def _copy(self, message: Message, seconds: float = 0.0, since: float | None = None) -> None:
        """Send a copy of a message, which is the same delivery as its original. Raises
        `ExecutorUnavailableError`."""
        await self._executor.send(message.body, message.turn.run_id, seconds, message.attributes(since))

    async def _hand_on(self, message: Message) -> None:
        """Have a copy come in place of a message: to give it back would count as a death of its worker."""
        try:
            await self._copy(message)
        except ExecutorUnavailableError as exc:
            log.warning("a message is given back: %s", exc)
            await self._give_back(message.receipt, 0)
        else:
            await self._delete(message.receipt)

    async def _take(self, handler: PromptHandler, turn: Turn, delivery: Delivery) -> Taken:
        async with self._slots:
            return await take(handler, turn, delivery)

    async def _insist(self, message: Message, what: Callable[[], Awaitable[Any]]) -> Any:
        """Try again here what a while mends, and keep the message: to leave it would count against it. Raises
        `_HandOnError` where the worker stops meanwhile, or where it takes long and no worker has died: one
        that is killed while it waits counts, too."""
        failures, until = 0, time.monotonic() + LONGEST_DELAY
        while True:
            try:
                return await what()
            except RunBusyError as exc:
                delay, why = LOOK_SECONDS, exc
            except (StoreError, ExecutorUnavailableError) as exc:
                if not exc.retryable:
                    raise
                failures += 1
                delay, why = retry_delay(failures), exc  # type: ignore[assignment]
            if self._stopped.is_set() or (message.count == 1 and time.monotonic() > until):
                raise _HandOnError
            log.info("waiting %.1f s: %s", delay, why, extra={"run_id": message.turn.run_id})
            await self._pause(delay)

    async def _until_due(self, handler: PromptHandler, turn: Turn) -> Turn:
        """Wait until a turn is due, or somebody else took it: a FIFO queue keeps no single message back, and
        holds those that follow this one in its group. What is left of a wait that is longer, or of one that
        the worker is stopped in, is for the next message. Returns the turn that this one has."""
        until = time.monotonic() + LONGEST_DELAY
        while turn.seconds and time.monotonic() < until and not self._stopped.is_set():
            await self._pause(min(turn.seconds, LOOK_SECONDS))
            with suppress(StoreError):
                try:
                    state = await handler.get_run(turn.run_id)
                except RunNotFoundError:
                    return turn
                if state.over or state.claim.epoch != turn.epoch:
                    return turn
                if not turn.failures and handler.pace is not None and handler.pace.cut_short(state):
                    return replace(turn, not_before=0.0)
        return turn

    # --- the queue ---

    @asynccontextmanager
    async def _kept(self, receipt: str) -> AsyncIterator[None]:
        """Keep a message from other workers while the context is open."""
        keeping = asyncio.create_task(self._keep(receipt))
        try:
            yield
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping

    async def _keep(self, receipt: str) -> None:
        while True:
            await asyncio.sleep(self._visibility / 3)
            await self._give_back(receipt, self._visibility)

    async def _refuse(self, receipt: str, exc: Exception) -> None:
        log.error("a message that is no run's goes to the dead-letter queue: %s", exc)
        await self._give_back(receipt, 0)

    async def _give_back(self, receipt: str, seconds: int) -> None:
        """Have a message come again after so many seconds. Where the queue does not answer it comes when its
        visibility ends."""
        try:
            await self._ask("change_message_visibility", ReceiptHandle=receipt, VisibilityTimeout=seconds)
        except ExecutorUnavailableError as exc:
            log.warning("a message could not be kept, or given back: %s", exc)

    async def _delete(self, receipt: str) -> None:
        """Delete a message. One that stays comes again, and finds its turn used."""
        try:
            await self._ask("delete_message", ReceiptHandle=receipt)
        except ExecutorUnavailableError as exc:
            log.warning("a message could not be deleted: %s", exc)

    async def _ask(self, method: str, **parameters: Any) -> Any:
        call = getattr(self._executor.client, method)
        return await ask("AWS SQS", call, QueueUrl=self._executor.queue_url, **parameters)


class _HandOnError(Exception):
    """A copy of the message is to come in its place."""


def _executors_of(handlers: Sequence[PromptHandler], queue_url: str | None) -> dict[str, SqsExecutor]:
    """The executors of the handlers, by their names: all of one queue."""
    found = {each.name: members_of(each.executor, SqsExecutor) for each in handlers}
    urls = {queue_url} if queue_url else {one.queue_url for made in found.values() for one in made}
    if len(urls) > 1:
        raise ConfigurationError(
            "SqsWorker works on one queue, and these handlers have executors of several: "
            "SqsWorker(…, queue_url=…) names it."
        )
    own = {name: [one for one in made if one.queue_url in urls] for name, made in found.items()}
    if not own or not all(own.values()):
        raise ConfigurationError("SqsWorker needs handlers with executor=SqsExecutor(…), all of one queue.")
    if len(own) != len(handlers):
        raise ConfigurationError("Two handlers of one worker have the same name; give one another name.")
    return {name: made[0] for name, made in own.items()}
