"""Lines of UTF-8 text from a file or a stream: counted, bounded, and refused by their number where they are no text."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from amalgam_edge.errors import AmalgamError
from amalgam_edge.tables.formats import HEAD_BYTES, HOLDS_NUL, check_head

MOST_ROW_BYTES = 2**24  # of a line, and of the lines of one row
TOO_LONG = f"longer than {MOST_ROW_BYTES >> 20} MiB, which no row of text is"
NOT_UTF8 = "not a text file (UTF-8 is expected); if it is Latin-1, convert it: iconv -f latin1 -t utf-8"


class Lines:
    """The lines of a text, each with its line feed. Only a line feed ends a line.

    Args:
        name: What is read, for messages.
        chunks: The text's bytes.
        is_live: Whether they come as somebody writes them, so that reading may have to wait.

    Attributes:
        number: Number of the line that was read last, from 1.
    """

    def __init__(self, name: str, chunks: Iterable[bytes], *, is_live: bool = False) -> None:
        self.name = name
        self.number = 0
        self._chunks = iter(chunks)
        self._is_live = is_live
        self._complete: deque[bytes] = deque()
        self._partial: list[bytes] = []
        self._n_partial = 0
        self._n_row = 0
        self._has_begun = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """The next line.

        Raises:
            AmalgamError: It is no UTF-8, holds a NUL byte, or is longer than a row may be.
            StopIteration: There is none.
        """
        while not self._complete:
            self._read_chunk()
        line = self._complete.popleft()
        self.number += 1
        self._n_row += len(line)
        if self._n_row > MOST_ROW_BYTES:
            raise self.error(TOO_LONG)
        if b"\0" in line:
            raise self.error(HOLDS_NUL)
        try:
            return line.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise self.error(NOT_UTF8) from None

    @property
    def must_wait(self) -> bool:
        """Whether the next line has yet to be written by somebody."""
        return self._is_live and not self._complete

    def end_row(self) -> int:
        """Note that the lines since the last call were those of a whole row; how many bytes they have."""
        size, self._n_row = self._n_row, 0
        return size

    def error(self, what: str) -> AmalgamError:
        """An error about the line that was read last."""
        return AmalgamError(f"{self.name}, line {self.number}: {what}")

    def _read_chunk(self) -> None:
        """Cut the next chunk into lines.

        Raises:
            StopIteration: There is none, and no line is left.
        """
        chunk = next(self._chunks, None)
        if chunk is None:
            if not self._partial:
                raise StopIteration
            self._complete.append(self._taken_partial())
            return
        if not self._has_begun:
            check_head(self.name, chunk[:HEAD_BYTES])
            self._has_begun = True
        *complete, rest = chunk.split(b"\n")
        if complete:
            self._complete.append(self._taken_partial() + complete[0] + b"\n")
            self._complete.extend(line + b"\n" for line in complete[1:])
        if rest:
            self._partial.append(rest)
            self._n_partial += len(rest)
            if self._n_partial > MOST_ROW_BYTES:
                self.number += 1 + len(self._complete)
                raise self.error(TOO_LONG)

    def _taken_partial(self) -> bytes:
        partial = b"".join(self._partial)
        self._partial, self._n_partial = [], 0
        return partial
