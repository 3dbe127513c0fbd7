"""Files of a folder that somebody else may have made: read once, whole, and never through a link that leads elsewhere.

A link in a stranger's folder could stand for any file of this machine, which would then be read, copied and published
as if it were the stranger's. The one exception is the cache of the Hugging Face Hub, whose folders of a version hold
links into a folder of contents beside them; what several repositories share lies in one folder of the whole cache.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from amalgam_edge.errors import AmalgamError, first_line

MOST_BYTES = 2**31  # as much as one message of protocol buffers, and so an ONNX file, can hold

_HUB_VERSIONS, _HUB_CONTENTS = "snapshots", "blobs"
_SHARED_CONTENT = re.compile(r"(?P<start>[0-9a-f]{2})/(?P=start)[0-9a-f]{62}")  # by its hash, below the cache's blobs


@dataclass(frozen=True)
class FileContent:
    """The content of a file, read once: whatever is checked of it is what is used.

    Attributes:
        path: Where it was read, for messages.
        content: Its bytes.
    """

    path: Path
    content: bytes = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> FileContent:
        """Read a file whole.

        Raises:
            AmalgamError: The file cannot be read, or is longer than :data:`MOST_BYTES`.
        """
        file = cls.read_start(path, MOST_BYTES + 1)
        if len(file.content) > MOST_BYTES:
            raise AmalgamError(f"{path}: longer than {MOST_BYTES} bytes, which no such file is")
        return file

    @classmethod
    def read_start(cls, path: Path, n_bytes: int) -> FileContent:
        """Read a file's first bytes.

        Raises:
            AmalgamError: The file cannot be read.
        """
        try:
            with path.open("rb") as file:
                return cls(path, read_at_most(file, n_bytes))
        except OSError as error:
            raise AmalgamError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from error


def read_at_most(file: BinaryIO, n_bytes: int) -> bytes:
    """The first bytes of a file; ``read`` alone would take memory for as many as are asked for, there or not."""
    return file.read(min(n_bytes, os.fstat(file.fileno()).st_size + 1))


def own_file(folder: Path, name: str) -> Path:
    """The path of a regular file of a folder.

    Args:
        folder: The folder; it may be a link itself, since the user named it.
        name: The file's path in it, with forward slashes; one that the caller has checked.

    Raises:
        AmalgamError: A link stands there, or something else that is no regular file, or nobody may look.
        FileNotFoundError, NotADirectoryError: Nothing stands there.
    """
    path = folder / name
    try:
        is_link = leads_elsewhere(path, folder)
        is_file = is_link or stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:  # no permission, or a name that is too long for this file system
        raise AmalgamError(f"{path}: cannot be read ({error.strerror})") from error
    if is_link:
        raise AmalgamError(f"{path}: a link, and links in a folder are not followed; put the file itself there")
    if not is_file:
        raise AmalgamError(f"{path}: no regular file")
    return path


def leads_elsewhere(path: Path, folder: Path) -> bool:
    """Whether a path below a folder goes through a link, other than those of the Hub's cache to its own contents."""
    steps = [path, *path.parents][: len(path.relative_to(folder).parts)]
    if not any(step.is_symlink() for step in steps):
        return False
    versions = folder.absolute().parent
    return versions.name != _HUB_VERSIONS or not _is_hub_content(path.resolve(), versions.parent)


def _is_hub_content(content: Path, repository: Path) -> bool:
    """Whether a file is one of the contents of a repository in the Hub's cache, or of those that all share."""
    if content.parent == (repository / _HUB_CONTENTS).resolve():
        return True
    shared = (repository.parent / _HUB_CONTENTS).resolve()
    return content.parents[1:2] == (shared,) and bool(_SHARED_CONTENT.fullmatch(content.relative_to(shared).as_posix()))
