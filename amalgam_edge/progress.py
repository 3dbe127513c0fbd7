"""How long work reports its progress. The library calls :class:`Progress`; the command line draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]  # is called with the number of units that were finished since the last call
Say = Callable[[str], None]  # is called with a line to show


class Progress(Protocol):
    """Receives the steps of a long piece of work."""

    def begin(self, n_steps: int) -> None:
        """Announce how many steps there will be."""

    def step(self, title: str, total: int | None = None, unit: str = "") -> AbstractContextManager[Advance]:
        """Begin the next step; the context yields the function to call as units are finished.

        Args:
            title: Name of the step.
            total: Number of units in it; None where it is not known.
            unit: Name of a unit, such as ``texts``.
        """

    def say(self, message: str) -> None:
        """Show a line that stays."""


class SilentProgress:
    """Shows nothing."""

    def begin(self, n_steps: int) -> None:
        """Ignore."""

    @contextmanager
    def step(self, title: str, total: int | None = None, unit: str = "") -> Iterator[Advance]:
        """Ignore."""
        yield lambda count: None

    def say(self, message: str) -> None:
        """Ignore."""
