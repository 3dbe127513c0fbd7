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
    """A new folder beside ``output`` that replaces it by rename if the block succeeds, and is deleted otherwise.

    Staging folders of the same ``output`` that killed processes left are deleted first.
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


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file that appears whole or not at all; a failed attempt leaves nothing behind."""
    with staged_file(path) as part:
        part.write_bytes(content)


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """The path of a new file beside ``path`` that replaces it if the block succeeds, and is deleted otherwise."""
    # With random bytes, since processes on two machines may have the same id.
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text_atomically(path: Path, content: str) -> None:
    """Write a text file that appears whole or not at all; missing parent folders are made.

    Raises:
        AmalgamError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.encode())
    except OSError as error:
        raise AmalgamError(f"{path}: cannot be written ({error.strerror or first_line(error)})") from error


def _replace(staging: Path, output: Path) -> None:
    """Rename ``staging`` to ``output``, whose old content, if there is any, is put back if that fails."""
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
