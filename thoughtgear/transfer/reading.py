"""Reads for a copy: a record that can't be read leaves out the one run or document that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from thoughtgear.errors import CopyConflictError, StoreError


def unread_run(run_id: str, store: str, why: object) -> str:
    """Say that a run was not copied, because one of the stores can't read it."""
    return f"Run {run_id} was not copied: the {store} can't read it. {why}"


@contextmanager
def reading_run(run_id: str, store: str) -> Iterator[None]:
    """Raises `CopyConflictError` that names the run in place of the `StoreError` of a damaged record. What a
    retry or a newer package may mend goes through."""
    try:
        yield
    except StoreError as exc:
        if exc.retryable:
            raise
        raise CopyConflictError(refused={run_id: unread_run(run_id, store, exc)}) from exc


@contextmanager
def reading_document(name: str, store: str) -> Iterator[None]:
    """The same of a document, by its collection and key."""
    try:
        yield
    except StoreError as exc:
        if exc.retryable:
            raise
        text = f"The document {name} was not copied: the {store} can't read it. {exc}"
        raise CopyConflictError(refused={name: text}) from exc
