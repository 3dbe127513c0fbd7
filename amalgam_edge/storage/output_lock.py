"""One writer at a time for an output: a lock that the system lets go of when its holder ends, however it ends."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from amalgam_edge.errors import AmalgamError
from amalgam_edge.storage.owned_names import lock_name

_LONGEST_HOLDER = 200  # bytes


@contextmanager
def locked(output: Path, *, shown: Path | None = None) -> Iterator[bool]:
    """While entered, no other process that asks for the same lock gets it. The lock is a file beside the output.

    Where the file system has no locks, as on some network disks, the block is entered without one.

    Args:
        output: The output, whose folder exists.
        shown: How the user named it.

    Yields:
        Whether there is a lock.

    Raises:
        AmalgamError: Another process has it, or the lock's file cannot be written.
    """
    path = lock_name(output)
    descriptor = _acquire(path, shown or output)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            _release(path, descriptor)


def _acquire(path: Path, shown: Path) -> int | None:
    """The descriptor of the locked file; None where there are no locks."""
    from filelock import lock_descriptor

    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise AmalgamError(f"{shown}: cannot be written ({path}: {error.strerror})") from error
        try:
            is_ours = lock_descriptor(descriptor, blocking=False)
        except OSError:
            _release(path, descriptor)
            return None
        if not is_ours:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise AmalgamError(f"{shown}: another process writes it{holder}; wait for it, or name another output")
        if _is_still_at(path, descriptor):  # and was not deleted by a holder that let go just now
            _sign(descriptor)
            return descriptor
        os.close(descriptor)


def _release(path: Path, descriptor: int) -> None:
    if os.name != "nt":
        with suppress(OSError):
            path.unlink()  # while it is ours
    os.close(descriptor)
    if os.name == "nt":  # deletes no file that anybody has opened, such as the next holder
        with suppress(OSError):
            path.unlink()


def _is_still_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    """Say in the file who holds it; a full disk is no reason not to."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode()[:_LONGEST_HOLDER])


def _holder(descriptor: int) -> str:
    """Who holds a file, in brackets; empty where it does not say, as on Windows, where nobody else may read it."""
    try:
        said = os.read(descriptor, _LONGEST_HOLDER).decode("utf-8", "replace")
    except OSError:
        return ""
    return f" ({said})" if said.isprintable() and said else ""
