"""A worker as a process of its own, its log in a file: what `dev` restarts and `demo` kills."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client

from thoughtgear.devserver import end_with_parent
from thoughtgear.errors import ConfigurationError

STOP_SECONDS, READY_SECONDS, POLL_SECONDS = 40.0, 30.0, 0.05


class WorkerProcess:
    """`thoughtgear worker TARGET` against a server of this machine.

    It runs in a session of its own, so that Ctrl-C in the terminal reaches it through its parent only, and
    ends when the parent is gone however that ended.
    """

    def __init__(
        self,
        target: str,
        *,
        address: str,
        log: Path,
        folder: Path,
        task_queue: str,
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self._command = [sys.executable, "-m", "thoughtgear", "worker", target, "--task-queue", task_queue]
        self._command += options
        self._task_queue = task_queue
        self._folder, self.log = folder, log
        self._environment = {**_local(address), **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id, also after its end. Raises `ConfigurationError` before the start."""
        if self._process is None:
            raise ConfigurationError("This worker was not started.")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process; the log of the one before is kept above."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command, and no shell sees it
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=self._environment,
                start_new_session=True,
            )
        self._watchdog = end_with_parent(self._process.pid)

    async def until_ready(self, client: Client) -> bool:
        """Return whether it polls the queue; False when it ended first or did not within 30 s."""
        deadline = time.monotonic() + READY_SECONDS
        while self.running and time.monotonic() < deadline:
            if await self._polls(client):
                return True
            await asyncio.sleep(POLL_SECONDS)
        return False

    async def until_ended(self) -> None:
        """Return when the process has ended."""
        while self.running:  # noqa: ASYNC110 - nothing tells of a process's end but looking
            await asyncio.sleep(POLL_SECONDS)

    def kill(self) -> None:
        """Kill it: SIGKILL, nothing is tidied up."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._release()

    async def stop(self) -> None:
        """Ask it to finish what it does, then kill it."""
        if self._process is not None and self.running:
            self._process.terminate()
            try:
                await asyncio.to_thread(self._process.wait, STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._release()

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")

    async def _polls(self, client: Client) -> bool:
        """Whether the server has met a poller of this process."""
        request = DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=self._task_queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
        )
        answer = await client.workflow_service.describe_task_queue(request)
        return any(poller.identity.startswith(f"{self.pid}@") for poller in answer.pollers)

    def _release(self) -> None:
        """End the watchdog before the process id can be another's."""
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            watchdog.kill()
            watchdog.communicate()


def _local(address: str) -> dict[str, str]:
    """This process's environment, with Temporal's settings for a server of this machine alone."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")}
    local = {"TEMPORAL_ADDRESS": address, "TEMPORAL_NAMESPACE": "default"}
    return {**ours, **local, "TEMPORAL_CONFIG_FILE": os.devnull}
