"""Outputs that appear whole or not at all, stay after the power went, and have one writer at a time.

A folder is written beside the place that it will take, synced to the disk, and exchanged with what is there. Who is
killed on the way leaves the old folder or the new one, and the next writer deletes the rest. Where a system cannot
exchange two folders, they are renamed one after the other, and :func:`recover` ends what was cut off in between.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from amalgam_edge.errors import AmalgamError
from amalgam_edge.storage.exchange import exchange
from amalgam_edge.storage.output_lock import locked
from amalgam_edge.storage.owned_names import (
    FINISHED,
    PART,
    RETIRED,
    as_kind,
    is_of_this_machine,
    new_name,
    owned_paths,
)
from amalgam_edge.storage.replaceable import real_path, require_movable, require_replaceable
from amalgam_edge.storage.syncing import folders_made, make_folders, sync_file, sync_folder, sync_tree
from amalgam_edge.storage.write_errors import report_write_errors

STALE_AFTER = 24 * 3600.0  # seconds; what another machine has not touched for so long has no living writer


@contextmanager
def staged(output: Path, *, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A new folder that takes the place of ``output`` if the block succeeds, and is deleted otherwise.

    All that could keep it from that is looked for when the block is entered. A link stays, and leads to the new folder.

    Args:
        output: The folder to write; missing parents are made.
        check: Called when no other process can write the output any more; raises if it must not be replaced.

    Raises:
        AmalgamError: Another process writes the output, it cannot be replaced, or the disk refuses.
    """
    require_replaceable(output)
    target = real_path(output)
    with (
        report_write_errors(output),
        folders_made(target.parent),
        locked(target, shown=output) as is_alone,
    ):
        if is_alone:
            _end_what_was_cut_off(target)
            _sweep(target)
        check()
        part = new_name(target)
        part.mkdir()
        try:
            if target.exists():
                require_movable(target, part, output)
            yield part
            sync_tree(part)
            sync_folder(part.parent)
        except BaseException:
            _remove(part)
            raise
        _put_in_place(part, target, output)
        _remove(part, as_kind(part, RETIRED))
        if is_alone:
            _remove(*owned_paths(target, FINISHED))


def recover(output: Path) -> bool:
    """Put a folder in its place that a killed process finished and did not get to rename; a reader may call it.

    Returns:
        Whether there was one. None is looked for where something stands at ``output``.
    """
    target = real_path(output)
    if os.path.lexists(target) or not any(owned_paths(target, FINISHED)):
        return False
    try:
        with report_write_errors(output), locked(target, shown=output) as is_alone:
            return is_alone and _end_what_was_cut_off(target)
    except AmalgamError:  # its writer is alive, or this is a place where we may only read
        return False


def _end_what_was_cut_off(target: Path) -> bool:
    finished = [] if os.path.lexists(target) else [*owned_paths(target, FINISHED)]
    if finished:
        os.rename(max(finished, key=lambda path: path.stat().st_mtime), target)  # noqa: PTH104
        sync_folder(target.parent)
    return bool(finished)


def _sweep(target: Path) -> None:
    """Delete what dead processes left; the caller has the output's lock, so on this machine there are no others.

    Not every disk that machines share shares its locks, so another machine's folder has to be old too.
    """
    for path in owned_paths(target, PART, RETIRED):
        if is_of_this_machine(path) or time.time() - path.lstat().st_mtime > STALE_AFTER:
            _remove(path)


def _put_in_place(part: Path, target: Path, shown: Path) -> None:
    """Let a finished folder take the place of another, which then has an owned name; if that fails, both are kept."""
    try:
        if not os.path.lexists(target):
            os.rename(part, target)  # noqa: PTH104
        elif not exchange(part, target):
            _rename_in_two_steps(part, target)
    except OSError as error:
        finished = as_kind(part, FINISHED)
        if part.exists():
            os.rename(part, finished)  # noqa: PTH104
        raise AmalgamError(
            f"{shown}: cannot be replaced ({error.strerror}); what was to take its place is kept in {finished}"
        ) from error
    sync_folder(target.parent)


def _rename_in_two_steps(part: Path, target: Path) -> None:
    """Rename the old folder away and the new one to its place, so that a kill in between can be made good."""
    finished, retired = as_kind(part, FINISHED), as_kind(part, RETIRED)
    os.rename(part, finished)  # noqa: PTH104
    sync_folder(target.parent)
    os.rename(target, retired)  # noqa: PTH104
    try:
        os.rename(finished, target)  # noqa: PTH104
    except OSError:
        os.rename(retired, target)  # noqa: PTH104
        raise


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """The path of a new file that takes the place of ``path`` if the block succeeds, and is deleted otherwise.

    Several processes may write one file; the last to end wins. A link stays, and leads to the new file.

    Raises:
        OSError: The file cannot be written.
    """
    target = Path(os.path.realpath(path))
    part = new_name(target)
    try:
        yield part
        sync_file(part)
        os.replace(part, target)
        sync_folder(target.parent)
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file that appears whole or not at all, and stays; missing parent folders are made.

    Raises:
        OSError: The file cannot be written.
    """
    make_folders(path.parent)
    with staged_file(path) as part:
        part.write_bytes(content)


def write_text_atomically(path: Path, content: str) -> None:
    """Write a text file that appears whole or not at all, and stays; missing parent folders are made.

    Raises:
        AmalgamError: The file cannot be written.
    """
    with report_write_errors(path, only_writes=True):
        write_atomically(path, content.encode())
