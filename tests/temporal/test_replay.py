"""Histories of earlier versions replay: a run that goes on over a deploy is not lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner
from temporalio.workflow import NondeterminismError

from thoughtgear import ThoughtgearPlugin
from thoughtgear.workflows.run import RunWorkflow

FILES = sorted((Path(__file__).parent / "histories").glob("*.json"))


def read(file: Path, text: str | None = None) -> WorkflowHistory:
    events = json.loads(text or file.read_text())
    started = events["events"][0]["workflowExecutionStartedEventAttributes"]
    return WorkflowHistory.from_json(started["workflowId"], events)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
async def test_recorded_histories_replay(file: Path) -> None:
    """Every recorded history replays, in the SDK's sandbox and without it."""
    await Replayer(workflows=[RunWorkflow]).replay_workflow(read(file))
    bare = Replayer(workflows=[RunWorkflow], workflow_runner=UnsandboxedWorkflowRunner())
    await bare.replay_workflow(read(file))


def test_all_kinds_are_recorded() -> None:
    """There are histories of all kinds of runs, from plain ones to those that continue as new."""
    kinds = {file.stem.rpartition("_")[0] for file in FILES}
    assert kinds == {"plain", "by_value", "cancelled", "waited", "paced", "continued", "retried"}
    assert all(sum(file.stem.startswith(kind) for file in FILES) > 1 for kind in ("continued", "retried"))


async def test_replay_notices_a_change() -> None:
    """A history that the workflow would not make is refused: the replay tests can fail."""
    file = next(file for file in FILES if file.stem == "plain_0")
    changed = file.read_text().replace("thoughtgear.run_iteration", "thoughtgear.run_something")
    with pytest.raises(NondeterminismError):
        await Replayer(workflows=[RunWorkflow]).replay_workflow(read(file, changed))


async def test_the_plugin_knows_what_to_replay() -> None:
    """A replayer with the plugin alone replays our histories."""
    file = next(file for file in FILES if file.stem == "plain_0")
    await Replayer(workflows=[], plugins=[ThoughtgearPlugin([])]).replay_workflow(read(file))
