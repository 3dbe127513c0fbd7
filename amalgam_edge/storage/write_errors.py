"""Errors of a disk in one line: full, broken, read-only, not ours to write to.

Libraries wrap what the system said in exceptions of their own, so a whole chain of exceptions is looked through.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.storage.owned_names import is_owned

# What only writing fails by, and what reading may fail by too.
_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_OF_ACCESS = (errno.EIO, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EMLINK, errno.ETXTBSY)

# What systems say of the first kind, quoted by libraries that pass no number on.
_QUOTED = re.compile(r"No space left on device|Dis[ck] quota exceeded|Read-only file system|File too large")
# The writers of torch and of numpy, and the module tempfile, know that they failed, and not by what.
_OF_NO_REASON = re.compile(
    r"PytorchStreamWriter|inline_container\.cc|iostream error|\d requested and \d+ written|"
    "No usable temporary directory"
)
TEMPORARY_FILES = "temporary files"
_MOST_CAUSES = 20  # of an exception that are looked at


@contextmanager
def report_write_errors(where: str | Path | None = None, *, only_writes: bool = False) -> Iterator[None]:
    """Turn what a disk refuses into one line that names the file, or else ``where``; other errors pass.

    Args:
        where: What is being written: a file, a folder, or words for it. None where an error without a file's name can
            only come from standard output.
        only_writes: Whether the block does nothing else with files, so that every ``OSError`` is one of writing.

    Raises:
        AmalgamError: The block raised such an error.
    """
    try:
        yield
    except AmalgamError:
        raise
    except Exception as error:
        message = explain_write_error(error, where)
        if only_writes and isinstance(error, OSError):
            message = f"{where}: cannot be written ({error.strerror or first_line(error)})"
        if message is None:
            raise
        raise AmalgamError(message) from error


def write_reason(error: OSError) -> str | None:
    """Why something cannot be written, if an error says that; None for one of another kind, or of reading."""
    return _reason(error)


def explain_write_error(error: BaseException, where: str | Path | None = None) -> str | None:
    """What a disk refused, in one line; None for an error of another kind."""
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return None  # whoever read the output has gone
    for cause in _causes(error):
        reason = _reason(cause)
        if reason is not None:
            return f"{_place(cause, where)}: cannot be written ({reason})"
    if isinstance(error, OSError) and _names_what_is_written(error):
        return f"{where or error.filename}: cannot be written ({error.strerror})"
    if isinstance(error, OSError) and error.errno in _OF_ACCESS:
        return f"{_place(error, where)}: cannot be read or written ({error.strerror})"
    return None


def _causes(error: BaseException) -> list[BaseException]:
    """An exception and those that it was raised from or over, the last one first."""
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in found and len(found) < _MOST_CAUSES:
        found.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return found


def _reason(error: BaseException) -> str | None:
    """Why something cannot be written, if that is what an exception says."""
    if isinstance(error, OSError) and error.errno in _OF_WRITING:
        return os.strerror(error.errno)
    said = str(error)
    if quoted := _QUOTED.search(said):
        return quoted[0]
    if isinstance(error, (RuntimeError, OSError)) and _OF_NO_REASON.search(said):
        return "the disk may be full"
    return None


def _names_what_is_written(error: OSError) -> bool:
    """Whether an error is about a folder or a file that is still being written."""
    names = [name for name in (error.filename, error.filename2) if isinstance(name, (str, os.PathLike))]
    return any(is_owned(part) for name in names for part in (Path(name), *Path(name).parents))


def _place(error: BaseException, where: str | Path | None) -> str:
    """What to name: the file of an error, unless nobody knows its name; or else whichever disk is fuller."""
    if isinstance(error, OSError) and isinstance(error.filename, str) and not _names_what_is_written(error):
        return error.filename
    if where is None:
        return "standard output"
    return TEMPORARY_FILES if isinstance(where, Path) and _temporary_files_have_less_room(where) else str(where)


def _temporary_files_have_less_room(path: Path) -> bool:
    """Whether temporary files, which libraries write too, are on another disk than a path, and that disk is fuller."""
    import shutil
    import tempfile

    try:
        folder = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
        temporary = Path(tempfile.gettempdir())
        if temporary.stat().st_dev == folder.stat().st_dev:
            return False
        return shutil.disk_usage(temporary).free < shutil.disk_usage(folder).free
    except OSError:  # there is no room for temporary files at all
        return True
