"""Whether a folder can take an output's place in the end, found out before any work is done."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from amalgam_edge.errors import AmalgamError

_ANOTHER = "name another folder"
_AS_EXPECTED = {errno.ENOTEMPTY, errno.EEXIST}  # a folder that is not empty is not renamed over
_FILE = "there"


def real_path(output: Path) -> Path:
    """The folder that an output is, or will be: where its links lead, so that a link stays and its target changes.

    Raises:
        AmalgamError: The links lead in a circle.
    """
    found = os.path.realpath(output)
    if os.path.islink(found):  # noqa: PTH114  (it takes a name that is too long)
        raise AmalgamError(f"{output}: a link that leads in a circle; {_ANOTHER}")
    return Path(found)


def require_replaceable(output: Path) -> None:
    """Refuse an output whose place no other folder can take, as far as that shows without writing anything.

    Raises:
        AmalgamError: It is a file, a mount point or the current folder, its name is too long, or its parent cannot be
            written to.
    """
    target = real_path(output)
    try:
        mode = target.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    except OSError as error:
        raise AmalgamError(f"{output}: cannot be written ({error.strerror}); {_ANOTHER}") from error
    here = Path(os.path.realpath("."))
    if target in (here, *here.parents):
        raise AmalgamError(f"{output}: the current folder cannot be replaced; {_ANOTHER}")
    if mode is not None and not stat.S_ISDIR(mode):
        raise AmalgamError(f"{output}: a file stands there; {_ANOTHER}")
    if mode is not None and target.is_mount():
        raise _mount_point(output)
    parent = next(path for path in target.parents if os.path.exists(path))  # noqa: PTH110  (the same)
    if not parent.is_dir():
        raise AmalgamError(f"{parent}: a file stands there; {_ANOTHER} than {output}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise AmalgamError(f"{output}: cannot be written ({parent} is not writable); {_ANOTHER}")


def require_movable(target: Path, part: Path, shown: Path) -> None:
    """Refuse a folder that cannot be moved, without moving it: it is renamed over one that is not empty.

    That always fails, but not before the system has found out whether it may be moved at all: not where a file system
    hangs there, not in a folder like /tmp where only its owner may, not a layer of a container's image.

    Args:
        target: The folder.
        part: An empty folder beside it.
        shown: How the user named it.

    Raises:
        AmalgamError: It cannot be moved.
    """
    (part / _FILE).touch()
    try:
        os.rename(target, part)  # noqa: PTH104
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise _mount_point(shown) from error
        if error.errno not in _AS_EXPECTED:
            raise AmalgamError(f"{shown}: cannot be replaced ({error.strerror}); {_ANOTHER}") from error
    else:  # a file system that renames over anything
        os.rename(part, target)  # noqa: PTH104
        part.mkdir(exist_ok=True)
    (part / _FILE).unlink(missing_ok=True)


def _mount_point(output: Path) -> AmalgamError:
    return AmalgamError(f"{output}: a mount point cannot be replaced; name a folder in it")
