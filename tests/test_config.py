"""Settings, the connection to Temporal, and targets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from thoughtgear.config import Settings, connect, load_target
from thoughtgear.devserver import DevServer, _free_port
from thoughtgear.errors import ConfigurationError

AGENT = """
from thoughtgear import PromptHandler

handler = PromptHandler("one", model="scripted:echo", db="memory://")
both = [handler, PromptHandler("two", model="scripted:echo", db="memory://")]
number = 5

def make():
    return handler

def broken():
    raise ValueError("no luck\\nat all")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the module `some_agent`; what is imported from it is forgotten after."""
    (tmp_path / "some_agent.py").write_text(AGENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if not name.startswith("thoughtgear"):
            del sys.modules[name]


@pytest.fixture
def no_temporal_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ADDRESS", "NAMESPACE", "API_KEY", "PROFILE"):
        monkeypatch.delenv(f"TEMPORAL_{name}", raising=False)
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "temporal.toml"))


def names(target: str) -> list[str]:
    return [handler.name for handler in load_target(target)]


def test_settings_have_defaults():
    """Without any variable, the task queue is `thoughtgear` and the handler chooses store and model."""
    assert Settings.load({}) == Settings(None, None, "thoughtgear", False, "INFO")


def test_the_command_line_wins_over_the_environment():
    """A value that is given wins over its variable; one that is None does not."""
    environ = {"THOUGHTGEAR_MODEL": "a", "THOUGHTGEAR_TASK_QUEUE": "b", "THOUGHTGEAR_LOG_JSON": "true"}
    found = Settings.load(environ, model="c", task_queue=None)
    assert (found.model, found.task_queue, found.log_json) == ("c", "b", True)


@pytest.mark.parametrize("name", ["THOUGHTGEAR_LOG_JSON", "THOUGHTGEAR_LOG_LEVEL"])
def test_a_wrong_value_names_its_variable(name: str):
    """A variable with a value that can't be understood is an error that names both and the choices."""
    with pytest.raises(ConfigurationError, match=rf"{name} is '[Mm][Aa][Yy][Bb][Ee]'; set it to one of: "):
        Settings.load({name: "maybe"})


def test_a_password_of_the_store_is_not_shown():
    """The settings' repr holds nothing of the store's URL."""
    assert "hidden" not in repr(Settings.load({"THOUGHTGEAR_DB": "postgresql://u:hidden@host/x"}))


@pytest.mark.usefixtures("no_temporal_settings")
async def test_connect_follows_environment_profile_and_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An argument wins over the environment, and the environment over the profile."""
    async with DevServer(ui=False) as server:
        profile = f'[profile.work]\naddress = "{server.address}"\nnamespace = "from-profile"\n'
        (tmp_path / "temporal.toml").write_text(profile)
        assert (await connect(profile="work")).namespace == "from-profile"
        monkeypatch.setenv("TEMPORAL_PROFILE", "work")
        monkeypatch.setenv("TEMPORAL_NAMESPACE", "from-environment")
        assert (await connect()).namespace == "from-environment"
        monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
        found = await connect(address=server.address, namespace="given")
        assert (found.namespace, found.service_client.config.target_host) == ("given", server.address)


@pytest.mark.usefixtures("no_temporal_settings")
async def test_no_server_is_an_error_that_says_where_and_what_to_start(monkeypatch: pytest.MonkeyPatch):
    """When nothing answers, the error has the address and the remedy, and neither key nor cause."""
    address = f"127.0.0.1:{_free_port()}"
    monkeypatch.setenv("TEMPORAL_ADDRESS", address)
    monkeypatch.setenv("TEMPORAL_API_KEY", "a-secret")
    with pytest.raises(ConfigurationError, match=rf"{address}; start one with `thoughtgear dev`") as caught:
        await connect()
    assert "a-secret" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.usefixtures("no_temporal_settings")
async def test_an_unknown_profile_is_named(monkeypatch: pytest.MonkeyPatch):
    """A profile that doesn't exist is an error that names it."""
    monkeypatch.setenv("TEMPORAL_PROFILE", "elsewhere")
    with pytest.raises(ConfigurationError, match=r"'elsewhere' not found.*TEMPORAL_PROFILE"):
        await connect()


@pytest.mark.parametrize(
    ("attribute", "expected"), [("handler", ["one"]), ("both", ["one", "two"]), ("make", ["one"])]
)
@pytest.mark.parametrize("where", ["some_agent", "some_agent.py", "./some_agent.py"])
@pytest.mark.usefixtures("folder")
def test_a_target_is_a_handler_a_list_or_a_function(where: str, attribute: str, expected: list[str]):
    """A module of this folder or a file gives the handlers of its attribute, whatever of the three it is."""
    assert names(f"{where}:{attribute}") == expected


def test_a_file_elsewhere_imports_its_neighbours(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A target given by path finds the modules beside it."""
    below = folder / "below"
    below.mkdir()
    (below / "neighbour_of_agent.py").write_text(AGENT)
    (below / "importing_agent.py").write_text("from neighbour_of_agent import handler\n")
    assert names("below/importing_agent.py:handler") == ["one"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("some_agent", "some_agent needs an attribute; its handlers: some_agent:handler"),
        ("some_agent:nothing", "some_agent has no 'nothing'; its handlers: some_agent:handler"),
        ("some_agent.py:nothing", "its handlers: some_agent.py:handler"),
        ("some_agent:number", "some_agent:number gives int; it has to be a PromptHandler"),
        ("some_agent:broken", r"failed with ValueError: no luck \(some_agent.py:12\)"),
        ("no_such_module:handler", "There is no module 'no_such_module' here"),
        ("no_such_file.py:handler", "There is no file no_such_file.py"),
        ("needy:handler", r"needy needs no_such_package, which is not installed \(needy.py:2\)"),
        ("wrong:handler", r"wrong failed with SyntaxError: .*\(wrong.py:1\)"),
        ("bare:handler", "bare has no 'handler', and no PromptHandler either"),
        ("json.py:handler", r"json.py has the name of another module \(json\); rename the file"),
    ],
)
def test_a_wrong_target_says_what_to_do(folder: Path, target: str, message: str):
    """Whatever is wrong with a target is one line that names it and the remedy."""
    (folder / "needy.py").write_text("\nimport no_such_package\n")
    (folder / "wrong.py").write_text("def (\n")
    (folder / "bare.py").write_text("")
    (folder / "json.py").write_text("handler = 1\n")
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_target(target)
    assert "\n" not in str(caught.value)


def test_the_librarys_own_error_passes(folder: Path):
    """A handler that can't be made says so itself, not that the import failed."""
    (folder / "modelless.py").write_text(
        "from thoughtgear import PromptHandler\nh = PromptHandler(model='no')\n"
    )
    with pytest.raises(ConfigurationError, match=r"^'no' is no provider"):
        load_target("modelless:h")
