"""What a long piece of work tells whoever watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]


class Progress(Protocol):
    """A watcher. The library calls it; the command line draws it."""

    def begin(self, n_steps: int) -> None:
        """Say how many steps there will be."""

    def step(self, title: str, total: int | None = None, unit: str = "") -> AbstractContextManager[Advance]:
        """Open the next step; what it yields is called with the number of units just finished."""

    def say(self, message: str) -> None:
        """Show a line that stays."""


class Silent:
    """A watcher that shows nothing."""

    def begin(self, n_steps: int) -> None:
        """Ignore."""

    @contextmanager
    def step(self, title: str, total: int | None = None, unit: str = "") -> Iterator[Advance]:
        """Ignore."""
        yield lambda count: None

    def say(self, message: str) -> None:
        """Ignore."""
