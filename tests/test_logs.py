"""What the logs promise: they carry the run, and stay one line."""

import json
import logging
from datetime import datetime

import pytest

from thoughtgear.errors import ConfigurationError, StoreError, ToolInputError
from thoughtgear.logs import configure, loggable, run_logger


@pytest.fixture(autouse=True)
def restored():
    """Put the loggers back as they were."""
    root, ours = logging.getLogger(), logging.getLogger("thoughtgear")
    handlers, level = list(root.handlers), ours.level
    yield
    root.handlers[:] = handlers
    ours.setLevel(level)


def lines(capsys):
    found = capsys.readouterr().err.splitlines()
    assert len(found) < 10, found[:3] + found[-3:]
    return found


def test_json_line(capsys):
    """A JSON log line has time, level, logger, message, run_id and iteration."""
    configure(as_json=True)
    run_logger("r1", 3).info("saved %d results", 2)
    line = json.loads(*lines(capsys))
    assert datetime.fromisoformat(line.pop("time")).tzinfo
    assert line == {
        "level": "INFO",
        "logger": "thoughtgear",
        "message": "saved 2 results",
        "run_id": "r1",
        "iteration": 3,
    }


def test_json_exception_shows_no_values(capsys):
    """An exception is one JSON line with type and stack, without the values of local variables."""
    configure(as_json=True)
    secret = "hunter" + "2"
    try:
        secret.index("x")
    except ValueError:
        run_logger("r1").exception("failed")
    (text,) = lines(capsys)
    line = json.loads(text)
    assert line["exc_type"] == "ValueError"
    assert 'secret.index("x")' in line["stack"]
    assert "hunter2" not in text
    assert "iteration" not in line


def test_line_for_people(capsys):
    """The line for people ends in the run and the iteration."""
    configure()
    run_logger("r1", 3).warning("slow")
    (line,) = lines(capsys)
    assert line.endswith("WARNING slow run_id=r1 iteration=3")


@pytest.mark.parametrize("as_json", [True, False])
def test_no_forged_lines(capsys, as_json):
    """A message with line breaks or terminal codes stays one line without them."""
    configure(as_json=as_json)
    run_logger("r1").info("a\nb\x1b[2J")
    (line,) = lines(capsys)
    assert "\x1b" not in line
    assert "a\\nb" in line


def test_extra_is_merged(caplog):
    """What a call gives as extra stands beside the run's id."""
    run_logger("r1", 3).warning("x", extra={"attempt": 2})
    (record,) = caplog.records
    assert (record.run_id, record.iteration, record.attempt) == ("r1", 3, 2)


def test_configure_twice(capsys):
    """Configuring again replaces the format and the level; no line is written twice."""
    configure(as_json=True, level="ERROR")
    configure(level="debug")
    run_logger("r1").debug("once")
    (line,) = lines(capsys)
    assert "once" in line


def test_level_filters_ours_and_others_show_warnings(capsys):
    """Below the level nothing is written; other libraries are heard from WARNING on."""
    configure(level="WARNING")
    run_logger("r1").info("no")
    logging.getLogger("other.library").info("no")
    logging.getLogger("other.library").warning("yes")
    (line,) = lines(capsys)
    assert "yes" in line


def test_unknown_level():
    """A level that does not exist is a clear error."""
    with pytest.raises(ConfigurationError, match="'LOUD' is no log level"):
        configure(level="LOUD")


def failing():
    """An error of ours from a foreign one, and a foreign one beside a tool's, as a worker meets them."""
    try:
        try:
            raise ToolInputError("the argument is " + "secret")
        except ToolInputError:
            raise KeyError("sec" + "ret") from None
    except KeyError as exc:
        raise StoreError("The store is gone.") from exc


@pytest.mark.parametrize(("level", "shown"), [("INFO", False), ("DEBUG", True)])
@pytest.mark.parametrize("as_json", [False, True])
def test_foreign_messages_are_for_debug(capsys, level, shown, as_json):
    """A logged exception has classes and source lines of all its causes, and our own messages; those of
    foreign code are there at DEBUG alone."""
    configure(as_json=as_json, level=level)
    try:
        failing()
    except StoreError as exc:
        run_logger("r1").error("It fails", exc_info=loggable(exc))
    logged = capsys.readouterr().err
    assert ("secret" in logged) is shown
    assert ("(its message shows at DEBUG)" in logged) is not shown
    for word in ("StoreError: The store is gone.", "KeyError", "in failing", "direct cause"):
        assert word in logged


def test_a_circle_of_causes_is_logged():
    """Exceptions that cause each other don't hang the log."""
    one, two = KeyError("secret"), ValueError("secret")
    one.__cause__, two.__cause__ = two, one
    shown = loggable(one)
    assert (type(shown).__name__, type(shown.__cause__).__name__) == ("KeyError", "ValueError")
    assert "secret" not in f"{shown} {shown.__cause__} {shown!r}"
