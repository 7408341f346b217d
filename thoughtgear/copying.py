"""What `thoughtgear db copy` does."""

from __future__ import annotations

from dataclasses import asdict

from thoughtgear import registry
from thoughtgear.errors import ConfigurationError, CopyConflictError, SchemaVersionError
from thoughtgear.locations import Located
from thoughtgear.place import Output, Place
from thoughtgear.progress import bar
from thoughtgear.protocols import OrmAdapter
from thoughtgear.render import count, print_json
from thoughtgear.transfer.report import CopyReport, Count
from thoughtgear.transfer.store import StoreCopy


async def copy(source: str, target: str, output: Output, *, compare: bool, replace_documents: bool) -> int:
    """Copy a store into another one, and say what was done. Returns 1 where something is left to do."""
    stores: list[OrmAdapter] = []
    try:
        stores += [registry.open_store(source, create=False)]
        stores += [registry.open_store(target)]
        _check(*stores)
        for url, store in zip((source, target), stores, strict=True):
            await _check_version(store, url)
        with bar(output) as watcher:
            copying = StoreCopy(
                *stores, compare=compare, replace_documents=replace_documents, watcher=watcher
            )
            try:
                await copying.run()
            except CopyConflictError:
                if output.as_json:
                    _tell(copying.report, output)
                raise
    finally:
        for store in stores:
            await store.aclose()
    _tell(copying.report, output)
    return 1 if copying.report.complete is False else 0


def _check(source: OrmAdapter, target: OrmAdapter) -> None:
    """Raises `ConfigurationError` where a copy can only be a mistake. Nothing is made by then."""
    if "process" in (source.reach, target.reach):
        raise ConfigurationError("A memory:// store is gone with its process: there is nothing to copy.")
    if not (isinstance(source, Located) and isinstance(target, Located)):
        return
    if source.location.is_that_of(target.location):
        raise ConfigurationError("The two stores are the same one.")


async def _check_version(store: OrmAdapter, url: str) -> None:
    """Raises `SchemaVersionError` or `ConfigurationError` that says which of the two stores it is about."""
    try:
        await store.list_runs(limit=1)
    except (SchemaVersionError, ConfigurationError) as exc:
        raise type(exc)(Place(db=url).upgraded(str(exc))) from exc


def _tell(report: CopyReport, output: Output) -> None:
    if output.as_json:
        print_json(asdict(report) | {"complete": report.complete})
        return
    output.out.print(f"Copied {_counted(report.copied)}.", soft_wrap=True)
    if not report.compared:
        output.out.print(
            "Nothing was compared: the same command without --no-compare does that.", soft_wrap=True
        )
    elif report.equal.runs or report.equal.documents:
        output.out.print(
            f"Compared both stores: {_counted(report.equal)} are the same in both.", soft_wrap=True
        )
    for name in report.changing:
        output.err.print(
            f"The {name} changes faster than it is copied: stop what works on it, then copy again.",
            soft_wrap=True,
        )


def _counted(found: Count) -> str:
    runs, messages = count(found.runs, "run"), count(found.messages, "message")
    documents = count(found.documents, "document")
    return f"{runs} ({messages}) and {documents} ({found.document_bytes:,} bytes)"
