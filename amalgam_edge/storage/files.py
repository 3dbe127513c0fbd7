"""Files on any file system: a local path, or a URL that fsspec knows (``s3://``, ``gs://``, ``memory://`` …).

A file appears whole or not at all: by rename on a local disk, by one put in an object store. What fails over a network
is tried again, with growing waits; a disk that is full stays full, and says so at once.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.storage.staging import write_by_rename

Location = Path | str  # a local path, or a URL

WAITS = (0.5, 2.0, 8.0)  # seconds before an operation on a URL is tried again
STALE_AFTER = 3600.0  # seconds after which no live process is still writing a shard

_LOCAL = ("file://", "local://")
_LASTING = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
_T = TypeVar("_T")


def is_url(where: str | Path) -> bool:
    """Whether this names something on another file system than the local one."""
    return "://" in str(where) and not str(where).startswith(_LOCAL)


def locate(where: str | Path) -> Location:
    """A local path, of a ``file://`` URL too; any other URL stays one."""
    if is_url(where):
        return str(where).rstrip("/")
    for prefix in _LOCAL:
        where = str(where).removeprefix(prefix) if str(where).startswith(prefix) else where
    return Path(where)


def join(folder: Location, *names: str) -> Location:
    """Something in a folder."""
    return folder.joinpath(*names) if isinstance(folder, Path) else "/".join([folder, *names])


def exists(location: Location) -> bool:
    """Whether there is a file.

    Raises:
        AmalgamError: the file system cannot be asked.
    """
    if isinstance(location, Path):
        return location.exists()
    files, path = file_system(location)
    with told_as_read(location):
        try:
            persistently(lambda: files.info(path))
        except FileNotFoundError:
            return False
    return True


def read(location: Location, *, most_bytes: int | None = None) -> bytes:
    """A file's content.

    Args:
        location: The file.
        most_bytes: How many bytes are read at most; by default all.

    Raises:
        OSError: no such file, or one on a local disk that cannot be read.
        AmalgamError: another file system does not give it.
    """
    if isinstance(location, Path):
        with location.open("rb") as file:
            return file.read(-1 if most_bytes is None else most_bytes)
    files, path = file_system(location)
    with told_as_read(location):
        content: bytes = persistently(lambda: files.cat_file(path, end=most_bytes))
    return content


def write(location: Location, content: bytes | memoryview) -> None:
    """Write a file that appears whole or not at all; folders above it are made.

    Raises:
        OSError: it cannot be written; over a network, after several tries.
        AmalgamError: the file system is not known.
    """
    if isinstance(location, Path):
        location.parent.mkdir(parents=True, exist_ok=True)
        write_by_rename(location, content)
        return
    files, path = file_system(location)
    persistently(lambda: files.pipe_file(path, bytes(content)))


def delete(location: Location) -> None:
    """Take a file away, if it is there.

    Raises:
        OSError: it cannot be taken away.
    """
    if isinstance(location, Path):
        location.unlink(missing_ok=True)
        return
    files, path = file_system(location)
    with suppress(FileNotFoundError):
        persistently(lambda: files.rm_file(path))


def delete_folder(folder: Location) -> None:
    """Take a folder away with all that it holds, if it is there.

    Raises:
        OSError: it cannot be taken away.
    """
    if isinstance(folder, Path):
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
        return
    files, path = file_system(folder)
    with suppress(FileNotFoundError):
        persistently(lambda: files.rm(path, recursive=True))


def parent(location: Location) -> Location:
    """The folder that something lies in."""
    return location.parent if isinstance(location, Path) else location.rpartition("/")[0]


def names(folder: Location) -> list[str]:
    """The names of what a folder holds, in order; none where there is no such folder.

    Raises:
        AmalgamError: the file system cannot be asked.
    """
    try:
        if isinstance(folder, Path):
            return sorted(entry.name for entry in folder.iterdir())
        files, path = file_system(folder)
        with told_as_read(folder):
            listed = persistently(lambda: files.ls(path, detail=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted({str(entry).rstrip("/").rpartition("/")[2] for entry in listed} - {""})


def sweep(folder: Path) -> None:
    """Delete what killed processes left half-written; what may still be being written stays.

    Several processes may write into one folder, from other machines too, so age alone tells.
    """
    for part in folder.glob("*.part"):
        try:
            if time.time() - part.stat().st_mtime > STALE_AFTER:
                part.unlink()
        except FileNotFoundError:  # its writer was faster
            continue


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, which has forgotten what it knew of folders, and the path in it.

    Raises:
        AmalgamError: no such file system, or its package is not installed.
    """
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise AmalgamError(f"{url}: its file system needs a package ({first_line(error)})") from error
    except ValueError as error:
        raise AmalgamError(
            f"{url}: no such file system ({first_line(error)}); give a local path, or a URL such as s3://BUCKET/NAME"
        ) from error
    files.invalidate_cache()
    return files, path


@contextmanager
def told_as_read(url: str) -> Iterator[None]:
    """Tell what another file system cannot do in one line; a file that is not there stays an error of its own.

    Raises:
        AmalgamError: an operation failed.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise AmalgamError(f"{url}: cannot be read ({reason(error)})") from error


def reason(error: OSError) -> str:
    """Why a file could not be had, in a line."""
    return error.strerror or first_line(error)


def persistently(call: Callable[[], _T]) -> _T:
    """The answer of a file system that may fail now and then.

    Raises:
        OSError: it failed each time, or in a way that no waiting mends.
    """
    for wait in (*WAITS, None):
        try:
            return call()
        except _LASTING:
            raise
        except Exception as error:  # each file system raises what its own libraries do
            if wait is None:
                raise OSError(f"{first_line(error)}; tried {len(WAITS) + 1} times") from error
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")
