"""Prompts: checked, made durable, and the same run for the same request id."""

from __future__ import annotations

import asyncio
import hashlib
import json
import mimetypes
import re
import stat
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from thoughtgear.errors import (
    ConflictError,
    InvalidInputError,
    LimitExceededError,
    RequestConflictError,
    RunDeletedError,
    RunNotFoundError,
    SessionBusyError,
    StoreError,
    StoreUnavailableError,
)
from thoughtgear.ids import check_label, new_run_id, run_id_for
from thoughtgear.loop import Limits
from thoughtgear.models import Attachment, Driver, Message, RunState
from thoughtgear.protocols import OrmAdapter
from thoughtgear.sessions import Sessions

T = TypeVar("T")

CREATE_TRIES = 5

FILE_NAME = 255
"""How many characters a file's name may have."""

_MEDIA_TYPE = re.compile(r"[\w.+-]{1,80}/[\w.+-]{1,80}(\s*;[ -~]{0,100})?", re.ASCII)

METADATA_LEVELS = 20
"""How deep metadata may nest; its own keys are the first level. Every reader of a run has to parse it."""


@dataclass(frozen=True)
class File:
    """A file of a prompt that is in memory."""

    name: str
    data: bytes = field(repr=False)
    media_type: str | None = None


@dataclass(frozen=True)
class _Loaded:
    """A file that was read and hashed, once."""

    attachment: Attachment
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Prompt:
    """What `handle_prompt` is given, less what concerns the caller's waiting."""

    text: str
    files: Sequence[File | str | Path] = ()
    session_id: str | None = None
    user_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    request_id: str | None = None
    stream: bool = False

    def check(self, limits: Limits) -> None:
        """Raise `InvalidInputError` (`LimitExceededError` for sizes) unless the prompt can be run."""
        if not isinstance(self.text, str) or not self.text.strip():
            raise InvalidInputError("A prompt needs text.")
        _check_size("prompt", len(_encode(self.text)), limits.prompt_bytes)
        for what in ("session_id", "user_id", "request_id"):
            value = getattr(self, what)
            if value is not None:
                check_label(value, what)
        if len(self.files) > limits.files:
            raise LimitExceededError(f"A prompt takes {limits.files} files, not {len(self.files)}.")
        for file in self.files:
            _check_file(file)
        _check_metadata(self.metadata, limits)


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise InvalidInputError("The prompt holds a lone surrogate, which is no valid Unicode text.") from exc


def _check_file(file: File | str | Path) -> None:
    if not isinstance(file, File):
        if not isinstance(file, str | Path) or "\0" in str(file):
            raise InvalidInputError("A file of a prompt is a path or a File.")
        return
    check_label(file.name, "file name", FILE_NAME)
    if not isinstance(file.data, bytes | bytearray):
        raise InvalidInputError("The data of a File is bytes.")
    if file.media_type is not None and not _MEDIA_TYPE.fullmatch(str(file.media_type)):
        raise InvalidInputError("The media type of a File is one such as text/plain.")


