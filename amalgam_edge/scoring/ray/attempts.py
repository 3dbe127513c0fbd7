"""Counts of attempts at a shard that were begun and did not end."""

from __future__ import annotations

from uuid import uuid4

from amalgam_edge.storage import files
from amalgam_edge.storage.files import Location


class Attempts:
    """Marks of attempts, as files in a folder that all workers see; they outlive the worker that made them.

    Args:
        folder: Folder of the marks.
    """

    def __init__(self, folder: Location) -> None:
        self._folder = folder

    def begin(self, shard: int) -> int:
        """Mark the beginning of an attempt, and return the number of earlier attempts that did not end."""
        before = len(files.names(self._marks_of(shard)))
        files.write(files.join(self._marks_of(shard), uuid4().hex), b"begun")
        return before

    def end(self, shard: int) -> None:
        """Delete the marks of a shard."""
        files.delete_folder(self._marks_of(shard))

    def _marks_of(self, shard: int) -> Location:
        return files.join(self._folder, f"shard-{shard:06d}")
