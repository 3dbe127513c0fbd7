"""A disk that fails, and a process that dies, at the n-th call to the system.

The calls are those of :mod:`os` by which names and contents reach a disk, and the exchange of two folders.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from amalgam_edge.storage import exchange

_CALLS = ("open", "fsync", "mkdir", "rename", "replace", "ftruncate")
_CLEANING = ("unlink", "rmdir")  # they may be killed at, but what fails by them only leaves something behind


@dataclass
class Fault:
    """What came of it: the calls that were made, and whether one of them failed."""

    calls: list[str] = field(default_factory=list)
    happened: bool = False


@contextmanager
def _watched(before: Callable[[str], None], names: tuple[str, ...]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(os, name, _wrapped(name, getattr(os, name), before))
        if (call := exchange._rename_call()) is not None:
            patch.setattr(exchange, "_rename_call", lambda: _exchange_wrapped(call, before))
        yield


def _wrapped(name: str, real: Callable[..., Any], before: Callable[[str], None]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        before(name)
        return real(*arguments, **options)

    return call


def _exchange_wrapped(real: Callable[..., int], before: Callable[[str], None]) -> Callable[..., int]:
    def call(*arguments: bytes) -> int:
        import ctypes

        try:
            before("exchange")
        except OSError as error:
            ctypes.set_errno(error.errno or errno.EIO)
            return -1
        return real(*arguments)

    return call


def watched(before: Callable[[str], None]) -> AbstractContextManager[None]:
    """While entered, a function is called with the name of each call before it is made."""
    return _watched(before, _CALLS + _CLEANING)


@contextmanager
def fail_at(n: int, code: int) -> Iterator[Fault]:
    """While entered, call number ``n`` fails by this ``errno``, and no other."""
    fault = Fault()

    def before(name: str) -> None:
        fault.calls.append(name)
        if len(fault.calls) == n + 1:
            fault.happened = True
            raise OSError(code, os.strerror(code))

    with _watched(before, _CALLS):
        yield fault


def calls_of(run: Callable[[], Any]) -> list[str]:
    """The names of the calls that a function makes, in order."""
    made: list[str] = []
    with watched(made.append):
        run()
    return made


def run_and_die_at(n: int, run: Callable[[], Any]) -> int:
    """Run a function in a process that is killed at call number ``n``; its exit status, negative for a signal."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    seen = []

    def before(name: str) -> None:
        seen.append(name)
        if len(seen) == n + 1:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        with watched(before):
            run()
    except BaseException:
        os._exit(1)
    os._exit(0)


@contextmanager
def no_file_longer_than(n_bytes: int) -> Iterator[None]:
    """While entered, this process can write no file beyond a length, as if the disk were full from there."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
