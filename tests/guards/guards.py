"""The guards of the commit protocol and of the stores, each with the tests that fail where it is missing.

docs/reliability.md shows the same list as a table; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

RUNS = "tests/adapters/test_sql.py::TestSqlite"
FILES = "tests/adapters/test_files.py::TestFiles"
MONGO = "tests/adapters/test_mongodb.py::TestMongo"
S3 = "tests/adapters/test_s3.py::TestS3"


@dataclass(frozen=True)
class Guard:
    """A guard: the text of `file` that is it, what stands there instead when it is taken away, and the tests
    of which each has to fail then."""

    name: str
    file: str
    text: str
    instead: str
    tests: tuple[str, ...]


GUARDS = (
    Guard(
        "version check of a commit (SQL)",
        "adapters/sql_schema.py",
        'runs.run_id == bindparam("id"), runs.version == bindparam("from_version"))',
        'runs.run_id == bindparam("id"), bindparam("from_version", type_=BigInteger()) >= 0)',
        (f"{RUNS}::test_a_higher_epoch_fences_the_holder",),
    ),
    Guard(
        "message count of a commit (SQL)",
        "adapters/sql_schema.py",
        'runs.message_count == bindparam("from_count"))',
        'bindparam("from_count", type_=BigInteger()) >= 0)',
        (f"{RUNS}::test_seqs_have_no_gap_and_no_overlap",),
    ),
    Guard(
        "seq key of the messages (SQL)",
        "adapters/sql_schema.py",
        'Column("seq", BigInteger, primary_key=True, autoincrement=False),',
        'Column("seq", BigInteger, primary_key=False), Column("row", String, primary_key=True, default="x"),',
        ("tests/guards/test_seq_key.py::test_a_seq_is_stored_once",),
    ),
    Guard(
        "tombstone (SQL)",
        "adapters/sql.py",
        "if deleted_until is None or deleted_until > time.time():",
        "if deleted_until is None:",
        (f"{RUNS}::test_a_tombstone_keeps_late_writers_out",),
    ),
    Guard(
        "tag of a document (SQL)",
        "adapters/sql.py",
        "same = and_(table.c.key == key, table.c.tag == tag)",
        "same = and_(table.c.key == key)",
        (f"{RUNS}::test_a_stale_tag_is_refused",),
    ),
    Guard(
        "create-once link (files)",
        "adapters/disk.py",
        "os.link(temporary, path, follow_symlinks=False)",
        "os.replace(temporary, path); temporary.touch()",
        (f"{FILES}::test_each_version_has_one_winner",),
    ),
    Guard(
        "look for the page after the link (files)",
        "adapters/files_run.py",
        'return bool(page["commits"][place][0] == commit_id)',
        "return True",
        ("tests/adapters/test_files.py::test_a_late_link_has_lost[65]",),
    ),
    Guard(
        "no symlink is followed (files)",
        "adapters/disk.py",
        "if stat.S_ISLNK(path.lstat().st_mode):",
        "if not path.lstat():",
        ("tests/adapters/test_files.py::test_no_symlink_is_followed",),
    ),
    Guard(
        "version in the filter (MongoDB)",
        "adapters/mongodb_runs.py",
        'expected = {"_id": self.run_id, "version": self.base, "message_count": self.first}',
        'expected = {"_id": self.run_id}',
        (f"{MONGO}::test_a_stale_writer_writes_nothing",),
    ),
    Guard(
        "conditional PUT (S3)",
        "adapters/s3_bucket.py",
        'given = {"IfNoneMatch": "*"} if replaces is None else {"IfMatch": replaces}',
        "given: dict[str, str] = {}",
        (f"{S3}::test_a_run_is_created_once",),
    ),
    Guard(
        "claim check: another nonce is another holder",
        "commit.py",
        "elif self._holding or newest.claim.epoch != self._epoch or newest.nonce != self.state.nonce:",
        "elif False:",
        (
            f"{RUNS}::test_a_higher_epoch_fences_the_holder",
            "tests/loop/test_commit.py::test_holder_is_superseded_before_an_effect",
        ),
    ),
    Guard(
        "claim check: a holder that never claimed",
        "commit.py",
        "newest.claim.epoch != self._epoch or newest.nonce != self.state.nonce:",
        "newest.claim.epoch != self._epoch:",
        (f"{RUNS}::test_a_stale_attempt_takes_nothing_over",),
    ),
    Guard(
        "owners are unique",
        "commit.py",
        'unique = "" if attempt.keep_claim else f"-{uuid4().hex[:12]}"',
        'unique = ""',
        (f"{RUNS}::test_attempts_of_one_number_are_two_owners",),
    ),
    Guard(
        "a live claim keeps others off",
        "commit.py",
        "            return claim.live()\n        return claim.live() and attempt.serialised",
        "            return False\n        return claim.live() and attempt.serialised",
        (f"{RUNS}::test_a_live_deadline_keeps_others_off",),
    ),
    Guard(
        "a claim has a deadline",
        "models.py",
        "def live(self) -> bool:\n        return bool(self.owner) and self.deadline > time.time()",
        "def live(self) -> bool:\n        return bool(self.owner)",
        (
            f"{RUNS}::test_an_expired_deadline_lets_others_on",
            "tests/loop/test_iteration.py::test_expired_claim_is_taken_over",
        ),
    ),
    Guard(
        "claim before the model call",
        "commit.py",
        'return not alone or bool(claim.owner) or claim.driver not in ("", attempt.driver)',
        "return False",
        (f"{RUNS}::test_an_iteration_is_done_once",),
    ),
    Guard(
        "nonce: a lost acknowledgement is recognised",
        "commit.py",
        "            if newest.nonce == nonce:\n                return self._acknowledge(newest, messages, asked)\n",
        "",
        (
            f"{RUNS}::test_a_lost_acknowledgement_is_made_up_for",
            "tests/loop/test_iteration.py::test_lost_acknowledgements_all_along",
        ),
    ),
    Guard(
        "a sender keeps claim and nonce",
        "inbox.py",
        '"version": state.version + 1, "updated_at": now()}',
        '"version": state.version + 1, "updated_at": now(), "nonce": "mine"}',
        (f"{RUNS}::test_a_grown_inbox_is_carried_over",),
    ),
    Guard(
        "state regression (a holder)",
        "commit.py",
        "        if newest.version < self.state.version:\n            raise StateRegressionError\n",
        "",
        ("tests/loop/test_commit.py::test_store_that_went_back_is_refused",),
    ),
    Guard(
        "state regression (a driver)",
        "iteration.py",
        "    if state.version < attempt.version:\n        raise StateRegressionError\n",
        "",
        ("tests/loop/test_iteration.py::test_state_regression_is_not_rerun",),
    ),
    Guard(
        "the look at the store before an effect",
        "commit.py",
        "            elif time.monotonic() - self._contact > FRESH_SECONDS:\n                await self._look()\n",
        "",
        ("tests/loop/test_commit.py::test_holder_is_superseded_before_an_effect",),
    ),
    Guard(
        "a cancel is seen before an effect",
        "commit.py",
        "            await self._look()\n        if self.state.cancel_requested:\n            raise RunCancelledError\n",
        "            await self._look()\n",
        ("tests/loop/test_commit.py::test_cancel_in_the_inbox_stops_the_next_effect",),
    ),
    Guard(
        "FRESH_SECONDS: only a young contact counts",
        "commit.py",
        "FRESH_SECONDS = 1.0",
        "FRESH_SECONDS = 1e9",
        ("tests/loop/test_commit.py::test_holder_is_superseded_before_an_effect",),
    ),
    Guard(
        "an iteration that is past is not run again",
        "iteration.py",
        "if state.over or state.iteration != iteration - 1:",
        "if state.over:",
        ("tests/loop/test_iteration.py::test_past_iteration_reports_where_the_run_stands",),
    ),
    Guard(
        "a saved reply is not bought again",
        "iteration.py",
        "if self._writer.state.ledger:",
        "if False:",
        ("tests/crashes/test_local.py::test_crash_window[sqlite-after the commit, before the tools]",),
    ),
    Guard(
        "ledger: `started` before the effect",
        "calls.py",
        '        if row.policy == "at_most_once":\n            self._noted.add(call.id)\n            await writer.commit(partial(mark_started, call_id=call.id))\n',
        "",
        ("tests/crashes/test_local.py::test_crash_window[sqlite-during the tool]",),
    ),
    Guard(
        "ledger: a call found `started` is not run",
        "calls.py",
        'pending = [row for row in rows if row.status == "pending"]',
        'pending = [row for row in rows if row.status in ("pending", "started")]',
        ("tests/crashes/test_local.py::test_crash_window[sqlite-started committed, before the effect]",),
    ),
    Guard(
        "a terminal step makes `started` unknown",
        "transitions.py",
        'if row.status != "pending":\n        return unknown(row.call)',
        "if False:\n        return unknown(row.call)",
        (f"{RUNS}::test_a_terminal_step_settles_every_open_call",),
    ),
    Guard(
        "queue re-check: done needs an empty inbox",
        "loop.py",
        "if answered and not state.mail:",
        "if answered:",
        (f"{RUNS}::test_done_gives_way_to_a_message_that_just_came",),
    ),
    Guard(
        "queue re-check: handlers finish before the workflow returns",
        "workflows/run.py",
        "        await steps.uncancelled(workflow.wait_condition(workflow.all_handlers_finished))\n",
        "",
        ("tests/temporal/test_by_value.py::test_a_workflow_ends_after_its_messages_are_delivered",),
    ),
    Guard(
        "handlers finish before continue-as-new",
        "workflows/run.py",
        "        await workflow.wait_condition(workflow.all_handlers_finished)\n        self._succeed",
        "        self._succeed",
        ("tests/temporal/test_long_runs.py::test_continue_as_new_loses_nothing",),
    ),
    Guard(
        "request id of a message",
        "inbox.py",
        "if state.over or knows(state, item.request_id):",
        "if state.over:",
        ("tests/loop/test_iteration.py::test_message_to_a_running_run",),
    ),
    Guard(
        "request ids stay known when they were absorbed",
        "inbox.py",
        "return request_id in state.absorbed or any(",
        "return any(",
        ("tests/loop/test_iteration.py::test_message_to_a_running_run",),
    ),
    Guard(
        "request id of a prompt makes the run id",
        "prompts.py",
        "run_id_for(handler, prompt.user_id, request_id) if request_id is not None else new_run_id()",
        "new_run_id()",
        ("tests/loop/test_iteration.py::test_same_request_is_the_same_run",),
    ),
    Guard(
        "one request id, one prompt",
        "prompts.py",
        "if stored.prompt_sha256 != state.prompt_sha256:",
        "if False:",
        ("tests/loop/test_iteration.py::test_same_request_is_the_same_run",),
    ),
    Guard(
        "compare-and-swap of a session's head",
        "sessions.py",
        "        tag = document.tag if document else None\n",
        '        newest = await self._store.get_document("memory", head_key(state))\n        tag = newest.tag if newest else None\n',
        ("tests/loop/test_iteration.py::test_concurrent_prompts_of_a_session_form_one_chain",),
    ),
    Guard(
        "a commit is awaited when its caller is cancelled",
        "commit.py",
        "            with suppress(Exception):\n                await uninterrupted(self._commit(change, release, nonce))\n            raise",
        "            raise",
        (f"{RUNS}::test_a_cancelled_attempts_commit_is_over",),
    ),
)
