"""What every command has in common as a process: UTF-8 in and out, signals, closed pipes, and mistakes in one line."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from amalgam_edge.cli.exit_codes import INTERRUPTED, TERMINATED, USER_MISTAKE
from amalgam_edge.cli.output import show_line
from amalgam_edge.errors import AmalgamError


class Terminated(KeyboardInterrupt):
    """SIGTERM has come: the process ends as by Ctrl-C."""


def run_process(run: Callable[[], None]) -> None:
    """Run a command as a process; a user's mistake is one line on standard error and exit status 2.

    Args:
        run: Parses the arguments and runs the command.
    """
    use_utf8()
    try:
        run()
    except AmalgamError as error:
        _drop_unwritten_output()
        show_line(f"Error: {error}", err=True)
        sys.exit(USER_MISTAKE)


def end_by_sigterm_as_by_ctrl_c() -> None:
    """Let SIGTERM raise :class:`Terminated`, so that what is half done is put away before the process ends."""
    signal.signal(signal.SIGTERM, _raise_terminated)


def use_utf8() -> None:
    """Let standard streams be UTF-8 whatever the locale and PYTHONIOENCODING say; no character ends in an error."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a stream may be closed, or somebody's own
        if reconfigure is not None:
            with suppress(OSError):  # what it was opened on is another file by now: it stays as it is
                reconfigure(encoding="utf-8", errors="backslashreplace")


@contextmanager
def one_line_when_interrupted(resumed: Callable[[], str | None] = lambda: None) -> Iterator[None]:
    """While entered, Ctrl-C and SIGTERM end the process with one line and their exit status.

    Args:
        resumed: The command that goes on with what was interrupted, if there is one.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        end_interrupted(interrupt, resumed())


def end_interrupted(interrupt: KeyboardInterrupt, resumed: str | None) -> NoReturn:
    """End the process with one line, which names the command that goes on, if there is one."""
    _drop_unwritten_output()
    if sys.stderr.isatty():
        show_line("", err=True)  # the terminal shows ^C where the cursor was
    show_line("interrupted" + (f"; to go on: {resumed}" if resumed else ""), err=True)
    sys.exit(TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED)


def resumed_command(program: str, arguments: Sequence[str], option: str = "--resume") -> str:
    """A command line of the same arguments that goes on with what was cut off, for a shell to read.

    Args:
        program: The program's name.
        arguments: Its arguments, of which the first names the command.
        option: What makes the command go on.
    """
    name, *rest = arguments
    return f"{program} {shlex.join([name, *([] if option in rest else [option]), *rest])}"


def _raise_terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _drop_unwritten_output() -> None:
    """Let Python not try again, when it ends, what standard output did not take; that would end in a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
