"""How often the scoring of a shard was begun and did not end."""

from __future__ import annotations

from uuid import uuid4

from amalgam_edge.storage import files
from amalgam_edge.storage.files import Location


class Attempts:
    """Marks in a folder that all workers see, which outlive the worker that made them.

    Args:
        folder: of the marks.
    """

    def __init__(self, folder: Location) -> None:
        self._folder = folder

    def begin(self, shard: int) -> int:
        """Mark a beginning; how many there were before that did not end."""
        before = len(files.names(self._of(shard)))
        files.write(files.join(self._of(shard), uuid4().hex), b"begun")
        return before

    def end(self, shard: int) -> None:
        """Take the marks of a shard away."""
        files.delete_folder(self._of(shard))

    def _of(self, shard: int) -> Location:
        return files.join(self._folder, f"shard-{shard:06d}")
