"""What a Lambda function takes, what it refuses, and what its executor fires."""

from __future__ import annotations

import base64
import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from called_function import Function

from thoughtgear import LambdaExecutor, Limits, LocalExecutor, PromptHandler, make_lambda_handler
from thoughtgear.errors import (
    ConfigurationError,
    ExecutorUnavailableError,
    InvalidInputError,
    LimitExceededError,
    RequestConflictError,
)

SECRET = "sk-secret-7"


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        "start",
        {},
        {"action": SECRET},
        {"action": ["start"]},
        {"action": "start"},
        {"action": "start", "text": 5},
        {"action": "start", "text": "  "},
        {"action": "start", "text": "\ud800"},
        {"action": "start", "text": "go", "more": SECRET},
        {"action": "start", "text": "go", "request_id": "r"},
        {"action": "start", "text": "go", "files": ["/etc/passwd"]},
        {"action": "start", "text": "go", "files": [{"name": "a", "data": "no base64!"}]},
        {"action": "start", "text": "go", "files": [{"name": "a", "data": "é"}]},
        {"action": "start", "text": "go", "files": [{"name": "a", "path": "/etc/passwd"}]},
        {"action": "start", "text": "go", "files": [{"name": "a\n", "data": ""}]},
        {"action": "start", "text": "go", "sessionId": ""},
        {"action": "start", "text": "go", "metadata": []},
        {"action": "start", "text": "go", "stream": "yes"},
        {"action": "continue"},
        {"action": "continue", "runId": 7},
        {"action": "continue", "runId": "../etc"},
        {"action": "continue", "runId": "r", "epoch": -1},
        {"action": "continue", "runId": "r", "epoch": True},
        {"action": "continue", "runId": "r", "epoch": "1"},
        {"action": "continue", "runId": "r", "notBefore": float("nan")},
        {"action": "continue", "runId": "r", "text": SECRET},
    ],
    ids=str,
)
def test_a_mistake_in_an_event_is_told(function: Function, event: Any) -> None:
    """A malformed event raises `InvalidInputError` that repeats none of its values, and nothing is stored."""
    function.make("hi")
    with pytest.raises(InvalidInputError) as caught:
        function(event)
    assert SECRET not in str(caught.value)
    assert not function.fired
    assert not function.ask(lambda store: store.list_runs()).runs


@pytest.mark.parametrize(
    "fields",
    [
        {"text": "x" * 101},
        {"files": [{"name": "a", "data": base64.b64encode(b"x" * 11).decode()}]},
        {"files": [{"name": "a", "data": ""}] * 3},
        {"metadata": {"a": "x" * 200}},
    ],
    ids=["text", "file", "files", "metadata"],
)
def test_what_is_too_large_is_refused(function: Function, fields: dict[str, Any]) -> None:
    """Each size of a prompt that came as an event is bounded by the handler's limits."""
    function.make("hi", limits=Limits(prompt_bytes=100, file_bytes=10, files=2, metadata_bytes=100))
    with pytest.raises(LimitExceededError):
        function({"action": "start", "text": "go", **fields})
    assert not function.ask(lambda store: store.list_runs()).runs


def test_all_of_a_prompt_arrives(function: Function) -> None:
    """Text, files, session, user, metadata and stream of an event are those of the run."""
    function.make("hi")
    file = {"name": "a.txt", "data": base64.b64encode(b"\x00abc").decode(), "mediaType": "text/plain"}
    run_id = function.start("look", files=[file], sessionId="s", userId="u", metadata={"k": 1}, stream=True)
    state = function.run(run_id)
    assert (state.session_id, state.user_id, state.metadata, state.stream) == ("s", "u", {"k": 1}, True)
    function.drain()
    [attachment] = function.history(run_id)[0].attachments
    assert (attachment.name, attachment.media_type) == ("a.txt", "text/plain")
    assert function.asked[0].files[attachment.sha256] == b"\x00abc"


def test_a_prompt_that_comes_twice_is_one_run(function: Function) -> None:
    """The same delivery of a prompt, and the same request id in another one, begin one run once; another text
    under it is refused."""
    function.make("hi", "no")
    event = {"action": "start", "text": "go"}
    assert function(event, name="a")["runId"] == function(event, name="a")["runId"]
    function.drain()
    assert function(event, name="a")["status"] == "done"
    named = {**event, "requestId": "r"}
    assert function(named)["runId"] == function(named)["runId"]
    with pytest.raises(RequestConflictError):
        function({**named, "text": "another"})
    assert len(function.ask(lambda store: store.list_runs()).runs) == 2
    assert len(function.asked) == 1


