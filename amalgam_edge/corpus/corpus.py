"""A corpus: texts in order, a digest of each, and a split that depends on the texts alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np

TEXT, LABEL = "text", "label"
_DIGEST_BYTES = 16
_ROWS_IN_MEMORY = 10_000
_TEXTS_PER_HELD_OUT = 5


@dataclass(frozen=True)
class Corpus:
    """Texts in the order in which they were read, without blank and repeated ones.

    Attributes:
        dataset: Memory-mapped table with the column ``text``, and those columns of labels that were asked for, whose
            names begin with ``label:``.
        digests: 128-bit BLAKE2b hash of each text, ``(n_texts, 2)`` of uint64.
        fingerprint: SHA-256 over the digests, in order.
        n_read: Number of rows before any was dropped.
        n_blank: Number of rows without text.
        n_duplicate: Number of rows dropped because the same text, to the character, came before.
    """

    dataset: datasets.Dataset
    digests: np.ndarray
    fingerprint: str
    n_read: int
    n_blank: int
    n_duplicate: int

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def texts(self) -> Sequence[str]:
        """The texts; each is read from disk when it is asked for."""
        return self.dataset[TEXT]

    def take(self, rows: np.ndarray) -> list[str]:
        """The texts of some rows, in the order of ``rows``."""
        texts = self.texts
        return [texts[int(row)] for row in rows]

    def has_labels(self, column: str) -> bool:
        """Whether a column of gold labels was kept."""
        return label_key(column) in self.dataset.column_names

    def labels(self, column: str) -> list[Any]:
        """The name of each text's gold label in a column: a string, a list of several, or None."""
        return list(self.dataset[label_key(column)])

    def select(self, rows: np.ndarray) -> Corpus:
        """A corpus of some of the texts, in the order of ``rows``; the counts of dropped rows stay as they are."""
        digests = self.digests[rows]
        return replace(
            self, dataset=self.dataset.select(rows), digests=digests, fingerprint=fingerprint_of_digests(digests)
        )

    def split(self, held_out: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train on and rows to hold out, both ascending.

        The texts with the smallest digests are held out, so the same texts are chosen whatever their order.

        Args:
            held_out: Number of texts to hold out. At least one text and at most a fifth of the corpus is held out.
        """
        size = max(1, min(held_out, len(self) // _TEXTS_PER_HELD_OUT))
        by_digest = np.lexsort(self.digests.T)
        return np.sort(by_digest[size:]), np.sort(by_digest[:size])


def label_key(column: str) -> str:
    """The name of a column of labels in a corpus, where it cannot be that of the texts."""
    return f"{LABEL}:{column}"


def digest_texts(table: datasets.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Find blank rows and hash the others, in one pass that holds 10,000 rows in memory.

    Returns:
        Which rows are blank, ``(n_rows,)`` of bool, and the 128-bit BLAKE2b (RFC 7693) of each text,
        ``(n_rows, 2)`` of uint64, zero for blank rows.
    """
    blank = np.zeros(table.num_rows, dtype=bool)
    digests = np.zeros((table.num_rows, 2), dtype="<u8")
    start = 0
    for batch in table.select_columns([TEXT]).iter(batch_size=_ROWS_IN_MEMORY):
        for row, text in enumerate(batch[TEXT], start):
            if text is None or not text.strip():
                blank[row] = True
            else:
                digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
                digests[row] = np.frombuffer(digest, dtype="<u8")
        start += len(batch[TEXT])
    return blank, digests


def fingerprint_of_digests(digests: np.ndarray) -> str:
    """SHA-256 of texts in order, from their digests ``(n_texts, 2)``."""
    return hashlib.sha256(digests.tobytes()).hexdigest()


def first_occurrences(digests: np.ndarray) -> np.ndarray:
    """Which rows hold a digest that no row before them holds, ``(n_rows,)`` of bool."""
    order = np.lexsort(digests.T)  # a stable sort: equal digests stay in the order of the corpus
    differs_from_previous = np.zeros(len(digests), dtype=bool)
    differs_from_previous[:1] = True
    for column in digests.T:
        ordered = column[order]
        differs_from_previous[1:] |= ordered[1:] != ordered[:-1]
    first = np.empty(len(digests), dtype=bool)
    first[order] = differs_from_previous
    return first
