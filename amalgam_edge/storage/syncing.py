"""Files and folders that are on the disk itself, so that they are there after the power went."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# What a file system answers that cannot sync a file or a folder; it has its own way, or none.
_NOT_HERE = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}


def sync_file(path: Path) -> None:
    """Wait until a file's content is on the disk.

    Raises:
        OSError: The disk could not take it.
    """
    is_windows = os.name == "nt"  # which syncs what is open for writing
    if is_windows and not os.access(path, os.W_OK):
        return
    _open_and_sync(path, os.O_RDWR if is_windows else os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk. Windows does that by itself, and has no call for it.

    Raises:
        OSError: The disk could not take them.
    """
    if os.name == "nt":
        return
    _open_and_sync(path, os.O_RDONLY)


def sync_tree(folder: Path) -> None:
    """Wait until a folder and everything in it are on the disk; links are not followed.

    Raises:
        OSError: The disk could not take it.
    """
    for parent, _, names in os.walk(folder, topdown=False):
        for path in (Path(parent, name) for name in names):
            if path.is_file() and not path.is_symlink():
                sync_file(path)
        sync_folder(Path(parent))


def make_folders(folder: Path) -> list[Path]:
    """Make a folder and its parents, where they are missing, and wait until their names are on the disk.

    Returns:
        Those that were missing, the innermost first.

    Raises:
        OSError: One of them cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync_folder(path.parent)
    return missing


@contextmanager
def folders_made(folder: Path) -> Iterator[None]:
    """While entered, a folder and its parents are there; those that were made are deleted if the block fails.

    Those that hold anything stay.

    Raises:
        OSError: One of them cannot be made.
    """
    made = make_folders(folder)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for path in made:
                path.rmdir()
        raise


def _open_and_sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    """``fsync``; on macOS, where that leaves data in the disk's own memory, the call that does not."""
    if sys.platform == "darwin":
        from fcntl import F_FULLFSYNC, fcntl

        try:
            fcntl(descriptor, F_FULLFSYNC)
            return
        except OSError:  # not every file system knows it
            pass
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
