"""The simulated world: one store, one ledger, processes that come and go, and the faults that are due."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

from simulation import clock
from simulation.eventloop import LivelockError, VirtualLoop
from simulation.faults import LASTS, POINTS, VARIED, Fault
from simulation.ledger import SECRET, Ledger, Sent, Strike, Write
from simulation.model import Model
from simulation.process import FROZEN, Process
from simulation.store import Line, unreachable
from thoughtgear import PromptHandler
from thoughtgear.adapters.memory import MemoryAdapter
from thoughtgear.errors import (
    ExecutorUnavailableError,
    ModelUnavailableError,
    OutcomeUnknownError,
    ThoughtgearError,
)
from thoughtgear.protocols import OrmAdapter

if TYPE_CHECKING:
    from simulation.scenarios import Scenario
    from thoughtgear.models import RunState

ATTEMPT: ContextVar[str] = ContextVar("attempt", default="")
"""Which delivery of which piece of work the running code is."""

PATIENCE = 6 * 3600.0
"""Virtual seconds after which a run that is not over never will be."""

SKEW = 2.5
"""Seconds that a clock may be off: two have to be closer than what is left of a claim at its renewal:
two thirds of it less the second between two looks."""

END_LOOK = 1.0
"""Virtual seconds between two looks whether all runs are over."""

AFTERMATH = 300.0
"""Virtual seconds for zombies to do their harm, when all runs are over."""

GIVE_UP, ASK_AGAIN = 60.0, 1.0
"""Seconds after which a client takes its call for lost, and after which it tries again."""

Act = Callable[[PromptHandler], Awaitable[Any]]


class World:
    """One experiment. `varied`: chance decides on latencies, clocks and where work goes; else it is the same
    for every schedule, so that one schedule differs from another by its faults alone."""

    def __init__(self, scenario: Scenario, faults: Mapping[int, Fault], seed: int, *, varied: bool) -> None:
        self.loop: VirtualLoop = clock.begin(seed)
        self.chance: random.Random = clock.CHANCE
        self.scenario, self.varied = scenario, varied
        self.memory = MemoryAdapter()
        self.ledger = Ledger()
        self.fired: Counter[tuple[str, str]] = Counter()
        self.trace: list[tuple[str, str]] = []
        self.away_until = 0.0
        self.processes: list[Process] = []
        self.struck: list[Fault] = []
        self._faults, self._seed = faults, seed
        self._over: dict[str, bool] = {}
        self.driver = scenario.driver(self)

    # --- the experiment ---

    def run(self) -> None:
        """Run it to its end, and let every zombie do what it still wants to."""
        asyncio._set_running_loop(self.loop)
        try:
            self.loop.run_until(self.loop.spawn(self._main()))
            self.away_until = 0.0
            for process in self.processes:
                process.thaw()
            self.loop.drain(AFTERMATH)
            for open_work in self.driver.unfinished():
                self.wrong(f"{open_work} is still open in the {self.driver.name}, although all runs are over")
            for task in self.loop.tasks:
                if not task.done() and task.process is not None and not task.process.killed:
                    self.wrong(f"{task.what} goes on although all runs are over")
        except LivelockError as exc:
            self.wrong(str(exc))
        finally:
            for process in self.processes:
                process.vanish()
            self.loop.close()
            asyncio._set_running_loop(None)

    async def _main(self) -> None:
        self.driver.begin()
        await asyncio.gather(*(self.loop.spawn(actor(self)) for actor in self.scenario.actors))
        while self.running():
            await self.loop.tick(END_LOOK)
            if self.loop.now > PATIENCE:
                self.wrong(f"not over after {PATIENCE:g} s: {self.running()}")
                return

    def running(self) -> list[str]:
        """The ids of the runs that go on."""
        return [run_id for run_id, over in self._over.items() if not over]

    def newest(self, run_id: str) -> RunState | None:
        """The state that the store holds."""
        writes = self.ledger.writes.get(run_id)
        return writes[-1].state if writes else None

    def is_over(self, run_id: str) -> bool:
        return self._over.get(run_id, False)

    def wrong(self, what: str) -> None:
        """Note that something happened that must not."""
        self.ledger.wrongs.append(what)

    # --- processes ---

    def process(self, role: str) -> Process:
        """Start a process."""
        skew = self.chance.choice((0.0, 0.0, -SKEW, SKEW)) if self.varied else 0.0
        made = Process(self, f"{role} {len(self.processes)}", skew)
        self.processes.append(made)
        return made

    def handler(self, process: Process) -> PromptHandler:
        """Return a handler as that process has it: its own caches, its own line to the store."""
        return PromptHandler(
            tools=self.scenario.tools,
            model=Model(self, process),
            orm=cast(OrmAdapter, Line(self, process)),  # what the loop asks a store for
            executor=self.driver.executor(process),
            limits=self.scenario.limits,
        )

    async def insist(self, act: Act) -> None:
        """Do what a client does that will not be put off: in a new process after a death, again after an
        error, and again beside a call that does not come back."""
        while self.loop.now < PATIENCE and not await self.once(act):
            await self.loop.tick(ASK_AGAIN)

    async def once(self, act: Act) -> bool:
        """Do something in a process of its own; return whether it came to its end."""
        process = self.process("client")
        work = self.loop.spawn(self._act(act, process), process)
        process.on_stop.append(work.cancel)
        await asyncio.wait((work, self.death_of(process)), timeout=GIVE_UP, return_when="FIRST_COMPLETED")
        if not work.done() or work.cancelled():
            work.add_done_callback(lambda late: late.cancelled() or late.exception())
            return False
        process.die()
        error = work.exception()
        if error is not None and not (isinstance(error, ThoughtgearError) and error.retryable):
            self.wrong(f"a client got {error!r}")
        return error is None

    async def _act(self, act: Act, process: Process) -> None:
        async with self.handler(process) as handler:
            await act(handler)

    def death_of(self, process: Process) -> asyncio.Future[None]:
        """Return what is done when the process has died."""
        gone = self.loop.create_future()
        process.on_death.append(lambda: None if gone.done() else gone.set_result(None))
        return gone

    # --- what the parts ask ---

    def latency(self) -> float:
        """Seconds that one call to the store takes."""
        return self.between(0.001, 0.02) if self.varied else 0.001

    def between(self, least: float, most: float) -> float:
        """Seconds, by chance where this world has any."""
        return self.chance.uniform(least, most) if self.varied else least

    def attempt(self) -> str:
        """The name of the attempt that asks."""
        return ATTEMPT.get()

    def later(self, delay: float, work: Coroutine[Any, Any, object]) -> None:
        """Do something in the world itself after a while."""
        self.loop.in_world(delay, self.loop.spawn, work)

    def acknowledge(self, sent: Sent) -> None:
        """A client knows now that this is stored."""
        self.ledger.acknowledged.append(sent)

    def committed(self, write: Write) -> None:
        """The store has made this commit."""
        run_id = write.state.run_id
        self.ledger.writes.setdefault(run_id, []).append(write)
        self._over[run_id] = write.state.over

    # --- faults ---

    def due(self, point: str, process: Process) -> Fault | None:
        """Pass a point; return the fault that is due there."""
        at = len(self.trace)
        self.trace.append((point, process.role))
        return self._faults.get(at)

    async def strike(self, fault: Fault, point: str, process: Process) -> float | None:
        """Let a fault happen. Returns the delay of a write that lands late."""
        # A chance of its own: a fault that is named in full leaves everything else as it is.
        chance = random.Random(self._seed * 1_000_003 + fault.at)
        kind = fault.kind or chance.choice([one for one in POINTS[point] if self._can(one)])
        if kind not in POINTS[point] or not self._can(kind):
            return None
        seconds = fault.seconds
        if seconds is None:
            seconds = chance.choice(VARIED.get(kind, (0.0,))) if self.varied else LASTS.get(kind, 0.0)
        self.fired[point, kind] += 1
        self.struck.append(Fault(fault.at, kind, seconds or None))
        self.ledger.strikes.append(Strike(kind, point, process, self.loop.now, self.loop.now + seconds))
        if kind == "late":
            return seconds
        await getattr(self, f"_{kind}")(seconds, point, process)
        return None

    def _can(self, kind: str) -> bool:
        if kind == "thaw":
            return any(process.state == FROZEN for process in self.processes)
        if kind == "again":
            return bool(self.running())
        return kind != "stale" or self.driver.can_be_stale()

    async def _die(self, seconds: float, point: str, process: Process) -> None:
        process.die()
        await self.loop.tick(0.0)

    async def _freeze(self, seconds: float, point: str, process: Process) -> None:
        process.freeze()
        self.loop.in_world(seconds, process.thaw)
        await self.loop.tick(0.0)

    async def _thaw(self, seconds: float, point: str, process: Process) -> None:
        for other in self.processes:
            other.thaw()

    async def _stop(self, seconds: float, point: str, process: Process) -> None:
        process.stop()
        await self.loop.tick(0.001)

    async def _slow(self, seconds: float, point: str, process: Process) -> None:
        await self.loop.tick(seconds)

    async def _hang(self, seconds: float, point: str, process: Process) -> None:
        await self.loop.tick(seconds)

    async def _again(self, seconds: float, point: str, process: Process) -> None:
        self.driver.again(self.running()[0])

    async def _stale(self, seconds: float, point: str, process: Process) -> None:
        self.driver.start_stale()

    async def _away(self, seconds: float, point: str, process: Process) -> None:
        self.away_until = self.loop.now + seconds

    async def _refuse(self, seconds: float, point: str, process: Process) -> None:
        raise _refusal(point)

    async def _lose(self, seconds: float, point: str, process: Process) -> None:
        raise _refusal(point)

    async def _retry(self, seconds: float, point: str, process: Process) -> None:
        raise ModelUnavailableError("The provider is overloaded.", status=429, retry_after=seconds)

    async def _bug(self, seconds: float, point: str, process: Process) -> None:
        raise RuntimeError(f"the key {SECRET} is not valid")

    async def _doubt(self, seconds: float, point: str, process: Process) -> None:
        raise OutcomeUnknownError


class NotReportedError(Exception):
    """The result of an attempt never reaches its driver."""


def _refusal(point: str) -> Exception:
    name = point.partition(":")[0]
    if name == "schedule":
        return ExecutorUnavailableError()
    if name == "model":
        return ModelUnavailableError("The connection broke.", begun=point.endswith("after"))
    return NotReportedError() if name == "report" else unreachable()
