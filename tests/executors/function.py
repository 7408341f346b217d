"""The function of the tests, as AWS's runtime client imports it: `function.main`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from proofs.agent import Agent, ledger_of
from proofs.faults import Fault

from thoughtgear import LambdaExecutor, logs, make_lambda_handler
from thoughtgear.registry import open_store

logs.configure(level="DEBUG")


def _agent() -> Agent:
    """The agent of the proofs. Its fault strikes one process: the first that gets there."""
    ledger = ledger_of(Path(os.environ["TESTS_FOLDER"]))
    given = os.environ.get("TESTS_FAULT")
    if given is None:
        return Agent(ledger)
    fault = Fault(*json.loads(given))
    strike = fault.at(ledger)

    async def at(point: str, iteration: int) -> None:
        if (point, iteration) == (fault.point, fault.iteration) and not ledger.notes("fault"):
            await strike(point, iteration)

    return Agent(ledger, at)


executor = LambdaExecutor.from_boto3(
    os.environ["AWS_LAMBDA_FUNCTION_NAME"],
    claim_seconds=float(os.environ.get("TESTS_CLAIM_SECONDS", "30")),
)
handler = _agent().handler(open_store(os.environ["THOUGHTGEAR_DB"]), executor)
main = make_lambda_handler(handler)
