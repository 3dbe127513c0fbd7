"""Two folders that change places in one step, where the system can do that."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

_AT_FDCWD = -100
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux's renameat2, and RENAME_SWAP of macOS' renamex_np
_NOT_HERE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY}

Rename = Callable[[bytes, bytes], int]


def exchange(one: Path, other: Path) -> bool:
    """Let two folders of one file system change places. Whoever reads meanwhile finds the one or the other.

    Returns:
        Whether they did; False where the system or the file system cannot.

    Raises:
        OSError: They could, but one of them must not be moved.
    """
    rename = _rename_call()
    if rename is None:
        return False
    import ctypes

    if rename(os.fsencode(one), os.fsencode(other)) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NOT_HERE:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


@cache
def _rename_call() -> Rename | None:
    """The system's call; None where there is none."""
    if not sys.platform.startswith(("linux", "darwin")):
        return None
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    path, flags = ctypes.c_char_p, ctypes.c_uint
    try:
        if sys.platform == "darwin":
            swap = library.renamex_np
            swap.argtypes = [path, path, flags]
            return lambda one, other: int(swap(one, other, _EXCHANGE))
        rename = library.renameat2
        rename.argtypes = [ctypes.c_int, path, ctypes.c_int, path, flags]
        return lambda one, other: int(rename(_AT_FDCWD, one, _AT_FDCWD, other, _EXCHANGE))
    except AttributeError:  # a C library from before the call
        return None
