"""`run`, `runs`, `show`, `wait` and `cancel` where the run goes on in the command's own process."""

from __future__ import annotations

import json
import shlex
import signal

from terminal import Terminal

from thoughtgear.handler import PromptHandler


async def test_the_answer_goes_to_stdout_and_the_rest_to_stderr(terminal: Terminal):
    """`run` prints what the model says on stdout, and tools and the closing line on stderr."""
    ended = await terminal.type("run", "-t", "agent:handler", "Say hello")
    assert ended.code == 0
    assert ended.out == "The word is HELLO.\n"
    assert '→ 1.0 shout(word="hello")\n✓ 1.0 HELLO' in ended.err
    assert "done · 2 iterations" in ended.err.splitlines()[-1]


async def test_the_answer_is_shown_while_the_model_speaks(terminal: Terminal):
    """The beginning of a reply is on stdout before the model has ended it, and is not repeated."""
    running = await terminal.start("run", "-t", "agent:slow", "Is it open?")
    await running.until_says("The gate ")
    assert not (terminal.folder / "gate").exists()
    terminal.open_gate()
    assert (await running.ended()).out == "The gate is open.\n"


async def test_runs_and_show_need_the_store_alone(terminal: Terminal):
    """After a run, `runs` lists it and `show` prints its transcript, given nothing but the store."""
    store = {"THOUGHTGEAR_DB": "sqlite:///runs.db"}
    made = json.loads((await terminal.type("run", "-t", "agent:handler", "--json", "Say hello")).out)
    listed = json.loads((await terminal.type("runs", "--json", **store)).out)
    shown = await terminal.type("show", **store)
    assert [run["run_id"] for run in listed["runs"]] == [made["run_id"]]
    assert (made["status"], made["output"], made["iterations"]) == ("done", "The word is HELLO.", 2)
    assert shown.out.splitlines()[:4] == [
        "> Say hello",
        '→ 1.0 shout(word="hello")',
        "✓ 1.0 HELLO  0.0 s",
        "The word is HELLO.",
    ]


async def test_show_has_the_messages_as_json(terminal: Terminal):
    """`show --json` is the run's record with every message of its transcript."""
    await terminal.type("run", "-t", "agent:handler", "-q", "Say hello")
    shown = json.loads((await terminal.type("show", "--db", "sqlite:///runs.db", "--json")).out)
    assert [message["role"] for message in shown["messages"]] == ["user", "assistant", "tool", "assistant"]


async def test_a_failed_run_is_exit_code_1(terminal: Terminal):
    """A run that fails says why on stderr, prints no answer, and exits with 1."""
    ended = await terminal.type("run", "-t", "agent:failing", "Hello")
    assert (ended.code, ended.out) == (1, "")
    assert "failed · " in ended.err
    assert "ModelRejectedError: The script has 0 replies" in ended.err
    assert "Traceback" not in ended.err


async def test_ctrl_c_leaves_a_local_run_in_the_store(terminal: Terminal):
    """Ctrl-C stops a run of this process, says how to go on, and exits with 130; the store has the run."""
    running = await terminal.start("run", "-t", "agent:gated", "Go through")
    await terminal.until_there("waiting")
    running.interrupt()
    stopped = await running.ended()
    run_id = stopped.err.split("--continue ")[1].split()[0]
    shown = json.loads((await terminal.type("show", run_id, "-t", "agent:gated", "--json")).out)
    assert stopped.code == 130
    assert "Traceback" not in stopped.err
    assert (shown["status"], len(shown["messages"])) == ("running", 2)


