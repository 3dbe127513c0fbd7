"""Files on any file system: a local path, or a URL that fsspec knows (``s3://``, ``gs://``, ``memory://`` …).

A file appears whole or not at all, and stays: by rename on a local disk, by a single put in an object store. Operations
that fail over a network are retried with growing waits. Operations on the local disk are not: a full disk stays full.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.storage.own_files import read_at_most
from amalgam_edge.storage.owned_names import PART, is_owned
from amalgam_edge.storage.staging import write_atomically
from amalgam_edge.storage.write_errors import write_reason

Location = Path | str  # a local path, or a URL

RETRY_WAITS = (0.5, 2.0, 8.0)  # seconds between attempts at an operation on a URL
STALE_AFTER = 3600.0  # seconds; a half-written file that old has no living writer

# The file systems that a URL may name. Of fsspec's others some run what an address holds, wrap a second address, or
# open what is no file.
PROTOCOLS = frozenset(
    {"abfs", "abfss", "adl", "az", "file", "gcs", "gs", "hdfs", "hf", "http", "https", "local", "memory", "oci", "oss"}
    | {"r2", "s3", "s3a", "webhdfs"}
)

HUB_DATASETS = "hf://datasets/"  # how data sets of the Hub are written

_LOCAL = ("file://", "local://")
_NOT_RETRIED = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
_T = TypeVar("_T")


def is_url(where: str | Path) -> bool:
    """Whether a location is on another file system than the local one."""
    return "://" in str(where) and not str(where).startswith(_LOCAL)


def locate(where: str | Path) -> Location:
    """Turn a local path or a ``file://`` URL into a ``Path``, and leave any other URL a string."""
    if is_url(where):
        return str(where).rstrip("/")
    for prefix in _LOCAL:
        where = str(where).removeprefix(prefix) if str(where).startswith(prefix) else where
    return Path(where)


def join(folder: Location, *names: str) -> Location:
    """The location of an entry of a folder."""
    return folder.joinpath(*names) if isinstance(folder, Path) else "/".join([folder, *names])


def exists(location: Location) -> bool:
    """Whether there is a file or folder at a location.

    Raises:
        AmalgamError: The file system does not answer.
    """
    if isinstance(location, Path):
        return location.exists()
    files, path = file_system(location)
    with report_unreadable(location):
        try:
            with_retries(lambda: files.info(path))
        except FileNotFoundError:
            return False
    return True


def read(location: Location, *, most_bytes: int | None = None) -> bytes:
    """A file's content.

    Args:
        location: The file.
        most_bytes: How many bytes are read at most; by default all.

    Raises:
        OSError: The file does not exist, or cannot be read from the local disk.
        AmalgamError: The file cannot be read from another file system.
    """
    if isinstance(location, Path):
        with location.open("rb") as file:
            return file.read() if most_bytes is None else read_at_most(file, most_bytes)
    files, path = file_system(location)
    with report_unreadable(location):
        content: bytes = with_retries(lambda: files.cat_file(path, end=most_bytes))
    return content


def write(location: Location, content: bytes | memoryview) -> None:
    """Write a file that appears whole or not at all, and stays; missing parent folders are made.

    Raises:
        OSError: The file cannot be written; over a network, after several attempts.
        AmalgamError: The file system is not known.
    """
    if isinstance(location, Path):
        write_atomically(location, content)
        return
    files, path = file_system(location)
    with_retries(lambda: files.pipe_file(path, bytes(content)))


def delete(location: Location) -> None:
    """Delete a file, if it exists.

    Raises:
        OSError: The file cannot be deleted.
    """
    if isinstance(location, Path):
        location.unlink(missing_ok=True)
        return
    files, path = file_system(location)
    with suppress(FileNotFoundError):
        with_retries(lambda: files.rm_file(path))


def delete_folder(folder: Location) -> None:
    """Delete a folder with everything in it, if it exists.

    Raises:
        OSError: The folder cannot be deleted.
    """
    if isinstance(folder, Path):
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
        return
    files, path = file_system(folder)
    with suppress(FileNotFoundError):
        with_retries(lambda: files.rm(path, recursive=True))


def parent(location: Location) -> Location:
    """The folder that a location is in."""
    return location.parent if isinstance(location, Path) else location.rpartition("/")[0]


def names(folder: Location) -> list[str]:
    """The sorted names of a folder's entries; none where there is no such folder.

    Raises:
        AmalgamError: The file system does not answer.
    """
    try:
        if isinstance(folder, Path):
            return sorted(entry.name for entry in folder.iterdir())
        files, path = file_system(folder)
        with report_unreadable(folder):
            listed = with_retries(lambda: files.ls(path, detail=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted({str(entry).rstrip("/").rpartition("/")[2] for entry in listed} - {""})


def delete_stale_parts(folder: Path) -> None:
    """Delete half-written files that killed processes left, and keep those that may still be written.

    Several processes, on several machines, may write into one folder, so nothing but a file's age tells which is which.
    """
    for part in filter(is_owned, folder.glob(f".*.{PART}")):
        try:
            if time.time() - part.stat().st_mtime > STALE_AFTER:
                part.unlink()
        except FileNotFoundError:  # its writer has renamed it meanwhile
            continue


def check_url(url: str) -> None:
    """Refuse a URL of a file system that is not known here, and a chain of file systems.

    Raises:
        AmalgamError: The URL is one of these.
    """
    protocol = url.partition("://")[0].lower()
    if "::" in url:
        raise AmalgamError(f"{url}: one file system inside another is not read; copy the files, and name the copy")
    if protocol not in PROTOCOLS:
        raise AmalgamError(
            f"{url}: no file system that is read here; give a local path, or a URL of one of "
            f"{', '.join(sorted(PROTOCOLS))}"
        )


def no_such_source(source: str) -> AmalgamError:
    """The error for texts that are neither here nor, as they are written, anywhere else."""
    return AmalgamError(f"{source}: no such file or folder (data sets of the Hub are written {HUB_DATASETS}NAME)")


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, with an empty cache of folder listings, and the path within it.

    Raises:
        AmalgamError: There is no such file system, or its package is not installed.
    """
    import fsspec

    check_url(url)
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
def report_unreadable(url: str) -> Iterator[None]:
    """Turn an ``OSError`` of another file system into one line; ``FileNotFoundError`` is passed on as it is.

    Raises:
        AmalgamError: The block raised such an error.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if full := write_reason(error):
            raise AmalgamError(f"{url}: cannot be copied to this machine ({full})") from error
        raise AmalgamError(f"{url}: cannot be read ({reason(error)})") from error


def reason(error: OSError) -> str:
    """Why an operation on a file failed, in one line."""
    return error.strerror or first_line(error)


def with_retries(call: Callable[[], _T]) -> _T:
    """Call a file system that may fail now and then, again after each of :data:`RETRY_WAITS`.

    Raises:
        OSError: Every attempt failed, or one failed in a way that waiting does not mend, such as a missing permission.
    """
    for wait in (*RETRY_WAITS, None):
        try:
            return call()
        except _NOT_RETRIED:
            raise
        except Exception as error:  # each file system raises what its own libraries do
            if isinstance(error, OSError) and write_reason(error):  # our own disk is full
                raise
            if wait is None:
                raise OSError(f"{first_line(error)}; tried {len(RETRY_WAITS) + 1} times") from error
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")
