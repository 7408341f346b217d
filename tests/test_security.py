"""What SECURITY.md says of the package as a whole, and that the tests which the docs name are there."""

from __future__ import annotations

import ast
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from thoughtgear import PromptHandler
from thoughtgear.adapters.memory import MemoryAdapter
from thoughtgear.errors import InvalidInputError
from thoughtgear.providers.scripted import ScriptedProvider

ROOT = Path(__file__).parents[1]
RUNS_CODE = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "yaml"}
NAMED = re.compile(r"`(tests/[\w/]+\.py(?:::\w+)+)")


def names_in(tree: ast.AST) -> set[str]:
    """The modules that are imported, and the functions that are called by a plain name."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.add(f"{node.func.id}()")
    return found


@pytest.mark.parametrize("file", sorted((ROOT / "thoughtgear").rglob("*.py")), ids=lambda file: file.stem)
def test_nothing_stored_or_sent_is_run(file: Path) -> None:
    """No part of the package can turn data into code: no pickle and its like, no eval."""
    found = names_in(ast.parse(file.read_text(encoding="utf-8")))
    assert not found & (RUNS_CODE | {"eval()", "exec()", "compile()"})


async def test_a_url_is_no_file_and_is_not_fetched() -> None:
    """A URL in the place of a file is refused, one in a prompt is text, and neither is asked for."""
    asked: list[str] = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    server = HTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/latest/meta-data"
    agent = PromptHandler(orm=MemoryAdapter(), model=ScriptedProvider(replies=["Yes."]))
    try:
        with pytest.raises(InvalidInputError):
            await agent.create_run("Look.", files=[url])
        assert (await agent.handle_prompt(f"Read {url}")).status == "done"
    finally:
        await agent.aclose()
        server.shutdown()
        thread.join()
        server.server_close()
    assert asked == []


def named_tests() -> list[str]:
    files = (ROOT / "SECURITY.md", ROOT / "docs/reliability.md")
    return sorted({test for file in files for test in NAMED.findall(file.read_text(encoding="utf-8"))})


def test_the_docs_name_tests() -> None:
    """SECURITY.md and docs/reliability.md name tests at all, as path::name."""
    assert len(named_tests()) > 40


@pytest.mark.parametrize("test", named_tests())
def test_each_test_that_the_docs_name_is_there(test: str) -> None:
    """A test that SECURITY.md or docs/reliability.md names exists; a clause of the conformance suite counts
    in each class that takes it over."""
    path, *parts = test.split("::")
    source = (ROOT / path).read_text(encoding="utf-8")
    for name in parts[:-1]:
        assert re.search(rf"^class {name}\b", source, re.MULTILINE)
        source += "".join(
            file.read_text(encoding="utf-8") for file in (ROOT / "thoughtgear/testing").glob("*.py")
        )
    assert re.search(rf"def {parts[-1]}\(", source)
