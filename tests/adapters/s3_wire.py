"""What goes over the wire between a store and its S3 server: counted, held up, lost, cut off."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn
from urllib.parse import urlsplit

from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectionClosedError
from botocore.httpsession import URLLib3Session

from thoughtgear.adapters.s3 import S3Adapter


class Died(BaseException):
    """The process ends here."""


class Wire:
    """Sees every request of a store, each try of it, before it is sent. `step(operation, key)` may raise, or
    return a response, or `Wire.send` the request first."""

    def __init__(self, store: S3Adapter) -> None:
        self.requests: list[tuple[str, str]] = []
        self.sent = 0
        self.received = 0
        self.expecting = False
        self.step: Callable[[str, str], Any] | None = None
        self._prefix = f"/{store._settings.bucket}/{store._settings.prefix}"
        self._lock = threading.Lock()
        self._client = store._bucket._client()
        self._client.meta.events.register("before-send.s3", self._seen)
        self._client.meta.events.register("after-call.s3", self._answered)
        self._http = URLLib3Session()
        self._now = threading.local()

    @property
    def counted(self) -> Counter[str]:
        return Counter(operation for operation, _ in self.requests)

    def reset(self) -> None:
        self.requests, self.sent, self.received = [], 0, 0

    def send(self) -> AWSResponse:
        """Send the request that is before `step`, and return the answer."""
        return self._http.send(self._now.request)

    def send_part(self, size: int) -> NoReturn:
        """Send the request that is before `step` up to so many bytes of its body, as who is killed then."""
        request = self._now.request
        address = urlsplit(request.url)
        headers = {"Host": address.netloc, **request.headers}
        lines = [f"{request.method} {address.path} HTTP/1.1"]
        lines += [f"{name}: {as_text(value)}" for name, value in headers.items()]
        with socket.create_connection((address.hostname, address.port), 10) as cut:
            cut.sendall("\r\n".join([*lines, "", ""]).encode() + request.body.getvalue()[:size])
            cut.shutdown(socket.SHUT_WR)
            cut.recv(1)  # the server has done with it
        raise Died

    def lose(self) -> None:
        """Send the request that is before `step`, and lose the answer."""
        self.send()
        self.cut()

    def cut(self) -> NoReturn:
        """Close the connection of the request that is before `step`."""
        raise ConnectionClosedError(endpoint_url="the test's")

    def answer(self, status: int, code: str) -> AWSResponse:
        """Return an answer that the server did not give."""
        body = f"<Error><Code>{code}</Code><Message>by the test</Message></Error>".encode()
        return AWSResponse(self._now.request.url, status, {"content-type": "application/xml"}, Body(body))

    def _seen(self, request: Any, event_name: str, **_: Any) -> Any:
        operation = event_name.rpartition(".")[2]
        key = request.url.partition("?")[0].partition(self._prefix)[2].replace("%3D", "=").replace("%2B", "+")
        with self._lock:
            self.requests.append((operation, key))
            self.expecting |= "Expect" in request.headers
            self.sent += int(request.headers.get("Content-Length", 0))
        self._now.request = request
        return self.step(operation, key) if self.step else None

    def _answered(self, http_response: Any, **_: Any) -> None:
        with self._lock:
            self.received += int(http_response.headers.get("content-length", 0))


def as_text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


class Body:
    """The raw side of a response."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def stream(self, **_: Any) -> Any:
        yield self._data
