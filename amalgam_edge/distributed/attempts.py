"""How often the scoring of a shard was begun and did not end."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4


class Attempts:
    """Marks in a folder that all workers see, which outlive the worker that made them.

    Args:
        folder: of the marks.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, shard: int) -> int:
        """Mark a beginning; how many there were before that did not end."""
        self._folder.mkdir(parents=True, exist_ok=True)
        before = len([*self._marks(shard)])
        (self._folder / f"shard-{shard:06d}.{uuid4().hex}").touch()
        return before

    def end(self, shard: int) -> None:
        """Take the marks of a shard away."""
        for mark in self._marks(shard):
            mark.unlink(missing_ok=True)

    def _marks(self, shard: int) -> list[Path]:
        return [*self._folder.glob(f"shard-{shard:06d}.*")]
