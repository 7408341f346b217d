"""What AWS has around a function: its Runtime API, its Invoke API, and a queue that delivers at least once.

Functions are processes that run AWS's own runtime client (`awslambdaric`). One that dies, or answers an
error, has its event delivered again, twice at the most, under the same request id; as AWS does, only sooner.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

RETRIES = 2
NAME = "agent"
RUNTIME = "/2018-06-01/runtime"
INVOKE = f"/2015-03-31/functions/{NAME}/invocations"


@dataclass
class Event:
    """An event that was taken, and how often it was delivered."""

    payload: dict[str, Any]
    request_id: str = field(default_factory=lambda: str(uuid4()))
    delivered: int = 0


@dataclass
class Answer:
    """What a function answered: its value, or the type of its error."""

    event: Event
    value: Any = None
    error: str | None = None


class LambdaPlatform:
    """Takes events and has functions work on them. `copies` is how often each event is delivered at first;
    `seconds` is a function's time-out, `again` how long until a failed event comes again, `folder` where
    `function.main` is."""

    def __init__(
        self,
        environment: dict[str, str],
        log: Path,
        *,
        instances: int = 1,
        copies: int = 1,
        seconds: float = 60.0,
        again: float = 1.5,
        folder: Path = Path(__file__).parent,
    ) -> None:
        self.fired: list[Event] = []
        self.answers: list[Answer] = []
        self.copies, self.seconds, self.again = copies, seconds, again
        self.held = threading.Event()
        self._environment, self._log, self._folder = environment, log, folder
        self._events: queue.Queue[Event] = queue.Queue()
        self._open = 0
        self._lock = threading.Lock()
        self._invoke = _serve(self._handle_invoke)
        self._instances = [_Instance(self) for _ in range(instances)]

    @property
    def endpoint(self) -> str:
        """The address of its Invoke API, for boto3."""
        return f"http://127.0.0.1:{self._invoke.server_port}"

    @property
    def deaths(self) -> int:
        """How many processes died."""
        return sum(instance.deaths for instance in self._instances)

    @property
    def idle(self) -> bool:
        """Whether no event waits, or is worked on, or will come again."""
        with self._lock:
            return self._open == 0

    def fire(self, payload: dict[str, Any], *, request_id: str | None = None) -> Event:
        """Take an event, as the Invoke API does for `InvocationType="Event"`."""
        event = Event(payload, request_id or str(uuid4()))
        self.fired.append(event)
        self.deliver(event, self.copies)
        return event

    def deliver(self, event: Event, times: int = 1) -> None:
        """Deliver an event, perhaps once more than it was fired."""
        with self._lock:
            self._open += times
        for _ in range(times):
            self._events.put(event)

    def start(self) -> None:
        for instance in self._instances:
            instance.start()

    def stop(self) -> None:
        for instance in self._instances:
            instance.stop()
        self._invoke.shutdown()
        self._invoke.server_close()

    def errors(self) -> list[str]:
        """The errors that functions answered."""
        return [answer.error for answer in self.answers if answer.error]

    def answers_to(self, event: Event) -> list[Answer]:
        return [answer for answer in self.answers if answer.event is event]

    # --- what the instances call ---

    def take(self, stopped: Callable[[], bool]) -> Event | None:
        """The next event, or None when the instance is to end."""
        while not stopped():
            if self.held.is_set():
                time.sleep(0.02)
                continue
            try:
                event = self._events.get(timeout=0.05)
            except queue.Empty:
                continue
            event.delivered += 1
            return event
        return None

    def answer(self, event: Event, value: Any = None, error: str | None = None) -> None:
        """Note an answer. An error, or a death, has the event delivered again."""
        self.answers.append(Answer(event, value, error))
        retried = error is not None and event.delivered < (1 + RETRIES) * self.copies
        if retried:
            threading.Timer(self.again, self._events.put, (event,)).start()
        else:
            with self._lock:
                self._open -= 1

    def process(self, port: int) -> subprocess.Popen[bytes]:
        """A new process of the function."""
        environment = {
            **os.environ,
            **self._environment,
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}",
            "AWS_LAMBDA_FUNCTION_NAME": NAME,
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_LAMBDA": self.endpoint,
        }
        command = [
            sys.executable,
            "-m",
            "awslambdaric",
            self._environment.get("TESTS_HANDLER", "function.main"),
        ]
        with self._log.open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=self._folder)

    def _handle_invoke(self, request: _Request) -> None:
        if request.path != INVOKE or request.headers["X-Amz-Invocation-Type"] != "Event":
            return request.reply(404, {"Message": request.path})
        self.fire(json.loads(request.body()))
        return request.reply(202, None)


class _Instance:
    """One execution environment: a Runtime API of its own, and one process at a time."""

    def __init__(self, platform: LambdaPlatform) -> None:
        self.deaths = 0
        self._platform = platform
        self._server = _serve(self._handle)
        self._event: Event | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._watch = threading.Thread(target=self._keep_running, daemon=True)

    def start(self) -> None:
        self._process = self._platform.process(self._server.server_port)
        self._watch.start()

    def stop(self) -> None:
        self._stopped = True
        self._watch.join()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._server.shutdown()
        self._server.server_close()

    def _keep_running(self) -> None:
        """Start the next process when one has died."""
        while not self._stopped:
            assert self._process is not None
            if self._process.poll() is not None:
                self.deaths += 1
                event, self._event = self._event, None
                if event is not None:
                    self._platform.answer(event, error="Runtime.ExitError")
                self._process = self._platform.process(self._server.server_port)
            time.sleep(0.02)

    def _handle(self, request: _Request) -> None:
        if request.path == f"{RUNTIME}/invocation/next":
            return self._next(request)
        kind = request.path.rpartition("/")[2]
        body = json.loads(request.body() or b"null")
        event, self._event = self._event, None
        if event is not None:
            error = body["errorType"] if kind == "error" else None
            self._platform.answer(event, None if error else body, error)
        return request.reply(202, {"status": "OK"})

    def _next(self, request: _Request) -> None:
        process = self._process
        event = self._platform.take(lambda: self._stopped or process is None or process.poll() is not None)
        if event is None:
            return request.reply(500, {})
        self._event = event
        headers = {
            "Lambda-Runtime-Aws-Request-Id": event.request_id,
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + self._platform.seconds) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": f"arn:aws:lambda:us-east-1:1:function:{NAME}",
        }
        return request.reply(200, event.payload, headers)


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.server.answer(self)  # type: ignore[attr-defined]

    do_POST = do_GET

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def reply(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: the platform notes what matters."""


def _serve(answer: Callable[[_Request], None]) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Request)
    server.daemon_threads = True
    server.answer = answer  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


@contextmanager
def running(platform: LambdaPlatform) -> Iterator[LambdaPlatform]:
    """A platform whose functions run while the context is open."""
    platform.start()
    try:
        yield platform
    finally:
        platform.stop()