def _check_size(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise LimitExceededError(f"This {what} has {size:,} bytes; the limit is {limit:,}.")


def _check_metadata(metadata: Mapping[str, Any], limits: Limits) -> None:
    if not isinstance(metadata, Mapping) or not all(isinstance(key, str) for key in metadata):
        raise InvalidInputError("metadata is a mapping with text keys.")
    try:
        size = len(json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidInputError("metadata must be plain JSON values.") from exc
    _check_size("metadata", size, limits.metadata_bytes)
    if _deeper_than(METADATA_LEVELS, metadata):
        raise InvalidInputError(f"metadata may nest {METADATA_LEVELS} levels deep, not more.")


def _deeper_than(levels: int, value: Any) -> bool:
    if not isinstance(value, (Mapping, list, tuple)):
        return False
    inner = value.values() if isinstance(value, Mapping) else value
    return levels == 0 or any(_deeper_than(levels - 1, item) for item in inner)


async def create_run(
    prompt: Prompt,
    *,
    store: OrmAdapter,
    sessions: Sessions,
    handler: str,
    limits: Limits,
    driver: Driver,
) -> RunState:
    """Make the prompt durable and return its run; nothing is scheduled.

    A request id that was used before gives the run that it made, whatever its status. Raises
    `RequestConflictError` when that was for another prompt, `RunDeletedError` when that run was deleted,
    `SessionBusyError`, `InvalidInputError`.
    """
    prompt.check(limits)
    files = [await _read(file, limits) for file in prompt.files]
    state = _new_state(prompt, files, handler, driver)
    stored = await _find(store, state) if prompt.request_id is not None else None
    if stored is None:
        if prompt.session_id is not None:
            await sessions.begin(state)
        await _insist(partial(_store_files, store, state.run_id, files))
        try:
            stored = await _insist(partial(_create, store, state, _first_message(prompt, files)))
        except RunDeletedError:
            await _drop_files(store, state.run_id, files)
            raise
    if prompt.session_id is not None and stored.status == "pending":
        return await _link(store, sessions, stored, keep=prompt.request_id is not None)
    return stored


async def _link(store: OrmAdapter, sessions: Sessions, stored: RunState, *, keep: bool) -> RunState:
    try:
        return await _insist(partial(sessions.link, stored))
    except RunNotFoundError as exc:
        raise RunDeletedError from exc
    except SessionBusyError:
        # Someone was faster since `begin`. With a request id the same prompt may come again.
        if not keep:
            await store.delete_run(stored.run_id)
        raise


async def _find(store: OrmAdapter, state: RunState) -> RunState | None:
    try:
        return _same_prompt(await store.load_run(state.run_id), state)
    except RunNotFoundError:
        return None


def _first_message(prompt: Prompt, files: Sequence[_Loaded]) -> Message:
    return Message(seq=0, role="user", text=prompt.text, attachments=[file.attachment for file in files])


def _new_state(prompt: Prompt, files: Sequence[_Loaded], handler: str, driver: Driver) -> RunState:
    request_id = prompt.request_id
    run_id = run_id_for(handler, prompt.user_id, request_id) if request_id is not None else new_run_id()
    return RunState(
        run_id=run_id,
        handler=handler,
        version=1,
        message_count=1,
        nonce=uuid4().hex,
        session_id=prompt.session_id,
        user_id=prompt.user_id,
        metadata=dict(prompt.metadata),
        prompt_sha256=_digest(prompt, files),
        driver=driver,
        stream=prompt.stream,
    )


def _digest(prompt: Prompt, files: Sequence[_Loaded]) -> str:
    parts = [prompt.text, prompt.session_id, *(file.attachment.sha256 for file in files)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


async def _insist(write: Callable[[], Awaitable[T]]) -> T:
    """Write again while the outcome is unknown: a write that landed after all is found, not repeated."""
    for _ in range(CREATE_TRIES):
        try:
            return await write()
        except StoreUnavailableError as exc:
            cause = exc
            await asyncio.sleep(0.1)
    raise StoreUnavailableError("The prompt could not be stored; send it again.") from cause


async def _create(store: OrmAdapter, state: RunState, first: Message) -> RunState:
    try:
        await store.save_run(state, [first])
    except ConflictError:
        stored = await _find(store, state)
        if stored is None:
            raise RunDeletedError from None
        return stored
    return state


def _same_prompt(stored: RunState, state: RunState) -> RunState:
    if stored.prompt_sha256 != state.prompt_sha256:
        raise RequestConflictError
    return stored


async def _read(file: File | str | Path, limits: Limits) -> _Loaded:
    return await asyncio.to_thread(_load, file, limits)


def _load(given: File | str | Path, limits: Limits) -> _Loaded:
    """Read and hash, in a thread: neither may hold up the event loop."""
    file = given if isinstance(given, File) else _read_path(Path(given), limits)
    _check_size("file", len(file.data), limits.file_bytes)
    media_type = file.media_type or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    sha256 = hashlib.sha256(file.data).hexdigest()
    attachment = Attachment(name=file.name, media_type=media_type, size=len(file.data), sha256=sha256)
    return _Loaded(attachment, file.data)


def _read_path(path: Path, limits: Limits) -> File:
    name = path.name.encode(errors="replace").decode()
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe, or a device, may never end
            raise InvalidInputError(f"{str(path)!a} is no regular file.")
        _check_size(f"file ({name!a})", found.st_size, limits.file_bytes)
        with path.open("rb") as file:  # which may grow meanwhile, or not know its size
            return File(name, file.read(limits.file_bytes + 1))
    except (OSError, ValueError) as exc:
        if isinstance(exc, InvalidInputError):
            raise
        reason = getattr(exc, "strerror", None) or "error"
        raise InvalidInputError(f"The file {str(path)!a} can't be read: {reason}.") from exc


async def _store_files(store: OrmAdapter, run_id: str, files: Sequence[_Loaded]) -> None:
    """Store each file once per run, before the run that speaks of it."""
    for file in files:
        with suppress(ConflictError):
            await store.put_document("files", _file_key(run_id, file), file.data, tag=None)


async def _drop_files(store: OrmAdapter, run_id: str, files: Sequence[_Loaded]) -> None:
    """Take back the files of a run that was deleted before: no deletion would come for them."""
    for file in files:
        key = _file_key(run_id, file)
        with suppress(StoreError):
            document = await store.get_document("files", key)
            if document is not None:
                await store.put_document("files", key, None, tag=document.tag)


def _file_key(run_id: str, file: _Loaded) -> str:
    return f"{run_id}/{file.attachment.sha256}"
