"""How far a long command is: a bar on stderr, where that is a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from thoughtgear.place import Output


class Bar:
    """A bar for each stage of a command. Without a total it moves, and counts."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage: TaskID | None = None

    def begin(self, stage: str, total: int | None) -> None:
        """A stage begins; the one before is done."""
        self._end()
        self._stage = self._progress.add_task(stage, total=total)

    def step(self, count: int = 1) -> None:
        """Steps of this stage are done."""
        if self._stage is not None:
            self._progress.advance(self._stage, count)

    def _end(self) -> None:
        if self._stage is not None:
            done = self._progress.tasks[self._progress.task_ids.index(self._stage)].completed
            self._progress.update(self._stage, total=done)


@contextmanager
def bar(output: Output) -> Iterator[Bar]:
    """Show a bar as long as this lasts; none where nobody looks."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    hidden = output.bare or not output.err.is_terminal
    with Progress(*columns, console=output.err, disable=hidden, transient=True) as progress:
        yield Bar(progress)
