"""The guards of the library, each with the change that takes it away: the simulation has to notice it."""

from __future__ import annotations
import __future__

import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Guard:
    """A guard: what it keeps up, the function that has it, its text before and after it is gone, and
    an experiment that notices."""

    name: str
    where: str
    text: str
    without: str
    experiment: str

    def __str__(self) -> str:
        return self.name

    @contextmanager
    def removed(self) -> Iterator[None]:
        """Have the library do without it. Raises `ValueError` when the code has changed and this has not."""
        module_name, _, path = self.where.partition(":")
        module = importlib.import_module(f"thoughtgear.{module_name}")
        owner_name, _, name = path.rpartition(".")
        owner = getattr(module, owner_name) if owner_name else module
        real = vars(owner)[name]
        function = real.fget if isinstance(real, property) else real
        weak = self._weaken(function)
        replaced = [owner] if owner_name else _holders(real)
        for holder in replaced:
            setattr(holder, name, property(weak) if isinstance(real, property) else weak)
        try:
            yield
        finally:
            for holder in replaced:
                setattr(holder, name, real)

    def _weaken(self, function: Any) -> Any:
        source = textwrap.dedent(inspect.getsource(function))
        source = source[source.index("def ") :] if source.startswith("@") else source
        if source.count(self.text) != 1:
            raise ValueError(
                f"{self.where} has no guard {self.text!r} any more; look at the guard {self.name!r}."
            )
        code = compile(
            source.replace(self.text, self.without),
            inspect.getfile(function),
            "exec",
            flags=__future__.annotations.compiler_flag,
        )
        made: dict[str, Any] = {}
        exec(code, function.__globals__, made)
        return made[function.__name__]


def _holders(function: Any) -> list[Any]:
    """The library's modules that have this function: it is imported by name."""
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == "thoughtgear"]
    return [module for module in modules if vars(module).get(function.__name__) is function]


