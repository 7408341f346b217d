"""A real S3 server that persists to disk, SeaweedFS, from the binary of a Python package."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import httpx
from botocore.config import Config
from server_process import Server, free_ports, query_of

ACCESS_KEY = "tests"
SECRET_KEY = "se/cr+et:k@y"
BUCKET = "thoughtgear"
_PORTS = ("master", "volume", "filer", "s3", "admin")


class S3Server(Server):
    """SeaweedFS, with all that it is made of in one process."""

    seconds = 60.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        names = [f"{name}.port{kind}" for name in _PORTS for kind in ("", ".grpc")]
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.endpoint = f"http://127.0.0.1:{self._ports['s3.port']}"

    def url(self, place: Path, **options: object) -> str:
        """The store of this place: a prefix of its own."""
        query = query_of({"endpoint": self.endpoint, "region": "us-east-1", **options})
        login = f"{ACCESS_KEY}:{quote(SECRET_KEY, safe='')}"
        return f"s3://{login}@{BUCKET}/tests/{place.parent.name}/{place.name}?{query}"

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

    def command(self) -> list[str]:
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
        return [str(weed), "mini", *(f"-{name}={value}" for name, value in options.items())]

    def options(self) -> dict[str, Any]:
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        return {"env": {**os.environ, **keys}, "cwd": self._folder}

    def ready(self) -> bool:
        """Whether it lets clients write. Makes the bucket."""
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

    def stop(self) -> None:
        """Stop the server and remove what it stored."""
        self.kill()
        shutil.rmtree(self._folder)
