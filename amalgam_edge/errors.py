"""The exceptions that users are meant to see."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager

from amalgam_edge.shown_text import LONGEST_LINE, line

# What ends the process. All else may come from a library over a text: a panic of Rust is a BaseException, too.
PROCESS_ENDING = (KeyboardInterrupt, SystemExit, GeneratorExit)


class AmalgamError(Exception):
    """A problem that the user can fix; the message says in one line what is wrong, where, and what to do.

    The command line prints the message without a traceback and exits with status 2. Anything else that escapes
    is a bug.

    Args:
        message: The message. Names in it may come from anybody: it is kept to one line of bounded length, whose
            characters do nothing in a terminal.
    """

    def __init__(self, message: str) -> None:
        super().__init__(line(message, LONGEST_LINE))


class MissingExtraError(AmalgamError):
    """The optional packages of a feature are not installed."""

    def __init__(self, feature: str, extra: str, cause: ImportError) -> None:
        missing = cause.name or str(cause)
        super().__init__(f'{feature} needs {missing}: pip install "amalgam-edge[{extra}]"')


@contextmanager
def needs_extra(extra: str, feature: str) -> Iterator[None]:
    """While entered, a package that is not installed is a mistake of the user, who is told the extra to install.

    Args:
        extra: Name of the extra, as in ``pip install "amalgam-edge[train]"``.
        feature: What needs it, for the message.

    Raises:
        MissingExtraError: An import failed because a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("amalgam_edge"):
            raise
        raise MissingExtraError(feature, extra, error) from error


def at_least_one(number: object, expected: str, remedy: str = "") -> int:
    """A whole number from 1 on, also one of numpy.

    Args:
        number: What was given.
        expected: What the message says that it is.
        remedy: What the message says after what was given.

    Raises:
        AmalgamError: It is none.
    """
    try:
        count = operator.index(number)  # type: ignore[arg-type]
    except TypeError:
        count = 0
    if count < 1:
        raise AmalgamError(f"{expected} (got {number!r}){remedy}")
    return count


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or the name of its class where it has no message; of bounded length."""
    return line((str(error).strip().splitlines() or [type(error).__name__])[0], LONGEST_LINE)