GUARDS = [
    Guard(
        "the store compares the version",
        "adapters.memory:MemoryAdapter.save_run",
        "run.deleted_until is not None or run.version != base",
        "run.deleted_until is not None",
        "small-temporal@2:lose",
    ),
    Guard(
        "a commit is all or nothing: the messages begin where the transcript ends",
        "commit:RunWriter._draft",
        "enumerate(messages, base.message_count)",
        "enumerate(messages, 0)",
        "small-temporal@",
    ),
    Guard(
        "a newer epoch or another nonce supersedes",
        "commit:RunWriter._adopt",
        "self._holding or newest.claim.epoch != self._epoch or newest.nonce != self.state.nonce",
        "False",
        "small-temporal@12:freeze~45",
    ),
    Guard(
        "another nonce under the same epoch supersedes",
        "commit:RunWriter._adopt",
        " or newest.nonce != self.state.nonce",
        "",
        "session-local#24@46:freeze~11.5,49:again,55:slow~33",
    ),
    Guard(
        "a commit recognises its own nonce",
        "commit:RunWriter._commit",
        "if newest.nonce == nonce:",
        "if False:",
        "small-temporal@14:stop",
    ),
    Guard(
        "a new holder takes the next epoch",
        "commit:RunWriter._next_claim",
        "self._epoch if self._holding else self._epoch + 1",
        "self._epoch",
        "small-temporal@",
    ),
    Guard(
        "a live claim keeps others off",
        "commit:RunWriter.must_wait",
        "if scope != attempt.scope:\n        return claim.live()",
        "if scope != attempt.scope:\n        return False",
        "small-local@2:again",
    ),
    Guard(
        "an attempt claims before it buys",
        "commit:RunWriter.must_claim_first",
        "if self._holding:\n        return False",
        "return False",
        "small-local@2:again",
    ),
    Guard(
        "the check before an effect looks",
        "commit:RunWriter.check",
        "range(MOST_LOOKS)",
        "range(0)",
        "retry-queue#27@18:freeze~70",
    ),
    Guard(
        "a contact is as old as its question",
        "commit:RunWriter._acknowledge",
        "self._contact = asked",
        "self._contact = time.monotonic()",
        "cancel-queue@16:freeze~5",
    ),
    Guard(
        "the check sees a cancel",
        "commit:RunWriter.check",
        "if self.state.cancel_requested:",
        "if False:",
        "cancel-queue#567@21:slow~1.6",
    ),
    Guard(
        "a cancelled commit is found, or done",
        "commit:RunWriter._commit_whole",
        "await uninterrupted(self._commit(change, release, nonce))",
        "pass",
        "small-queue@23:stop",
    ),
    Guard(
        "a claim that is over is renewed before an effect",
        "commit:RunWriter.check",
        "if self._holding and self._due:",
        "if False:",
        "small-local@19:freeze~45,22:again",
    ),
    Guard(
        "a commit is done that waits for its turn when it is cancelled",
        "commit:RunWriter.commit",
        "await uninterrupted(self._in_turn(change, release))",
        "pass",
        "limit-local#16301@49:stop",
    ),
    Guard(
        "no renewal after the commit that gave the claim back",
        "commit:RunWriter._renew",
        "not self._released and ",
        "",
        "bank-local#113@4:die,61:slow~33",
    ),
    Guard(
        "a long step renews its claim",
        "commit:RunWriter.watch",
        "await self._renew()",
        "pass",
        "small-local@16:slow~25,17:again",
    ),
    Guard(
        "a run that is over is not run",
        "iteration:run_iteration",
        "state.over or state.iteration != iteration - 1",
        "state.iteration != iteration - 1",
        "cancel-queue@6:freeze~5",
    ),
    Guard(
        "a reply that is saved is not bought again",
        "iteration:_Iteration._turn",
        "if self._writer.state.ledger:",
        "if False:",
        "small-temporal@13:stop",
    ),
    Guard(
        "the messages that the model saw, and no others, enter the transcript with its reply",
        "transitions:save_reply",
        "absorb(state, seen)",
        "absorb(state, state.mail)",
        "mail-local#44@29:stop,45:refuse,57:freeze~11.5",
    ),
    Guard(
        "an at_most_once call is noted as started first",
        "calls:Calls._effect",
        'if row.policy == "at_most_once":',
        "if False:",
        "small-temporal@",
    ),
    Guard(
        "a call that was noted as started and not begun is run later",
        "calls:Calls.run",
        "self._save_finished(self._noted)",
        "self._save_finished()",
        "fail-queue#17447@43:lose,45:stop,60:away~0.3,61:stop",
    ),
    Guard(
        "a call that was started is not run again",
        "calls:Calls.run",
        'pending = [row for row in rows if row.status == "pending"]',
        'pending = [row for row in rows if row.status in ("pending", "started")]',
        "small-temporal@15:stop",
    ),
    Guard(
        "an at_most_once call that timed out is unknown",
        "calls:Calls._effect",
        ' or (scope.expired() and row.policy == "at_most_once")',
        "",
        "small-temporal@18:hang~60",
    ),
    Guard(
        "what the bank says is believed, and nothing else",
        "calls:Calls._resolve",
        "return self._cut(_settled(row.call, outcome))",
        'return self._cut(_settled(row.call, Void("No.")))',
        "bank-queue@",
    ),
    Guard(
        "a call that a person has to settle waits",
        "calls:Calls._keep",
        'if result.status == "unknown" and row.on_unknown == "ask_person":',
        "if False:",
        "person-queue@17:stop",
    ),
    Guard(
        "on_unknown=fail fails",
        "transitions:close_calls",
        'if r.status == "unknown" and r.on_unknown == "fail"',
        "if False",
        "fail-queue#51@41:away~8",
    ),
    Guard(
        "the key of a call is the same in every attempt",
        "tools:idempotency_key",
        'return f"{run_id}:{call_id}"',
        'return f"{run_id}:{call_id}:{_digest(str(id(object())))}"',
        "small-temporal@",
    ),
    Guard(
        "done needs an empty inbox",
        "loop:judge",
        "if answered and not state.mail:",
        "if answered:",
        "mail-local#44@29:stop,45:refuse,57:freeze~11.5",
    ),
    Guard(
        "what is sent to a run that ends stays in its transcript",
        "transitions:_apply",
        "messages = absorb(state, state.mail)",
        "messages = []",
        "limit-queue@",
    ),
    Guard(
        "the end gives every open call a result",
        "transitions:end_run",
        "messages += save_results(state, [unfinished(row) for row in open_rows])",
        "pass",
        "retry-local@",
    ),
    Guard(
        "a message with a known request id changes nothing",
        "inbox:_try_put",
        "state.over or knows(state, item.request_id)",
        "state.over",
        "mail-queue#63@22:stop",
    ),
    Guard(
        "request ids stay known when their message was read",
        "transitions:absorb",
        "[*state.absorbed, *ids][-ABSORBED_KEPT:]",
        "[]",
        "mail-local@29:stop,97:freeze~70",
    ),
    Guard(
        "a sender leaves the nonce alone",
        "inbox:_try_put",
        '"version": state.version + 1,',
        '"version": state.version + 1, "nonce": item.request_id,',
        "fail-queue@3:again",
    ),
    Guard(
        "a sender leaves the claim alone",
        "inbox:_try_put",
        '"version": state.version + 1,',
        '"version": state.version + 1, "claim": Limits and type(state.claim)(),',
        "fail-queue@3:again",
    ),
    Guard(
        "a request id makes the run id",
        "prompts:_new_state",
        "run_id_for(handler, prompt.user_id, request_id) if request_id is not None else new_run_id()",
        "new_run_id()",
        "small-temporal@2:die",
    ),
    Guard(
        "a later attempt's claim keeps an old one off",
        "commit:RunWriter.must_wait",
        'return claim.live() and attempt.serialised and attempt.number < int(holder.partition("-")[0])',
        "return False",
        "fail-temporal#13@37:die,47:stale",
    ),
    Guard(
        "a run waits for the one before it in its session",
        "sessions:Sessions.busy_parent",
        "return None if last.over else parent",
        "return None",
        "session-temporal@95:away~40",
    ),
]
"""In the order of the protocol: store, commits, claims, the iteration, calls, inbox, prompts, sessions."""
