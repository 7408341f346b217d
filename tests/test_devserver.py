"""The embedded Temporal server, as a real process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client

from thoughtgear import devserver
from thoughtgear.devserver import SEARCH_ATTRIBUTES, DevServer
from thoughtgear.errors import ConfigurationError

PARENT = """
import asyncio, sys
from thoughtgear.devserver import DevServer

async def main():
    server = DevServer(ui=False, log=sys.argv[1])
    await server.start()
    print(server.pid, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


def command_of(pid: int) -> str:
    """What runs under `pid`; empty when nothing does."""
    shown = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True)
    return "" if "<defunct>" in shown.stdout else shown.stdout.strip()


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(20):
        while command_of(pid):
            await asyncio.sleep(0.02)


async def start_workflow(address: str, workflow_id: str) -> None:
    client = await Client.connect(address)
    await client.start_workflow("Any", id=workflow_id, task_queue="nobody")


async def test_a_started_server_answers_and_a_stopped_one_is_gone():
    """Inside of the context manager a client connects; after it neither process nor log is left."""
    async with DevServer(ui=False) as server:
        pid = server.pid
        assert pid is not None
        await Client.connect(server.address)
        assert server.ui_url is None
    assert command_of(pid) == ""
    assert server.pid is None
    assert not server.log.exists()


async def test_the_search_attributes_of_a_run_are_registered():
    """The server knows all four search attributes, as keywords."""
    async with DevServer(ui=False) as server:
        client = await Client.connect(server.address)
        request = ListSearchAttributesRequest(namespace="default")
        known = (await client.operator_service.list_search_attributes(request)).custom_attributes
    assert set(SEARCH_ATTRIBUTES) == {f"Thoughtgear{x}" for x in ("Status", "Handler", "Model", "Session")}
    assert {known[name] for name in SEARCH_ATTRIBUTES} == {IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD}


async def test_the_ui_is_served_where_ui_url_says():
    """The address of the web interface gives its page as soon as the server has started."""
    async with DevServer() as server:
        host, _, port = (server.ui_url or "").removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        page = await reader.read()
        writer.close()
    assert b" 200 " in page.splitlines()[0]
    assert b"text/html" in page


async def test_a_killed_server_starts_again_on_its_file_and_address(tmp_path: Path):
    """After SIGKILL, the same file on the same port still holds the workflow that was started before."""
    async with DevServer(db=tmp_path / "state" / "temporal.db", ui=False) as server:
        before, pid = server.address, server.pid
        await start_workflow(before, "kept")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            while server.pid is not None:
                await asyncio.sleep(0.02)
        await server.start()
        assert server.address == before
        client = await Client.connect(server.address)
        assert (await client.get_workflow_handle("kept").describe()).id == "kept"


async def test_a_second_server_on_one_file_is_refused(tmp_path: Path):
    """While a server uses a file, another server of the same file is an error that names the file."""
    async with DevServer(db=tmp_path / "temporal.db", ui=False):
        with pytest.raises(ConfigurationError, match=r"Another Temporal server uses .*temporal\.db"):
            await DevServer(db=tmp_path / "temporal.db", ui=False).start()


@pytest.mark.parametrize("which", ["port", "ui_port"])
async def test_a_port_in_use_is_named(which: str):
    """A given port that someone listens on is an error that names the port, at once."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"Port {port} can't be used"):
            await DevServer(**{which: port}).start()


async def test_a_server_that_panics_over_a_port_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Where the server loses a port of its own between choosing it and its use, and panics, another one is
    started."""
    binary, script = devserver.find_server(), tmp_path / "temporal"
    stack = "\n".join(f"goroutine {number}: somewhere.go" for number in range(40))
    script.write_text(
        "#!/bin/sh\n"
        f"if mkdir {tmp_path}/once 2>/dev/null; then\n"
        f"printf '%s\\n' 'panic: listen tcp 127.0.0.1:7: bind: address already in use' '{stack}'; exit 2\n"
        "fi\n"
        f'exec {binary} "$@"\n'
    )
    script.chmod(0o700)
    monkeypatch.setattr(devserver, "find_server", lambda: script)
    async with DevServer(ui=False, log=tmp_path / "log") as server:
        assert server.pid is not None
    assert (tmp_path / "once").is_dir()


async def test_a_chosen_port_that_is_taken_meanwhile_is_chosen_again(monkeypatch: pytest.MonkeyPatch):
    """When another process takes the port between its choice and its use, the server starts on another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        stolen, choose = [taken.getsockname()[1]], devserver._free_port
        monkeypatch.setattr(devserver, "_free_port", lambda: stolen.pop() if stolen else choose())
        async with DevServer(ui=False) as server:
            assert server.port != taken.getsockname()[1]
            await Client.connect(server.address)


async def test_a_server_that_ends_at_its_start_shows_why(tmp_path: Path):
    """The error of a server that can't start holds the end of the server's own output."""
    server = DevServer(ui=False, search_attributes={"Wrong": "NoSuchType"}, log=tmp_path / "log")
    with pytest.raises(ConfigurationError, match=r"ended at its start: .*NoSuchType.*"):
        await server.start()
    assert server.pid is None


async def test_a_server_dies_with_a_parent_that_was_killed(tmp_path: Path):
    """SIGKILL of the process that started a server ends the server, too."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path / "log")], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert "start-dev" in command_of(pid)
    parent.kill()
    parent.communicate()
    await until_gone(pid)


async def test_the_callers_temporal_settings_do_not_reach_the_server(monkeypatch: pytest.MonkeyPatch):
    """A profile of the environment that doesn't exist is of no concern to the embedded server."""
    monkeypatch.setenv("TEMPORAL_PROFILE", "no-such-profile")
    monkeypatch.setenv("TEMPORAL_API_KEY", "a-secret")
    assert "TEMPORAL_API_KEY" not in devserver._environment()
    async with DevServer(ui=False) as server:
        assert server.pid is not None


def test_a_missing_server_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    """Without a binary, the error says which extra to install."""
    monkeypatch.setattr(devserver, "_packaged", lambda: None)
    monkeypatch.setattr(devserver, "_search_path", lambda: "/nowhere")
    with pytest.raises(ConfigurationError, match=r"thoughtgear\[server\]"):
        devserver.find_server()
