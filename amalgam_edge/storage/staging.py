"""Folders and files that appear whole or not at all."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amalgam_edge.errors import AmalgamError, first_line


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A folder beside ``output`` that takes its place by rename when all went well, and vanishes otherwise.

    What a killed build left of its own goes too.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    for stale in output.parent.glob(f"{glob.escape(output.name)}.*.part"):
        shutil.rmtree(stale, ignore_errors=True)
    staging = output.with_name(f"{output.name}.{os.getpid()}.part")
    staging.mkdir()
    try:
        yield staging
        _replace(staging, output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_by_rename(path: Path, content: bytes | memoryview) -> None:
    """Write a file that is either there whole or not at all; a failed attempt leaves nothing."""
    with partly_written(path) as part:
        part.write_bytes(content)


@contextmanager
def partly_written(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that takes its place by rename when all went well, and vanishes otherwise."""
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")  # two machines may share a number
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, content: str) -> None:
    """Write a text file that takes its place by rename; folders above it are made.

    Raises:
        AmalgamError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_by_rename(path, content.encode())
    except OSError as error:
        raise AmalgamError(f"{path}: cannot be written ({error.strerror or first_line(error)})") from error


def _replace(staging: Path, output: Path) -> None:
    """Put one folder in the place of another, which may be there; it comes back if that fails."""
    retired = output.with_name(f"{output.name}.{os.getpid()}.old")
    if output.exists():
        os.replace(output, retired)
    try:
        os.replace(staging, output)
    except OSError:
        if retired.exists():
            os.replace(retired, output)
        raise
    shutil.rmtree(retired, ignore_errors=True)
