"""A real S3 server that persists to disk, SeaweedFS, from the binary of a Python package."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from pathlib import Path
from urllib.parse import quote

import boto3
import httpx
from botocore.config import Config

ACCESS_KEY = "tests"
SECRET_KEY = "se/cr+et:k@y"
BUCKET = "thoughtgear"
_PORTS = ("master", "volume", "filer", "s3", "admin")


class S3Server:
    """One server on free ports of 127.0.0.1, with a data folder that outlives a kill."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        names = [f"{name}.port{kind}" for name in _PORTS for kind in ("", ".grpc")]
        self._ports = dict(zip(names, _free_ports(len(names)), strict=True))
        self.endpoint = f"http://127.0.0.1:{self._ports['s3.port']}"

    def url(self, place: Path, **options: object) -> str:
        """The store of this place: a prefix of its own."""
        options = {"endpoint": self.endpoint, "region": "us-east-1", **options}
        query = "&".join(f"{name}={value}" for name, value in options.items())
        login = f"{ACCESS_KEY}:{quote(SECRET_KEY, safe='')}"
        return f"s3://{login}@{BUCKET}/tests/{place.parent.name}/{place.name}?{query}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def client(self):
        """A client of the tests' own, to see and to break what is there."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def start(self) -> None:
        """Start the server, wait until it lets clients write, and make the bucket."""
        log = (self._folder / "log").open("ab")
        options = {
            "dir": self._folder,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.telemetry": "false",
            "master.electionTimeout": "1s",  # of the only one: after a kill it may wait several
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "webdav": "false",
            "admin.ui": "false",
            "s3.localSocket": self._folder / "s.sock",
            **self._ports,
        }
        weed = Path(sysconfig.get_path("scripts")) / "weed"
        command = [str(weed), "mini", *(f"-{name}={value}" for name, value in options.items())]
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        self._process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **keys}, cwd=self._folder
        )
        log.close()
        self._wait()

    def _wait(self) -> None:
        assert self._process is not None
        until = time.monotonic() + 60
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self._folder / "log").read_text()[-5000:])
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            if httpx.get(f"{self.endpoint}/healthz", timeout=1).status_code != 200:
                return False
            client = self.client()
            names = [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
            if BUCKET not in names:
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"x" * 100_000)
        except Exception:
            return False
        return True

    def kill(self) -> None:
        """Kill the server by SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop the server and remove what it stored."""
        self._end(signal.SIGKILL)
        shutil.rmtree(self._folder)

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(30)


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for each in held:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in held]
    for each in held:
        each.close()
    return ports
