"""The one exception family that users are meant to see."""

from __future__ import annotations


class AmalgamError(Exception):
    """A mistake that the user can mend: one line that says what, where and what to do.

    The command line prints the message without a traceback and exits with status 2. Anything else that escapes
    is a bug.
    """


class MissingExtraError(AmalgamError):
    """A feature was asked for whose optional packages are not installed."""

    def __init__(self, feature: str, extra: str, cause: ImportError) -> None:
        missing = cause.name or str(cause)
        super().__init__(f'{feature} needs {missing}: pip install "amalgam-edge[{extra}]"')


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
