"""What the commands do that delete: `runs delete`, `runs prune`, `users delete`."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass

from thoughtgear import deletion, retention
from thoughtgear.deletion import Deleted
from thoughtgear.errors import ConfigurationError
from thoughtgear.ids import check_label, check_run_id
from thoughtgear.place import Output, Place
from thoughtgear.progress import bar
from thoughtgear.protocols import OrmAdapter
from thoughtgear.render import age, count, print_json
from thoughtgear.retention import Rule, Selection
from thoughtgear.stored import open_placed_store


@dataclass(frozen=True)
class Consent:
    """Whether to ask before something is deleted, to delete what is not over, or to show only what would be
    deleted."""

    yes: bool = False
    force: bool = False
    dry_run: bool = False


async def delete_runs(place: Place, run_ids: Sequence[str], output: Output, consent: Consent) -> int:
    """Delete these runs; none of them where one is not there, or not over."""
    ids = list(dict.fromkeys(check_run_id(run_id) for run_id in run_ids))
    async with _opened(place) as store:
        for run_id in ids:
            await deletion.find(store, run_id, force=consent.force)
        what = f"run {ids[0]}" if len(ids) == 1 else count(len(ids), "run")
        if not _agreed(f"Delete {what}, and all that belongs to nothing else?", output, consent):
            return 1
        deleted = Deleted()
        for run_id in ids:
            deleted += await deletion.delete_run(store, run_id, force=consent.force)
    _tell(deleted, output)
    return 0


async def delete_user(place: Place, user_id: str, output: Output, consent: Consent) -> int:
    """Delete all that is stored of a user, or show how much that is."""
    check_label(user_id, "USER")
    async with _opened(place) as store:
        found = await deletion.find_user(store, user_id)
        if consent.dry_run:
            _tell(found, output, "Would delete")
            return 0
        if found == Deleted():
            output.err.print(f"Nothing is stored of user {user_id!r}.", highlight=False, markup=False)
        elif not _agreed(f"Delete {_listed(found)} of user {user_id!r}?", output, consent):
            return 1
        deleted = await deletion.delete_user(store, user_id, force=consent.force)
    _tell(deleted, output)
    return 0


async def prune(place: Place, rule: Rule, output: Output, consent: Consent) -> int:
    """Delete the runs that a rule selects, or show which they are."""
    async with _opened(place) as store:
        with bar(output) as watcher:
            selection = await retention.select(store, rule, watcher)
        _tell_kept(selection, output)
        if consent.dry_run:
            _tell_selected(selection, output)
            return 0
        question = f"Delete {_described(selection)}?"
        if selection.run_ids and not _agreed(question, output, consent):
            return 1
        with bar(output) as watcher:
            deleted = await retention.prune(store, rule, selection.run_ids, watcher)
    _tell(deleted, output)
    return 0


@asynccontextmanager
async def _opened(place: Place) -> AsyncIterator[OrmAdapter]:
    store = open_placed_store(place)
    try:
        yield store
    finally:
        await store.aclose()


def _agreed(question: str, output: Output, consent: Consent) -> bool:
    """Ask, on stderr. Raises `ConfigurationError` where nobody answers."""
    if consent.yes:
        return True
    answer = _answer(output, f"{question} [y/N] ")
    if not answer:
        output.err.print()
        raise ConfigurationError("Nobody said yes: nothing was deleted. --yes goes without asking.")
    agreed = answer.strip().lower() in ("y", "yes")
    if not agreed:
        output.err.print("Nothing was deleted.")
    return agreed


def _answer(output: Output, question: str) -> str:
    """Ask, and read a line from stdin; empty at its end. Ctrl-C ends that at once, from the moment the
    question is seen: the event loop's own handler would only cancel what waits in the loop."""
    before = None
    with suppress(ValueError):  # only the main thread has handlers
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        output.err.print(question, end="", soft_wrap=True, markup=False, highlight=False)
        return sys.stdin.readline()
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _tell(deleted: Deleted, output: Output, begin: str = "Deleted") -> None:
    if output.as_json:
        print_json(asdict(deleted))
    else:
        output.out.print(f"{begin} {_listed(deleted)}.", soft_wrap=True)


def _tell_selected(selection: Selection, output: Output) -> None:
    if output.as_json:
        names = ("run_ids", "messages", "kept", "oldest", "newest")
        print_json({name: getattr(selection, name) for name in names})
        return
    output.err.print(f"Would delete {_described(selection)}.", soft_wrap=True)
    for run_id in selection.run_ids:
        print(run_id)


def _tell_kept(selection: Selection, output: Output) -> None:
    if selection.kept and not output.as_json:
        runs = count(selection.kept, "run")
        output.err.print(f"{runs} stay, because their session goes on.", soft_wrap=True)


def _described(selection: Selection) -> str:
    runs = f"{count(len(selection.run_ids), 'run')} ({count(selection.messages, 'message')})"
    if selection.oldest is None or selection.newest is None:
        return runs
    return f"{runs}, last changed {age(selection.oldest)} to {age(selection.newest)} ago"


def _listed(deleted: Deleted) -> str:
    parts = [
        count(deleted.runs, "run"),
        count(deleted.messages, "message"),
        count(deleted.files, "file"),
        count(deleted.sessions, "session"),
        count(deleted.remembered, "remembered value"),
        count(deleted.cached, "cached result"),
    ]
    shown = [part for part in parts if not part.startswith("0 ")] or parts[:1]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
