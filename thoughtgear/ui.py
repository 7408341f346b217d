"""Links into Temporal's web interface."""

from __future__ import annotations

import os
from urllib.parse import quote

from temporalio.client import Client

from thoughtgear.devserver import listens

UI_PORTS_ABOVE = 1000
"""A development server serves its interface this many ports above its own."""

CLOUD = "https://cloud.temporal.io"


def workflow_link(base: str, namespace: str, workflow_id: str) -> str:
    """Return the address of a workflow's page under `base`; of its newest execution."""
    return (
        f"{base.rstrip('/')}/namespaces/{quote(namespace, safe='')}/workflows/{quote(workflow_id, safe='')}"
    )


def find_ui(client: Client) -> str | None:
    """Return where the web interface of this client's server is, as far as it can be known.

    `THOUGHTGEAR_UI` says it; Temporal Cloud has one; on this machine it is looked for beside the server.
    """
    given = os.environ.get("THOUGHTGEAR_UI")
    if given:
        return given
    host, _, port = client.service_client.config.target_host.rpartition(":")
    if host.endswith((".tmprl.cloud", ".temporal.io")):
        return CLOUD
    if host in ("localhost", "127.0.0.1") and port.isdigit() and listens(int(port) + UI_PORTS_ABOVE):
        return f"http://{host}:{int(port) + UI_PORTS_ABOVE}"
    return None