def test_a_prompt_whose_event_was_not_fired_is_durable(function: Function) -> None:
    """Where no event can be fired the prompt is stored; Lambda's next delivery of it begins the run."""
    function.make("hi")
    function.broken = True
    event = {"action": "start", "text": "go"}
    with pytest.raises(ExecutorUnavailableError):
        function(event, name="a")
    function.broken = False
    run_id = function(event, name="a")["runId"]
    function.drain()
    assert function.run(run_id).output == "hi"


def test_an_executor_that_fires_nothing_is_refused(tmp_path: Path) -> None:
    """A function of a handler that drives runs in its own process is refused when it is made."""
    handler = PromptHandler(model="scripted:echo", db=f"sqlite:///{tmp_path}/a.db", executor=LocalExecutor())
    with pytest.raises(ConfigurationError, match="LambdaExecutor"):
        make_lambda_handler(handler)


def test_a_store_that_no_function_reaches(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A store in one process's memory is refused with what to use instead; one on one host is warned of."""
    with pytest.raises(ConfigurationError, match="sqlite:///"):
        PromptHandler(model="scripted:echo", db="memory://", executor=LambdaExecutor(print))
    with caplog.at_level(logging.WARNING, "thoughtgear"):
        PromptHandler(model="scripted:echo", db=f"files:///{tmp_path}/a", executor=LambdaExecutor(print))
    assert "Over several hosts use PostgreSQL, MongoDB or S3" in caplog.text


@pytest.mark.parametrize("wrong", [None, 5, "name"])
def test_an_executor_needs_a_function(wrong: Any) -> None:
    """What can't be called is refused."""
    with pytest.raises(ConfigurationError):
        LambdaExecutor(wrong)


@pytest.mark.parametrize("wrong", [None, "", " "])
def test_an_executor_needs_a_name(wrong: Any) -> None:
    """A function of AWS without a name is refused."""
    with pytest.raises(ConfigurationError):
        LambdaExecutor.from_boto3(wrong, region_name="us-east-1")


def test_a_region_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where AWS's settings have no region the error says so, and not a stack trace of boto3."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(ConfigurationError, match="region"):
        LambdaExecutor.from_boto3("agent")


def test_an_executor_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`executor="lambda"` fires at the function that the environment names, and asks for it where none is."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    db = f"sqlite:///{tmp_path}/a.db"
    for name in ("THOUGHTGEAR_LAMBDA_FUNCTION", "AWS_LAMBDA_FUNCTION_NAME"):
        monkeypatch.delenv("THOUGHTGEAR_LAMBDA_FUNCTION", raising=False)
        with pytest.raises(ConfigurationError, match="THOUGHTGEAR_LAMBDA_FUNCTION"):
            PromptHandler(model="scripted:echo", db=db, executor="lambda")
        monkeypatch.setenv(name, "agent")
        handler = PromptHandler(model="scripted:echo", db=db, executor="lambda")
        assert handler.executor.name == "lambda"
        monkeypatch.delenv(name)


async def test_aws_that_is_away_is_told(tmp_path: Path) -> None:
    """Where AWS can't be reached, the prompt is stored and the error names its run."""
    executor = LambdaExecutor.from_boto3(
        "agent",
        endpoint_url="http://127.0.0.1:1",
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key=SECRET,
    )
    async with PromptHandler(
        model="scripted:echo", db=f"sqlite:///{tmp_path}/a.db", executor=executor
    ) as handler:
        with pytest.raises(ExecutorUnavailableError, match="can't be reached") as caught:
            await handler.handle_prompt("go")
        assert caught.value.run_id
        assert (await handler.get_run(caught.value.run_id)).status == "pending"
        assert SECRET not in str(caught.value)


class _Aws:
    """A client of AWS that notes what it is asked."""

    def __init__(self, status: int = 202) -> None:
        self.asked: list[dict[str, Any]] = []
        self._status = status

    def invoke(self, **asked: Any) -> dict[str, Any]:
        self.asked.append(asked)
        return {"StatusCode": self._status, "Payload": io.BytesIO()}


async def test_what_aws_is_asked(tmp_path: Path) -> None:
    """An event is an asynchronous invocation with ids alone; any other status than 202 is an error."""
    aws = _Aws()
    db = f"sqlite:///{tmp_path}/a.db"
    executor = LambdaExecutor.from_boto3("agent", client=aws)
    async with PromptHandler(model="scripted:echo", db=db, executor=executor) as handler:
        run = await handler.handle_prompt("a canary")
    [asked] = aws.asked
    assert (asked["FunctionName"], asked["InvocationType"]) == ("agent", "Event")
    assert json.loads(asked["Payload"]) == {"action": "continue", "runId": run.run_id, "epoch": 0}
    broken = LambdaExecutor.from_boto3("agent", client=_Aws(200))
    async with PromptHandler(model="scripted:echo", db=db, executor=broken) as handler:
        with pytest.raises(ExecutorUnavailableError):
            await handler.continue_run(run.run_id)
