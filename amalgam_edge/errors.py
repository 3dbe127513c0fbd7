"""The exceptions that users are meant to see."""

from __future__ import annotations


class AmalgamError(Exception):
    """A problem that the user can fix; the message says in one line what is wrong, where, and what to do.

    The command line prints the message without a traceback and exits with status 2. Anything else that escapes
    is a bug.
    """


class MissingExtraError(AmalgamError):
    """The optional packages of a feature are not installed."""

    def __init__(self, feature: str, extra: str, cause: ImportError) -> None:
        missing = cause.name or str(cause)
        super().__init__(f'{feature} needs {missing}: pip install "amalgam-edge[{extra}]"')


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or the name of its class where it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
