"""Things that a forked process cannot use, and opens again for itself.

The threads of ONNX Runtime do not exist in a forked child: a session that came from the parent waits for them forever.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from threading import Lock
from typing import Any, Generic, TypeVar
from weakref import WeakSet

_T = TypeVar("_T")


class OpenedAgainInChildren(Generic[_T]):
    """Something that is open in this process, and is opened again in each forked child that asks for it.

    Args:
        open_it: Opens it. It is called at once, and in a child when it is first asked for.
    """

    def __init__(self, open_it: Callable[[], _T]) -> None:
        self._open = open_it
        self._lock = Lock()
        self._opened: _T | None = open_it()
        _ALL.add(self)

    def get(self) -> _T:
        """What is open in this process."""
        opened = self._opened
        if opened is None:
            with self._lock:
                opened = self._opened
                if opened is None:
                    opened = self._opened = self._open()
        return opened

    def leave_to_parent(self) -> None:
        """Forget, in a child, what its parent opened."""
        if self._opened is not None:
            # Never freed: freeing a session waits for its threads, too, even when the process ends.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._opened))
        self._opened = None
        self._lock = Lock()  # another thread of the parent may have held it


_ALL: WeakSet[OpenedAgainInChildren[Any]] = WeakSet()


def _begin_as_child() -> None:
    for opened in list(_ALL):
        opened.leave_to_parent()
    if _ALL:
        # The tokenizers library would say on standard error that it now works in one thread.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_begin_as_child)