async def test_sigterm_stops_a_background_job(terminal: Terminal):
    """SIGTERM does what Ctrl-C does, also where a script has started the command with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        running = await terminal.start("run", "-t", "agent:gated", "Go through")
    finally:
        signal.signal(signal.SIGINT, before)
    await terminal.until_there("waiting")
    running.terminate()
    stopped = await running.ended()
    assert stopped.code == 130
    assert "Traceback" not in stopped.err
    assert "--continue " in stopped.err


async def test_a_run_is_continued_by_a_later_command(terminal: Terminal):
    """`run --continue` takes a run that nothing drives to its end; `cancel` and `wait` find it over."""
    run_id = await stored_run(terminal)
    ended = await terminal.type("run", "--continue", run_id, "-t", "agent:handler")
    waited = await terminal.type("wait", run_id, "-t", "agent:handler", "--json")
    cancelled = await terminal.type("cancel", run_id, "-t", "agent:handler")
    assert (ended.code, ended.out) == (0, "The word is HELLO.\n")
    assert (waited.code, json.loads(waited.out)["status"]) == (0, "done")
    assert cancelled.err == f"Run {run_id} is done already.\n"


async def test_a_failed_run_is_retried_by_the_line_that_says_so(terminal: Terminal):
    """A run that failed says how to go on; that line goes on after the calls that are done, and is an error
    once the run is."""
    failed = await terminal.type("run", "-t", "agent:refused", "Let me in")
    words = shlex.split(failed.err.partition("Go on from its last commit with: thoughtgear ")[2])
    again = await terminal.type(*words)
    terminal.open_gate()
    retried = await terminal.type(*words, "--json")
    done = await terminal.type(*words)
    record = json.loads(retried.out)
    assert (failed.code, again.code, retried.code, done.code) == (1, 1, 0, 1)
    assert "ModelRejectedError: The gate is closed." in failed.err
    assert "shout" in failed.err
    assert "shout" not in again.err
    assert (record["status"], record["output"], record["iterations"]) == ("done", "I am in.", 2)
    assert (
        done.err == f"Error: Run {record['run_id']} is done; there is nothing to retry. Send it a message.\n"
    )


async def test_a_run_that_goes_on_is_not_retried(terminal: Terminal):
    """`retry` of a run that was not over says so, and takes it to its end; without a target it says what it
    needs, as `run --continue` does, and answers nothing."""
    run_id = await stored_run(terminal)
    for words in (("retry", run_id), ("run", "--continue", run_id)):
        refused = await terminal.type(*words, "--db", "sqlite:///runs.db")
        assert (refused.code, refused.out) == (1, "")
        assert "Error: No target: a run goes on here with its handler's model and tools" in refused.err
    ended = await terminal.type("retry", run_id, "-t", "agent:handler")
    assert (ended.code, ended.out) == (0, "The word is HELLO.\n")
    assert f"Run {run_id} is pending already." in ended.err


async def test_cancel_ends_a_run_that_nobody_drives(terminal: Terminal):
    """A run that waits in the store is cancelled at once, with the store alone; `wait` then exits with 1."""
    run_id = await stored_run(terminal)
    cancelled = await terminal.type("cancel", run_id, "--db", "sqlite:///runs.db", "--json")
    waited = await terminal.type("wait", run_id, "--db", "sqlite:///runs.db")
    assert (cancelled.code, json.loads(cancelled.out)["status"]) == (0, "cancelled")
    assert waited.code == 1


async def test_a_request_that_was_answered_is_answered_once_more(terminal: Terminal):
    """`run --request` of a run that is over prints its answer once and calls nothing again."""
    words = ("run", "-t", "agent:handler", "--request", "q1", "Say hello")
    first, second = await terminal.type(*words), await terminal.type(*words)
    assert (first.code, second.code) == (0, 0)
    assert first.out == second.out == "The word is HELLO.\n"
    assert "shout" not in second.err


async def test_more_runs_are_shown_by_the_line_that_says_so(terminal: Terminal):
    """Where `runs` has more, its line with store, filters and limit shows the next page."""
    made = [await stored_run(terminal) for _ in range(3)]
    listed = await terminal.type(
        "runs", "--status", "pending", "--handler", "default", "-n", "2", "--db", "sqlite:///runs.db"
    )
    words = shlex.split(listed.err.partition("More: thoughtgear ")[2])
    following = json.loads((await terminal.type(*words, "--json")).out)
    assert [run["run_id"] for run in following["runs"]] == made[:1]
    assert {"--status", "--handler", "--limit"} <= set(words)


async def stored_run(terminal: Terminal) -> str:
    """A run that is in the store and was never scheduled."""
    store = f"sqlite:///{terminal.folder / 'runs.db'}"
    async with PromptHandler(model="scripted:echo", db=store) as handler:
        return (await handler.create_run("Say hello")).run_id


async def test_a_person_settles_a_call_from_the_command_line(terminal: Terminal):
    """A run that waits for a person says which line settles the call; it is right, `show` repeats it, and
    the run that is continued ends with the decision."""
    running = await terminal.start("run", "-t", "agent:unsure", "Pay")
    await running.until_says("Tell it with: ")
    running.interrupt()
    said = (await running.ended()).err
    line = next(line for line in said.splitlines() if line.startswith("Nobody knows how 1.0 pay ended."))
    words = shlex.split(line.partition("Tell it with: ")[2].partition(" (or")[0])
    assert words[:2] == ["thoughtgear", "settle"]
    shown = await terminal.type("show", "--db", "sqlite:///runs.db")
    assert f"thoughtgear settle {words[2]} 1.0 --done RESULT" in shown.err
    settled = await terminal.type("settle", words[2], "1.0", "--done", "by hand", "--db", "sqlite:///runs.db")
    assert settled.code == 0
    assert f"run --continue {words[2]}" in settled.err
    ended = await terminal.type("run", "-t", "agent:unsure", "--continue", words[2])
    assert ended.out == "All settled.\n"
    assert "✓ 1.0 by hand" in ended.err
